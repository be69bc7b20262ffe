"""The door of the inference stage: each test row's greedy answer and label probabilities, joined to its gold
label.
"""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from swift.infer_engine import RequestConfig
from swift.pipelines.utils import prepare_model_template
from tqdm import tqdm

from workflows.core.errors import UserError
from workflows.core.files import json_line, read_jsonl, write_json, write_jsonl
from workflows.core.rows import Rows, conversation
from workflows.core.run_folder import SPLITS, RunFolder, checkpoint_of
from workflows.data.splits import sample_rows
from workflows.experiment.cards import MAX_NEW_TOKENS, Label
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.inference.head import score_rows
from workflows.inference.plain_scorer import answer_by_engine
from workflows.inference.predictions import (
    DIVERGED,
    answer_loss,
    head_loss,
    join_answers,
    join_scores,
    validation_figures,
)
from workflows.inference.scorer import Greedy, prompt_tokens, score_prompts
from workflows.inference.swift_engine import ask_swift, limit_vllm, read_whole_lines, without_prefix
from workflows.inference.threshold import fit_threshold, likelier_label, shifted
from workflows.model.arguments import build_infer_arguments, truncation_of_answers
from workflows.model.folder import label_tokens, with_local_model
from workflows.model.machine import Machine, let_go_of_memory, machine_of
from workflows.model.ranks import gathered, rank, ranks, share, wait_for_all

PART = ".part.jsonl"  # ends the names of what each of several processes answered
PROMPT_WORK = 20  # characters' worth of work that an answer costs beside its review


def answer_untuned(job: Job) -> dict[str, Any]:
    """Let the untouched model answer every test row; write predictions/zero_shot.jsonl as it answers,
    zero_shot_labels.jsonl as its probabilities say, and zero_shot_threshold.jsonl as they say once a bias a
    label is fitted to the labelled rows (threshold.json).

    Returns the seconds of each; raises as `answer_rows` does.
    """
    run, experiment, machine = job.run, job.experiment, machine_of(job)
    answered, kept = (
        run.path / "predictions" / f".{each}-{job.inputs}.jsonl" for each in ("zero_shot", "labelled")
    )
    resumed, start = _is_begun(answered), time.monotonic()
    written = answer_rows(job, machine, "zero_shot", read_jsonl(run.split("test")), None, answered)
    clock = [time.monotonic()]
    asked = {"answering": round(clock[0] - start, 2), "resumed": resumed}
    labelled, known = labelled_rows(run, experiment)
    read = answer_rows(job, machine, "labelled rows", labelled, None, kept)
    if rank() > 0:
        return {}
    clock.append(time.monotonic())
    threshold = fit_threshold(read)
    write_jsonl(run.predictions("zero_shot"), written)
    write_jsonl(run.predictions("zero_shot_labels"), map(likelier_label, written))
    write_jsonl(run.predictions("zero_shot_threshold"), (shifted(row, threshold) for row in written))
    clock.append(time.monotonic())
    write_json(run.threshold, {"rows": {"labelled": known, "used": len(labelled)}, **threshold})
    for path in (answered, kept):  # only now: until then an interrupted call has both to go on from
        path.unlink()
    fitted = {**dict(zip(("features", "fitting"), np.diff(clock).round(2).tolist(), strict=True)), **asked}
    return {"seconds": {"zero_shot": asked, "zero_shot_labels": asked, "zero_shot_threshold": fitted}}


def labelled_rows(run: RunFolder, experiment: Experiment) -> tuple[Rows, int]:
    """The training and validation rows whose labels the untuned model is fitted to, at most --probe-rows, and
    how many there are.
    """
    rows = [row for split in SPLITS[:2] for row in read_jsonl(run.split(split))]
    return sample_rows(rows, experiment.tuning.probe_rows, experiment.data.data_seed), len(rows)


def answer_tuned(job: Job) -> dict[str, Any]:
    """Let the tuned model answer every test row; write predictions/tuned.jsonl.

    Answers of an interrupted call with the same `job.inputs` are kept, and only the other rows are asked for.
    Returns the seconds; raises as `answer_rows` does.
    """
    run, machine, checkpoint = job.run, machine_of(job), checkpoint_of(job.run)
    answered = run.path / "predictions" / f".tuned-{job.inputs}.jsonl"
    start, resumed = time.monotonic(), _is_begun(answered)
    predictions = answer_rows(job, machine, "tuned", read_jsonl(run.split("test")), checkpoint, answered)
    if rank() > 0:
        return {}
    write_jsonl(run.predictions("tuned"), predictions)
    answered.unlink()
    return {"seconds": {"tuned": {"answering": round(time.monotonic() - start, 2), "resumed": resumed}}}


def _is_begun(answered: Path) -> bool:
    """Whether an interrupted call left answers: in the file, of SWIFT's engine or a process beside it."""
    return any(answered.parent.glob(f"{answered.stem}.*"))


def answer_rows(
    job: Job, machine: Machine, title: str, rows: Rows, adapter: Path | None, answered: Path
) -> Rows:
    """What the model says to rows of a data file, as rows of predictions/*.jsonl.

    `adapter`: the checkpoint folder, or None for the untouched model; `answered`: a file that keeps the
    answers of an interrupted call, and is left to the caller to remove.  Of several processes each answers
    its share, and all return all.  Raises UserError as training does; RuntimeError where a row was not
    answered exactly once.
    """
    experiment, screen, base = job.experiment, job.screen, job.base
    raw, questions = answered.with_suffix(".swift.jsonl"), answered.with_suffix(".questions.jsonl")
    answered.parent.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        _join_parts(answered)
    wait_for_all()
    done = {row["id"] for row in read_whole_lines(answered)}
    remaining = [row for row in rows if row["id"] not in done]
    if ranks() > 1:  # the longest first, so that each process has about the same work
        remaining = share(sorted(remaining, key=work_of, reverse=True))
    if remaining:
        arguments = build_infer_arguments(with_local_model(experiment), machine, questions, raw, adapter)
        outputs: dict[str, Any] | None = None
        if experiment.tuning.engine != "fast":
            if experiment.tuning.engine == "vllm":  # not run yet: it needs a GPU
                base.release()  # vLLM takes its share of the GPU's memory at once
                let_go_of_memory()
                limit_vllm(arguments, rows)
            with screen.progress(f"{title}: asking SWIFT", total=len(rows)) as bar:
                outputs = ask_swift(rows, arguments, questions, raw, bar)
        work = {row["id"]: work_of(row) for row in rows}  # long rows are answered first
        before = sum(work[id] for id in done)
        own = before + sum(work[row["id"]] for row in remaining)
        with screen.progress(f"{title}: answering", own, counted=False) as bar:
            bar.initial = bar.n = before
            with base.reused():
                model, template = prepare_model_template(arguments)
            if isinstance(model, PeftModel):
                base.release()  # what is merged below is the base model no more
                model = merge_adapter(model)
            request = arguments.get_request_config()
            part = answered if ranks() == 1 else answered.with_suffix(f".{rank()}{PART}")
            with open(part, "a", encoding="utf-8") as file:
                for answers in ask_model(model, template, remaining, experiment, request, outputs):
                    file.writelines(map(json_line, answers))
                    file.flush()
                    bar.update(sum(work[answer["id"]] for answer in answers))
    raw.unlink(missing_ok=True)
    wait_for_all()
    if rank() == 0:
        _join_parts(answered)
    wait_for_all()
    answers = read_whole_lines(answered)
    wait_for_all()  # the first one's caller removes the file, which all have read now
    return as_predictions(rows, answers, experiment)


def ask_model(
    model: Any,
    template: Any,
    rows: Rows,
    experiment: Experiment,
    request: RequestConfig,
    outputs: dict[str, Any] | None = None,
) -> Iterator[Rows]:
    """What the model says of rows, batch by batch, by its head or in words; arguments as of `score_rows` and
    `answer_batches`.
    """
    if experiment.has_head:
        return score_rows(model, template, rows, experiment.tuning.window, outputs)
    ended = experiment.ends_after_label
    return answer_batches(model, template, rows, experiment.labels, request, outputs, ended)


def as_predictions(rows: Rows, answers: Rows, experiment: Experiment) -> Rows:
    """The predictions of rows, made of what `ask_model` gave of them in any order."""
    if experiment.has_head:
        return join_scores(rows, answers, experiment)
    return join_answers(rows, answers, experiment.labels)


def _join_parts(answered: Path) -> None:
    """Put behind `answered` what several processes have answered, also of a call that was interrupted, here
    or while it did this.
    """
    parts = sorted(answered.parent.glob(f"{answered.stem}.*{PART}"))
    done = {row["id"] for row in read_whole_lines(answered)} if parts else set()
    for part in parts:
        with open(answered, "a", encoding="utf-8") as file:
            for row in read_whole_lines(part):
                if row["id"] not in done:
                    file.write(json_line(row))
                    done.add(row["id"])
        part.unlink()


def has_own_code(model: Any) -> bool:
    """Whether the model's code is not of transformers, as the first Qwen's."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return not type(base).__module__.startswith("transformers.")


def is_quantised(model: Any) -> bool:
    """Whether the model's weights are in few bits, which merging would round."""
    return getattr(model.config, "quantization_config", None) is not None


def merge_adapter(model: Any) -> Any:
    """The model with its LoRA adapter added to the weights, which saves two small products a layer.

    Left as it is where there is no adapter, or where quantised weights would lose by it.
    """
    if not isinstance(model, PeftModel) or is_quantised(model):
        return model
    return model.merge_and_unload()


def answer_batches(
    model: Any,
    template: Any,
    rows: Rows,
    labels: tuple[Label, ...],
    request: RequestConfig,
    outputs: dict[str, str] | None = None,
    ended: bool = True,
) -> Iterator[Rows]:
    """{"id", "output", "log_probabilities"} of rows of a data file, batch by batch.

    `outputs`: output by id, where SWIFT was asked already; None lets the fast scorer answer, or SWIFT's
    engine where the model's code is not of transformers.  `ended`: as `score_prompts` has it.
    """
    answers_of_labels = label_tokens(template, labels)
    if outputs is not None or has_own_code(model):
        scored = answers_of_labels if ended else [tokens[:-1] for tokens in answers_of_labels]
        yield from answer_by_engine(model, template, rows, scored, request, outputs)
        return
    prompts = [prompt_tokens(template, row) for row in rows]
    greedy = Greedy.of(model, template, request)
    pad = template.tokenizer.pad_token_id

    @cache  # most answers are one of the labels' words
    def written(tokens: tuple[int, ...]) -> str:
        """As SWIFT decodes: without padding tokens, stop words and end mark."""
        kept = [token for token in tokens if token != pad]
        return without_prefix(template, template.decode_generate_ids(kept))

    for answers in score_prompts(model, prompts, answers_of_labels, greedy, ended):
        yield [
            {
                "id": rows[answer.row]["id"],
                "output": written(tuple(answer.tokens)),
                "log_probabilities": answer.log_probabilities,
            }
            for answer in answers
        ]


def measure_validation(
    model: Any, template: Any, rows: Rows, experiment: Experiment, bar: tqdm
) -> dict[str, float]:
    """Loss and figures of the model's answers to validation rows, from one pass, read as test answers are.

    The loss is the answers' cross-entropy or the head's, without what a recipe adds to it.  `bar` moves on by
    `work_of` each row.
    """
    task, answers, own = experiment.dataset.task, Rows(), share(rows)
    weights = {row["id"]: work_of(row) for row in rows}
    # Of a model that sees pictures too, SWIFT's hook on its inputs in training is off within this.
    with template.generate_context(), merged_for_a_while(model):
        template = copy.copy(template)
        # As in the test, and as long.
        template.truncation_strategy = truncation_of_answers(experiment)
        room = 0 if experiment.has_head else MAX_NEW_TOKENS
        template.max_length = template.model_info.max_model_len - room
        request = RequestConfig(max_tokens=MAX_NEW_TOKENS, temperature=0)
        for batch in ask_model(model, template, own, experiment, request):
            answers += batch
            bar.update(ranks() * sum(weights[answer["id"]] for answer in batch))
    answers = gathered(answers)
    predictions = as_predictions(rows, answers, experiment)
    if experiment.has_head:
        return {"loss": head_loss(predictions, task), **validation_figures(predictions, task)}
    lengths = [len(tokens) - 1 for tokens in label_tokens(template, experiment.labels)]
    if experiment.ends_after_label:
        lengths = [trained_tokens(template, rows, index) for index in range(len(lengths))]
    # The loss is a mean over tokens, which differ from prompt to prompt; that of the labels is one over rows.
    figures = {"label_loss": head_loss(predictions, task), **validation_figures(predictions, task)}
    return {"loss": answer_loss(rows, answers, lengths), **figures}


def trained_tokens(template: Any, rows: Rows, label: int) -> int:
    """How many tokens of an answer with this label SWIFT's loss is a mean over; 1 where no row has it.

    It counts what follows the end mark too, a line's end for a Qwen, of which a model is sure.
    """
    template = copy.copy(template)
    template.set_mode("train")
    row = next((row for row in rows if row["label"] == label), None)
    if row is None:
        return 1
    return sum(token != -100 for token in template.encode({"messages": conversation(row)})["labels"])


def work_of(row: dict[str, Any]) -> int:
    """How much work an answer to a row is, about, in characters read: for progress and the time left."""
    return len(row["review"]) + PROMPT_WORK


@contextmanager
def merged_for_a_while(model: Any) -> Iterator[None]:
    """Within this, a LoRA adapter is part of the weights, which saves its products; afterwards each weight is
    what it was to the last bit, since it is put back, not computed back.

    Left as it is where `merge_adapter` would leave it, and for adapters that are not LoRA's.  Raises
    UserError where the adapter holds what is no number.
    """
    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    if not isinstance(model, PeftModel) or is_quantised(model):
        layers = []
    kept = [(layer, layer.get_base_layer().weight.data) for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                _merge(layer)
        yield
    finally:
        for layer, weight in kept:
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()


def _merge(layer: LoraLayer) -> None:
    try:
        layer.merge(safe_merge=True)  # into a copy of the weights
    except ValueError as error:  # peft's, which looks for what is not finite
        raise UserError(f"the adapter's weights are not all numbers: {DIVERGED}") from error
