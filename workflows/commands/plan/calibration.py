"""What a run would take on this machine: its own stages, run on a few rows with a model of few layers.

The model is made from the config alone, with random weights and few of its decoder layers, once with fewer
and once with more; every figure grows linearly with the layers, which gives that of the whole model.  The
stages are those of a real run (inference/infer.py, tuning/train.py): all that they do is timed.

Not covered: quantised weights, and more than one GPU.
"""

import copy
import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import torch
from swift.callbacks import TrainerCallback, callbacks_map
from swift.pipelines.utils import prepare_model_template
from transformers import AutoConfig, AutoModelForCausalLM

from workflows.core.files import write_jsonl
from workflows.core.rows import Rows, conversation
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.experiment.model_cards import runs_own_code
from workflows.inference.infer import infer, measure_validation
from workflows.model.arguments import build_infer_arguments, merged_arguments
from workflows.model.loaded import LoadedModel
from workflows.model.machine import Machine, give_back_freed_memory, now, peak_memory, reset_peak_memory
from workflows.model.tokens import count_tokens
from workflows.tuning.train import train

LAYERS = (2, 8)  # far enough apart that the noise of a figure stays small when it is drawn on to 24 layers
STEPS = 4  # timed, after a first one on the widest batch
CHUNK = 16  # test rows of like length that stay together, as the scorer's batches are of rows of like length
CHUNKS = {"val": 3, "test": 4}
CLOCK = "calibration_clock"
# One epoch over rows that are already in order, and all that an evaluation does once, at its end.
SHORT = {
    "train_dataloader_shuffle": "false",
    "dataset_shuffle": "false",
    "group_by_length": "false",
    "gradient_accumulation_steps": "1",
    "num_train_epochs": "1",
    "max_steps": "-1",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "callbacks": CLOCK,
}

Figures = dict[str, float]
Batch = tuple[list[int], int]  # positions of rows, and the tokens that are computed of them


def calibrate(
    rows: dict[str, Rows],
    ready: Experiment,
    machine: Machine,
    batches: list[Batch],
    folder: Path,
    screen: Screen,
) -> tuple[Figures, Figures]:
    """Seconds and bytes of the whole model's stages, drawn on from two models of few layers.

    `ready`: with its model as a local folder, weights or not; `rows`: of each split, the training rows that
    are used; `batches`: positions in these of an epoch's batches, and the tokens that are computed of each,
    most first; `folder`: takes the small models, one at a time (0.6 GB for a Qwen2.5-0.5B).
    Seconds: of `load`, `answering` (all test rows once), `train` (its start and first step), `token` (of the
    other steps) and `evaluation`; bytes: at most in use in `zero_shot`, `train` and `tuned`, on a GPU its
    own.
    """
    described = Path(ready.model.arguments["model"])
    config = AutoConfig.from_pretrained(described, trust_remote_code=runs_own_code(described))
    dtype = getattr(torch, str(merged_arguments(ready, machine)["torch_dtype"]))
    whole = config.num_hidden_layers
    first, *others = batches
    full = [batch for batch in others if len(batch[0]) == len(first[0])]
    count = min(STEPS, len(full))
    sample = [first, *(full[int((at + 0.5) * len(full) / count)] for at in range(count))]
    chosen = {"train": [rows["train"][at] for places, _ in sample for at in places]}
    chosen |= {name: _spread(rows[name], count) for name, count in CHUNKS.items()}
    tuning = replace(ready.tuning, best_by="loss")
    points: dict[int, tuple[Figures, Figures]] = {}
    for layers in sorted({min(each, whole) for each in LAYERS}):
        small = RunFolder(folder / f"layers-{layers}")
        for name, each in chosen.items():
            write_jsonl(small.split(name), each)
        weights = small.path / "model"
        _make_model(config, layers, dtype, described, weights)
        card = replace(ready.model, arguments={**ready.model.arguments, "model": str(weights)})
        short = replace(ready, model=card, tuning=tuning, overrides={**ready.overrides, **SHORT})
        job = Job(small, short, screen, LoadedModel())
        points[layers] = _measure(job, machine, [computed for _, computed in sample], chosen["val"])
        shutil.rmtree(small.path)
    low, high = min(points), max(points)
    further = (whole - high) / max(1, high - low)
    seconds, peaks = (
        {name: above + max(0.0, above - points[low][kind][name]) * further for name, above in each.items()}
        for kind, each in enumerate(points[high])
    )
    for name, split in (("answering", "test"), ("evaluation", "val")):
        seconds[name] *= len(rows[split]) / len(chosen[split])
    return seconds, peaks


def _spread(rows: Rows, chunks: int) -> Rows:
    """Rows of a data file, about `chunks` times CHUNK, evenly spread over their lengths; all where few."""
    if len(rows) <= chunks * CHUNK:
        return rows
    ordered = sorted(rows, key=lambda row: sum(len(turn["content"]) for turn in conversation(row)))
    starts = [int((chunk + 0.5) * len(ordered) / chunks - CHUNK / 2) for chunk in range(chunks)]
    return [row for start in starts for row in ordered[start : start + CHUNK]]


def _make_model(config: Any, layers: int, dtype: torch.dtype, described: Path, folder: Path) -> None:
    """Write a model of random weights with the first `layers` layers of `config` into `folder`, and the files
    beside the weights from `described`.
    """
    few = copy.deepcopy(config)
    few.num_hidden_layers = layers
    if getattr(few, "layer_types", None):
        few.layer_types = few.layer_types[:layers]
    ignored = shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.pt", "*.gguf", ".*")
    shutil.copytree(described, folder, ignore=ignored)
    # `torch_dtype`: `dtype` since transformers 4.56, which older ones do not know.
    model = AutoModelForCausalLM.from_config(
        few, torch_dtype=dtype, trust_remote_code=runs_own_code(described)
    )
    model.save_pretrained(folder)


def _measure(job: Job, machine: Machine, computed: list[int], val: Rows) -> tuple[Figures, Figures]:
    """Seconds and bytes of one small model, on the rows of its run folder, which compute so many tokens a
    batch.
    """
    run, experiment, screen, base = job.run, job.experiment, job.screen, job.base
    seconds: Figures = {}
    peaks: Figures = {}
    marks: list[float] = []  # the ends of steps, of the evaluation, and of the checkpoint after it

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            marks.append(now())

        on_train_end = on_step_end

    def measure(model: Any, template: Any) -> dict[str, float]:
        with screen.progress("evaluating", total=None, counted=False) as bar:
            measured = measure_validation(model, template, val, experiment, bar)
        marks.append(now())
        return measured

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        reset_peak_memory()
        start = now()
        yield
        seconds[name] = now() - start
        found = peak_memory()
        peaks[name] = found.get("gpu", found["ram"])

    callbacks_map[CLOCK] = Clock
    count_tokens(job)
    arguments = build_infer_arguments(experiment, machine, run.split("test"), run.path / "none", None)
    with timed("load"), base.reused():
        prepare_model_template(arguments)
    with timed("zero_shot"):
        infer(job, machine, "zero_shot", None)
    with timed("train"):
        summary = train(job, machine, measure, len(val))
    with timed("tuned"):
        infer(job, machine, "tuned", run.sft / summary["checkpoint"])
    base.release()
    gc.collect()
    give_back_freed_memory()  # the next peak would begin with it
    *steps, evaluated, saved = marks
    # Medians and minima: what else the machine does for a moment is not the run's.
    others = [later - sooner for sooner, later in pairwise(steps)]
    return {
        "load": seconds["load"],
        "answering": min(seconds["zero_shot"], seconds["tuned"]),
        "train": seconds["train"] - (saved - steps[0]),
        "token": median(map(truediv, others, computed[1:])) if others else 0.0,
        "evaluation": evaluated - steps[-1],
    }, {name: peaks[name] for name in ("zero_shot", "train", "tuned")}
