"""How long a run takes from loading the model to its tuned answers, against plain SWIFT's three commands.

python run_swift.py benchmark pipeline outputs/first

Both get the run's data files.  Ours also scores label probabilities, measures the task on validation, and
writes scores and report.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from swift import InferArguments, SftArguments

from workflows.commands.benchmark.startup import OURS, in_turn, run_command
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.experiment.experiment import load_experiment
from workflows.model.arguments import INFER_NAMES, SFT_NAMES, SHARED, command_line_of, merged_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import find_machine

SWIFT = str(Path(sys.executable).with_name("swift"))
# What a run has not before its model is loaded: the stages that write these are done again.
LATER = (
    "sft",
    "logs",
    "figures",
    "report.*",
    "training.json",
    "scores.json",
    "zero_shot.jsonl",
    "tuned.jsonl",
)


def benchmark_pipeline(run: RunFolder, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds of `run` with its data prepared, and of `swift infer`, `swift sft` and `swift infer` with the
    adapter, each with SWIFT's defaults beside the preset; processes' starts and loading are in both.
    """
    machine, experiment = find_machine(), with_local_model(load_experiment(run.experiment))
    merged = merged_arguments(experiment, machine)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ignored = shutil.ignore_patterns(*LATER)
        copies = [shutil.copytree(run.path, folder / f"ours-{at}", ignore=ignored) for at in range(repeats)]
        tuning = {name: value for name, value in merged.items() if name in SFT_NAMES} | {
            "gradient_checkpointing": experiment.preset.get("gradient_checkpointing", True),
            "dataset": [str(run.split("train"))],
            "val_dataset": [str(run.split("val"))],
            "output_dir": str(folder / "sft"),
        }
        answering = {name: value for name, value in merged.items() if name in INFER_NAMES - SFT_NAMES} | {
            **{name: merged[name] for name in SHARED if name in merged},
            "val_dataset": [str(run.split("test"))],
            "max_new_tokens": MAX_NEW_TOKENS,
            "temperature": 0,
            "load_args": False,
            "result_path": str(folder / "answers.jsonl"),
        }
        sft = [SWIFT, "sft", *command_line_of(SftArguments, tuning)]
        infer = [SWIFT, "infer", *command_line_of(InferArguments, answering)]

        def infer_tuned() -> None:
            checkpoints = folder.glob("sft/*/checkpoint-*")
            newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
            run_command([*infer, "--adapters", str(newest)])

        works = {
            "ours": lambda: run_command([*OURS, "run", str(copies.pop())]),
            "swift infer": lambda: run_command(infer),
            "swift sft": lambda: run_command(sft),
            "swift infer, tuned": infer_tuned,
        }
        seconds = in_turn(works, repeats, screen)
    plain = [sum(times) for times in zip(*list(seconds.values())[1:], strict=True)]
    return {
        "device": f"{machine.device} ({machine.name})",
        "seconds": {**seconds, "three SWIFT commands": plain},
        "ratios": {"ours / three SWIFT commands": ratio(seconds["ours"], plain)},
    }
