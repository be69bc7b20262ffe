"""What a run would take on this machine: its own stages, run on a few rows with a model of few layers.

The model is made from the config alone, with random weights and few of its decoder layers, once with fewer
and once with more; every figure grows linearly with the layers, which gives that of the whole model.  The
stages are those of a real run (pipeline/stages.py): all that they do is timed.

Not covered: quantised weights, and more than one GPU.
"""

import copy
import gc
import shutil
from dataclasses import replace
from itertools import pairwise
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import torch
from swift.callbacks import TrainerCallback, callbacks_map
from transformers import AutoConfig

from workflows.core.files import write_jsonl
from workflows.core.rows import Rows, conversation
from workflows.core.run_folder import RunFolder, finished_stages, mark_finished
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import runs_own_code
from workflows.model.arguments import merged_arguments
from workflows.model.loaded import carries_state, class_for
from workflows.model.machine import Machine, give_back_freed_memory, now
from workflows.pipeline.run import do_stages

LAYERS = (2, 8)  # far enough apart that the noise of a figure stays small when it is drawn on to 24 layers
BLOCKS = (4, 8)  # of a model like Qwen3.5: three of four layers carry a state on, the fourth has attention
STEPS = 4  # timed, after a first one on the widest batch
CHUNK = 16  # test rows of like length that stay together, as the scorer's batches are of rows of like length
CHUNKS = {"val": 3, "test": 4}
STAGES = ("zero_shot", "train", "tuned")  # those with a model
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
    "report_to": "none",
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
    Seconds: of `load`, `answering` (all test rows once), `train` (its start and first step), `token` (of the
    other steps) and `evaluation`; and bytes at most in use in a stage, `<stage>_bytes`, on a GPU its own.
    """
    described = Path(ready.model.arguments["model"])
    config = AutoConfig.from_pretrained(described, trust_remote_code=runs_own_code(described))
    dtype = getattr(torch, str(merged_arguments(ready, machine)["torch_dtype"]))
    whole = config.get_text_config().num_hidden_layers
    few = BLOCKS if carries_state(config.get_text_config()) else LAYERS
    first, *others = batches
    full = [batch for batch in others if len(batch[0]) == len(first[0])]
    count = min(STEPS, len(full))
    sample = [first, *(full[int((at + 0.5) * len(full) / count)] for at in range(count))]
    chosen = {"train": [rows["train"][at] for places, _ in sample for at in places]}
    chosen |= {name: _spread(rows[name], count) for name, count in CHUNKS.items()}
    points: dict[int, Figures] = {}
    with screen.silenced() as bars:  # what the stages say of a few rows is of no use
        for layers in sorted({min(each, whole) for each in few}):
            small = RunFolder(folder / f"layers-{layers}")
            for name, each in chosen.items():
                write_jsonl(small.split(name), each)
            mark_finished(small, "prepare", {})
            weights = small.path / "model"
            _make_model(config, layers, dtype, described, weights)
            card = replace(ready.model, arguments={**ready.model.arguments, "model": str(weights)})
            tuning = replace(ready.tuning, best_by="loss")
            short = replace(ready, model=card, tuning=tuning, overrides={**ready.overrides, **SHORT})
            points[layers] = _measure(small, short, [computed for _, computed in sample], bars)
            shutil.rmtree(small.path)
    low, high = min(points), max(points)
    further = (whole - high) / max(1, high - low)
    figures = {
        name: above + max(0.0, above - points[low][name]) * further for name, above in points[high].items()
    }
    for name, split in (("answering", "test"), ("evaluation", "val")):
        figures[name] *= len(rows[split]) / len(chosen[split])
    return figures


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
    text = few.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    ignored = shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.pt", "*.gguf", ".*")
    shutil.copytree(described, folder, ignore=ignored)
    # `torch_dtype`: `dtype` since transformers 4.56, which older ones do not know.
    model = class_for(few).from_config(few, torch_dtype=dtype, trust_remote_code=runs_own_code(described))
    model.save_pretrained(folder)


def _measure(run: RunFolder, experiment: Experiment, computed: list[int], screen: Screen) -> Figures:
    """Seconds and bytes of one small model, on the rows of its run folder, which compute so many tokens a
    batch.
    """
    marks: list[float] = []  # the ends of steps, of the evaluation, and of the checkpoint after it

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            marks.append(now())

        on_evaluate = on_train_end = on_step_end

    callbacks_map[CLOCK] = Clock
    do_stages(run, experiment, ("tokens", *STAGES), screen)
    gc.collect()
    give_back_freed_memory()  # the next peak would begin with it
    done = finished_stages(run)
    *steps, evaluated, saved = marks
    # Medians and minima: what else the machine does for a moment is not the run's.
    # With the load, and without the labelled rows that the untuned model answers too.
    first = done["zero_shot"]["systems"]["zero_shot"]["answering"]
    answering = min(first, done["tuned"]["seconds"])
    others = [later - sooner for sooner, later in pairwise(steps)]
    a_token = [*map(truediv, others, computed[1:])]  # none, where there is one batch
    peaks = {name: done[name]["peak_memory_bytes"] for name in STAGES}
    return {
        "load": first - answering,
        "answering": answering,
        "train": done["train"]["seconds"] - (saved - steps[0]),
        "token": median(a_token) if a_token else 0.0,
        "evaluation": evaluated - steps[-1],
        **{f"{name}_bytes": peak.get("gpu", peak["ram"]) for name, peak in peaks.items()},
    }
