"""LoRA as a short script with peft and transformers' Trainer does it: no evaluations, rows shuffled, the last
step kept.  Study `preset` holds SWIFT's training, and what is changed in it here, against this.

Rows are encoded by SWIFT's template, so that prompts are the same.  Not covered: going on after a stop.
"""

from typing import Any

from peft import LoraConfig, get_peft_model
from swift.utils import get_model_parameter_info
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from workflows.core.files import read_json, read_jsonl, write_json
from workflows.core.rows import conversation
from workflows.experiment.job import Job
from workflows.model.arguments import build_sft_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine
from workflows.model.swift_names import TRAINERS


def train_plainly(job: Job, machine: Machine) -> dict[str, Any]:
    """Tune the model on train.jsonl; write sft/ and training.json, return the latter's content.

    Raises UserError where the model cannot be had or SWIFT refuses a value.
    """
    run, swift = job.run, build_sft_arguments(job.run, with_local_model(job.experiment), machine)
    own, template = swift.training_args, swift.get_template()
    template.set_mode("train")
    tokens = read_json(run.tokens)["splits"]
    over = {*tokens["train"]["over_max_length"]["ids"]}
    rows = []
    for row in read_jsonl(run.split("train")):
        if row["id"] not in over:
            encoded = template.encode({"messages": conversation(row)})
            rows.append({name: encoded[name] for name in ("input_ids", "labels")})
    set_seed(own.seed)
    model = AutoModelForCausalLM.from_pretrained(swift.model, torch_dtype=swift.torch_dtype)
    lora = LoraConfig(
        r=swift.lora_rank,
        lora_alpha=swift.lora_alpha,
        lora_dropout=swift.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    arguments = TrainingArguments(
        output_dir=str(run.sft),
        save_strategy="no",
        report_to=own.report_to,
        **{name: getattr(own, name) for name in TRAINERS},
    )
    arguments.max_epochs = None  # SWIFT's patch of transformers' trainer asks for it
    with job.screen.progress("training", total=1, counted=False) as bar:
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(template.tokenizer),
            callbacks=[_Watch(bar)],
        )
        trainer.train()
    checkpoint = f"checkpoint-{trainer.state.global_step}"
    model.save_pretrained(str(run.sft / checkpoint))
    counts = {"given": tokens["train"]["rows"], "used": len(rows), "left_out": sorted(over)}
    summary = {
        "checkpoint": checkpoint,
        "best_by": {"metric": "loss", "value": None},
        "steps": trainer.state.global_step,
        "evaluated_rows": 0,
        "rows": {"train": counts, "val": {"given": tokens["val"]["rows"], "used": 0, "left_out": None}},
        "parameters": get_model_parameter_info(model),
        "log_history": trainer.state.log_history,
    }
    write_json(run.training, summary)
    return summary


class _Watch(TrainerCallback):
    """Moves the bar on."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After each optimiser step."""
        self.bar.total = state.max_steps
        self.bar.update(state.global_step - self.bar.n)
