"""What a run would take on this machine: its own stages, run on a few rows with a model of few layers.

The model is made from the config alone, with random weights and few of its decoder layers, once with fewer
and once with more; every figure grows linearly with the layers, which gives that of the whole model.  The
stages are those of a real run (inference/infer.py, tuning/train.py): all that they do is timed.

Not covered: quantised weights, and more than one GPU.
"""

import copy
import gc
import shutil
import time
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
from transformers import AutoConfig

from workflows.core.files import read_jsonl, write_jsonl
from workflows.core.rows import Rows, conversation
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.experiment.model_cards import runs_own_code
from workflows.inference.infer import infer, measure_validation
from workflows.model.arguments import build_infer_arguments, merged_arguments
from workflows.model.loaded import LoadedModel, carries_state, class_for
from workflows.model.machine import Machine, give_back_freed_memory, peak_memory, reset_peak_memory
from workflows.model.tokens import count_tokens
from workflows.tuning.train import train

LAYERS = (2, 8)  # far enough apart that the noise of a figure stays small when it is drawn on to 24 layers
BLOCKS = (4, 8)  # of a model like Qwen3.5: three of four layers carry a state on, the fourth has attention
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
) -> Figures:
    """Seconds and bytes of the whole model's stages, drawn on from two models of few layers.

    `ready`: with its model as a local folder, weights or not; `rows`: of each split, the training rows that
    are used; `batches`: positions in these of an epoch's batches, and the tokens that are computed of each,
    most first; `folder`: takes the small models, one at a time (0.6 GB for a Qwen2.5-0.5B).
    The figures: seconds of `load`, `answering` (all test rows once), `start` (of training, with its first
    step), `token` (of the other steps), `evaluation` and `save` (of one); and the bytes at
    most in use in `zero_shot`, `start` and `tuned`, as `<name>_ram` and, where there is a GPU, `<name>_gpu`.
    """
    config = AutoConfig.from_pretrained(_folder(ready), trust_remote_code=runs_own_code(_folder(ready)))
    whole = config.get_text_config().num_hidden_layers
    sample = sample_batches(batches)
    chosen = {"train": [rows["train"][at] for places, _ in sample for at in places]}
    chosen |= {name: spread(rows[name], count) for name, count in CHUNKS.items()}
    points = []
    few = BLOCKS if carries_state(config.get_text_config()) else LAYERS
    for layers in sorted({min(each, whole) for each in few}):
        small = RunFolder(folder / f"layers-{layers}")
        for name in SPLITS:
            write_jsonl(small.split(name), chosen[name])
        dtype = str(merged_arguments(ready, machine)["torch_dtype"])
        weights = make_model(config, layers, dtype, _folder(ready), small.path / "model")
        card = replace(ready.model, arguments={**ready.model.arguments, "model": str(weights)})
        tuning = replace(ready.tuning, best_by="loss")
        short = replace(ready, model=card, tuning=tuning, overrides={**ready.overrides, **SHORT})
        points.append((layers, _measure(small, short, machine, [computed for _, computed in sample], screen)))
        shutil.rmtree(small.path)
    drawn_on = {
        name: extrapolate([(layers, figures[name]) for layers, figures in points], whole)
        for name in points[0][1]
    }
    scale = {name: len(rows[name]) / len(chosen[name]) for name in CHUNKS}
    return {
        **drawn_on,
        "answering": drawn_on["answering"] * scale["test"],
        "evaluation": drawn_on["evaluation"] * scale["val"],
    }


def sample_batches(batches: list[Batch]) -> list[Batch]:
    """The first batch, and STEPS others as full (or all) evenly spread over the rest, sorted by width."""
    first = batches[0]
    others = [batch for batch in batches[1:] if len(batch[0]) == len(first[0])]
    places = range(min(STEPS, len(others)))
    return [first, *(others[int((place + 0.5) * len(others) / len(places))] for place in places)]


def spread(rows: Rows, chunks: int) -> Rows:
    """Rows of a data file, about `chunks` times CHUNK, evenly spread over their lengths; all where few."""
    if len(rows) <= chunks * CHUNK:
        return rows
    ordered = sorted(rows, key=lambda row: sum(len(turn["content"]) for turn in conversation(row)))
    stride = len(ordered) / chunks
    starts = [int((chunk + 0.5) * stride - CHUNK / 2) for chunk in range(chunks)]
    return [row for start in starts for row in ordered[start : start + CHUNK]]


def extrapolate(points: list[tuple[int, float]], layers: int) -> float:
    """The value at `layers` of the straight line through the points, one or two; not below the last point."""
    (low, below), (high, above) = points[0], points[-1]
    return above + max(0.0, above - below) / (high - low) * (layers - high) if high > low else above


def make_model(config: Any, layers: int, dtype: str, described: Path, folder: Path) -> Path:
    """Write a model of random weights with the first `layers` layers of `config`, and the files beside the
    weights from `described`; return `folder`.
    """
    few = copy.deepcopy(config)
    text = few.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    ignored = shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.pt", "*.gguf", ".*")
    shutil.copytree(described, folder, ignore=ignored)
    # `torch_dtype`: `dtype` since transformers 4.56, which older ones do not know.
    model = class_for(few).from_config(
        few, torch_dtype=getattr(torch, dtype), trust_remote_code=runs_own_code(described)
    )
    model.save_pretrained(folder)
    return folder


def _measure(
    small: RunFolder, experiment: Experiment, machine: Machine, computed: list[int], screen: Screen
) -> Figures:
    """The figures of one small model, on the rows of its run folder, which compute so many tokens a batch."""
    figures: Figures = {}
    marks: list[float] = []

    class Clock(TrainerCallback):
        """Notes when steps end, and when training does, after its evaluation and checkpoint."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            marks.append(_now())

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            marks.append(_now())

    def measure(model: Any, template: Any) -> dict[str, float]:
        with screen.progress("evaluating", total=None, counted=False) as bar:
            measured = measure_validation(model, template, val, experiment, bar)
        marks.append(_now())
        return measured

    callbacks_map[CLOCK] = Clock
    job = Job(small, experiment, screen, LoadedModel())
    val = read_jsonl(small.split("val"))
    count_tokens(job)
    arguments = build_infer_arguments(experiment, machine, small.split("test"), small.path / "none", None)
    with _timed(figures, "load"), job.base.reused():
        prepare_model_template(arguments)
    with _timed(figures, "zero_shot"):
        infer(job, machine, "zero_shot", None)
    with _timed(figures, "start"):
        summary = train(job, machine, measure, len(val))
    with _timed(figures, "tuned"):
        infer(job, machine, "tuned", small.sft / summary["checkpoint"])
    *steps, evaluated, saved = marks
    seconds = [after - before for before, after in pairwise(steps)]
    # Medians and minima: what else the machine does for a moment is not the run's.
    figures["token"] = median(map(truediv, seconds, computed[1:])) if seconds else 0.0
    figures["evaluation"] = evaluated - steps[-1]
    figures["save"] = saved - evaluated
    figures["start"] -= saved - steps[0]
    figures["answering"] = min(figures.pop("zero_shot"), figures.pop("tuned"))
    job.base.release()
    gc.collect()
    give_back_freed_memory()  # the next peak would begin with it
    return figures


@contextmanager
def _timed(figures: Figures, name: str) -> Iterator[None]:
    """Note the seconds that a block takes as `name`, and its peaks of memory as `name`_ram and `name`_gpu."""
    reset_peak_memory()
    start = _now()
    yield
    figures[name] = _now() - start
    figures |= {f"{name}_{kind}": float(peak) for kind, peak in peak_memory().items()}


def _now() -> float:
    """Seconds, when what was started on a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _folder(ready: Experiment) -> Path:
    return Path(ready.model.arguments["model"])
