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

from workflows.commands.benchmark.startup import timed
from workflows.core.files import write_json
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import MAX_NEW_TOKENS, ROOT
from workflows.experiment.experiment import load_experiment
from workflows.model.arguments import INFER_NAMES, SFT_NAMES, SHARED, command_line_of, merged_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import find_machine

SWIFT = str(Path(sys.executable).with_name("swift"))
LEFT_TO_DO = ("zero_shot", "train", "tuned", "score", "report")


def benchmark_pipeline(run: RunFolder, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds of `run` with its data prepared, and of `swift infer`, `swift sft` and `swift infer` with the
    adapter, each with SWIFT's defaults beside the preset; processes' starts and loading are in both.
    """
    seconds: dict[str, list[float]] = {
        "ours": [],
        "swift infer": [],
        "swift sft": [],
        "swift infer, tuned": [],
    }
    with screen.progress("benchmark", total=repeats * len(seconds)) as bar:
        for _ in range(repeats):
            with TemporaryDirectory() as folder:
                ours = _copy_prepared(run, Path(folder) / "ours")
                seconds["ours"].append(timed([sys.executable, str(ROOT / "run_swift.py"), "run", str(ours)]))
                bar.update()
                for name, command in _plain_commands(run, Path(folder)).items():
                    seconds[name].append(timed([*command, *_adapter(Path(folder), name)]))
                    bar.update()
    plain = [sum(times) for times in zip(*list(seconds.values())[1:], strict=True)]
    machine = find_machine()
    return {
        "device": f"{machine.device} ({machine.name})",
        "seconds": {**seconds, "three SWIFT commands": plain},
        "ratios": {"ours / three SWIFT commands": ratio(seconds["ours"], plain)},
    }


def _copy_prepared(run: RunFolder, folder: Path) -> Path:
    """The run as it was before the model was loaded."""
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("sft", "logs", "figures", "report.*"))
    copy = RunFolder(folder)
    done = {name: record for name, record in finished_stages(run).items() if name not in LEFT_TO_DO}
    write_json(copy.stages, done)
    for path in (copy.predictions("zero_shot"), copy.predictions("tuned"), copy.training, copy.scores):
        path.unlink()
    return folder


def _plain_commands(run: RunFolder, folder: Path) -> dict[str, list[str]]:
    """SWIFT's commands that do the same; the last one wants the adapter's place besides."""
    experiment = with_local_model(load_experiment(run.experiment))
    merged = merged_arguments(experiment, find_machine())
    tuning = {name: value for name, value in merged.items() if name in SFT_NAMES}
    tuning |= {
        "gradient_checkpointing": experiment.preset.get("gradient_checkpointing", True),
        "dataset": [str(run.split("train"))],
        "val_dataset": [str(run.split("val"))],
        "output_dir": str(folder / "sft"),
        "add_version": False,
    }
    answering = {name: merged[name] for name in SHARED if name in merged}
    answering |= {name: value for name, value in merged.items() if name in INFER_NAMES - SFT_NAMES}
    answering |= {
        "val_dataset": [str(run.split("test"))],
        "max_new_tokens": MAX_NEW_TOKENS,
        "temperature": 0,
        "load_args": False,
    }

    def infer(result: str) -> list[str]:
        asked = {**answering, "result_path": str(folder / result)}
        return [SWIFT, "infer", *command_line_of(InferArguments, asked)]

    return {
        "swift infer": infer("before.jsonl"),
        "swift sft": [SWIFT, "sft", *command_line_of(SftArguments, tuning)],
        "swift infer, tuned": infer("after.jsonl"),
    }


def _adapter(folder: Path, name: str) -> list[str]:
    """The flag with the newest checkpoint, for the command that wants it."""
    if name != "swift infer, tuned":
        return []
    checkpoints = folder.glob("sft/checkpoint-*")
    return ["--adapters", str(max(checkpoints, key=lambda path: int(path.name.split("-")[1])))]
