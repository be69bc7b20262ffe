"""A run's tuned model as a plain Hugging Face folder, checked against the run's own answers.

python run_swift.py export outputs/RUN

Not covered: classification heads, quantised weights, which a merged adapter would be rounded away in, and
models whose code is in their own repository.
"""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import PeftModel
from swift.pipelines.utils import prepare_model_template
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from workflows.commands.export.model_card import is_place, write_model_card
from workflows.core.errors import UserError
from workflows.core.files import open_whole, read_json, read_jsonl, sha256, write_json
from workflows.core.rows import Row, Rows, question
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen, as_typed
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.experiment.experiment import Experiment, load_experiment, save_experiment
from workflows.experiment.options import DataOptions
from workflows.inference.infer import answer_batches, has_own_code, merge_adapter
from workflows.inference.predictions import join_answers
from workflows.inference.scorer import Greedy, prompt_tokens
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import fetch_model, with_local_model
from workflows.model.machine import find_machine
from workflows.model.patches import use_plain_attention_for_short_rows

DIFFERENT_SHARE = 0.005  # of outputs; in bf16 and fp16 a near tie may fall the other way
WITHOUT_THINKING = "{%- set enable_thinking = false -%}\n"
WITH_SYSTEM = (
    "{%%- if messages[0]['role'] != 'system' -%%}"
    "{%%- set messages = [{'role': 'system', 'content': %s}] + messages -%%}{%%- endif -%%}\n"
)
CONTINUED = (
    "{%- for message in messages -%}{{ message['content'] }}{%- endfor -%}"  # as base models are asked
)


def export(run: RunFolder, output: Path | None, screen: Screen) -> Path:
    """Write the run's tuned model into `output` (default: export/ in the run) with tokenizer, chat template
    and model card, compare its answers to the test rows with the run's; return the folder.

    A folder that holds this very model already is left as it is.  Raises UserError where the folder is in
    use, the model cannot be had or merged, or too many answers differ; nothing is left of it then.
    """
    experiment = load_experiment(run.experiment)
    if experiment.has_head:
        raise UserError(f"export: {run.path} has a head; only models that write their answers are exported.")
    folder = (output or run.path / "export").expanduser().resolve()
    checkpoint = checkpoint_of(run)
    made_of = {"checkpoint": checkpoint.name, "answers_sha256": sha256(run.predictions("tuned"))}
    if folder.exists():
        written = RunFolder(folder).exported
        known = read_json(written) if written.exists() else {}
        if not made_of.items() <= known.items():
            raise UserError(f"{folder}: is there already; name another with --output, or remove it.")
        screen.say(f"exported before: {as_typed(folder)}")
        return folder
    machine = find_machine()
    if run.environment.exists():  # a run that was given away may lack it
        machine = replace(machine, torch_dtype=read_json(run.environment)["machine"]["torch_dtype"])
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        ready, test = with_local_model(experiment), read_jsonl(run.split("test"))
        arguments = build_infer_arguments(ready, machine, run.split("test"), part / "none", checkpoint)
        template, equal = _save(arguments, part, test)
        gc.collect()  # the merged model's memory
        # `torch_dtype`: `dtype` since transformers 4.56, which older ones do not know.
        model = AutoModelForCausalLM.from_pretrained(part, torch_dtype="auto").to(machine.device)
        use_plain_attention_for_short_rows(model)  # as in the run
        answers = Rows()
        with screen.progress("comparing", total=len(test)) as bar:
            request = arguments.get_request_config()
            for batch in answer_batches(model, template, test, experiment.labels, request):
                answers += batch
                bar.update(len(batch))
        tuned = read_jsonl(run.predictions("tuned"))
        check = _check(part, model, test, tuned, join_answers(test, answers, experiment.labels))
        counts = {"prompts": len(test), "prompts_equal": equal}
        write_json(RunFolder(part).exported, {**made_of, **counts, **check})
        write_model_card(part, run, experiment, fetch_model(experiment.arguments), check)
        with open_whole(RunFolder(part).experiment) as file:
            file.write(save_experiment(without_places(experiment)))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def without_places(experiment: Experiment) -> Experiment:
    """What `predict` and `serve` must know of the experiment, without the paths of this machine."""
    card = experiment.model
    named = {**card.arguments, "model": Path(str(card.arguments["model"])).name}
    tuning = replace(
        experiment.tuning,
        method=experiment.method,
        model=None,
        prompt=None,
        from_run=None,
        unlabelled=None,
        set=tuple(each for each in experiment.tuning.set if not is_place(each.partition("=")[2])),
    )
    return replace(
        experiment,
        data=DataOptions(neutral=experiment.data.neutral),
        tuning=tuning,
        model=replace(card, arguments=named),
        prompt=replace(experiment.prompt, file=None),
        preset={name: value for name, value in experiment.preset.items() if not is_place(value)},
        overrides={name: value for name, value in experiment.overrides.items() if not is_place(value)},
        mixed=(),
    )


def _save(arguments: Any, part: Path, test: Rows) -> tuple[Any, int]:
    """Write merged weights, tokenizer, chat template and generation config; return SWIFT's template, and how
    many test prompts the chat template gives to the token.
    """
    model, template = prepare_model_template(arguments)
    if has_own_code(model):
        raise UserError("export: this model's code is in its own repository, which is not covered here.")
    merged = merge_adapter(model)
    if isinstance(merged, PeftModel):
        raise UserError("export: a quantised model cannot take its adapter in; tune it unquantised.")
    greedy = Greedy.of(merged, template, arguments.get_request_config())
    tokenizer = template.tokenizer
    merged.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        repetition_penalty=greedy.repetition_penalty,
        eos_token_id=sorted(greedy.end_tokens),
        pad_token_id=tokenizer.pad_token_id,
    )
    merged.save_pretrained(part)
    tokenizer.chat_template, equal = choose_chat_template(tokenizer, template, test)
    template.processor.save_pretrained(part)  # of a model that sees pictures too, more than its tokenizer
    tokenizer.save_pretrained(part)
    return template, equal


def choose_chat_template(tokenizer: Any, template: Any, rows: Rows) -> tuple[str, int]:
    """The chat template whose prompts are those that the model was tuned with, and for how many rows.

    The tokenizer's own, the same with thinking off or with SWIFT's system prompt, or the text alone.  Raises
    UserError where none fits; prompts that were cut to the model's length may differ.
    """
    own = tokenizer.chat_template or CONTINUED
    system = json.dumps(template.template_meta.default_system or "", ensure_ascii=False)
    wanted, asked = [prompt_tokens(template, row) for row in rows], [question(row) for row in rows]
    equal: dict[str, int] = {}
    for form in (own, WITHOUT_THINKING + own, WITH_SYSTEM % system + own, CONTINUED):
        try:
            found = tokenizer.apply_chat_template(
                asked, chat_template=form, add_generation_prompt=True, return_dict=False
            )
        except TemplateError:  # as templates do with a role that they do not know
            continue
        equal[form] = sum(a == b for a, b in zip(wanted, found, strict=True))
    best = max(equal, key=lambda form: equal[form])
    if len(rows) - equal[best] > DIFFERENT_SHARE * len(rows):
        raise UserError(
            "export: no chat template gives the prompts that the model was tuned with (the best "
            f"{equal[best]} of {len(rows)}); without --set system or template it would."
        )
    return best, equal[best]


def _check(part: Path, model: Any, test: Rows, tuned: Rows, now: Rows) -> dict[str, Any]:
    """How the written model's answers `now` differ from those of the run, `tuned`.

    Raises UserError where more differs than near ties explain: nothing in fp32, one in 200 in bf16 and fp16.
    """
    differing = [
        {"id": before["id"], "run": before["output"], "export": after["output"], "margin": _margin(before)}
        for before, after in zip(tuned, now, strict=True)
        if before["output"] != after["output"]
    ]
    exact = model.dtype == torch.float32
    if len(differing) > (0 if exact else DIFFERENT_SHARE * len(test)):
        raise UserError(
            f"export: the written model answers {len(differing)} of {len(test)} test rows otherwise than the "
            f"run did, {differing[0]['id']} first; nothing was kept. Was the run made on another machine?"
        )
    row, surest = max(zip(test, tuned, strict=True), key=lambda pair: _margin(pair[1]))
    tokenizer = AutoTokenizer.from_pretrained(part)
    inputs = tokenizer.apply_chat_template(
        question(row), add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    written = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    generated = tokenizer.decode(written, skip_special_tokens=True)
    if generated != surest["output"]:
        raise UserError(
            f"export: asked by its chat template the written model generates {generated!r} for test row "
            f"{row['id']}, the run had {surest['output']!r}; nothing was kept."
        )
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "test_rows": len(test),
        "outputs_differing": differing,
        "generated": {"id": row["id"], "output": generated},
    }


def _margin(row: Row) -> float:
    """How far the likeliest label's share of the probability is above the next one's."""
    first, second, *_ = sorted(row["probabilities"].values(), reverse=True)
    return first - second
