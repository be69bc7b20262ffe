"""What a run will take, before it is started and before any weights are downloaded.

python run_swift.py plan --dataset jd --model qwen2.5-0.5b-instruct

Not covered: the time that a download takes; heads, and methods that make training rows.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder, listed_in
from workflows.core.screen import Screen, as_text
from workflows.experiment.experiment import Experiment
from workflows.experiment.recipes import Plain
from workflows.model.swift_names import check_settings

LEARNS_THE_SAME = "gradient_checkpointing"  # what a run changes by itself where memory is short (memory.py)
Asked = Sequence[tuple[Experiment, Sequence[str]]]  # runs, and the stages that each does
NOTICEABLE = 0.05  # of the processors' time taken by other programs


def plan(experiment: Experiment, folder: Path | None, screen: Screen) -> dict[str, Any]:
    """Rows, tokens, steps, and for each machine memory, time and what to change where it does not fit.

    `folder`: a run folder whose data are used where they are those of this experiment. Everything is written
    to a temporary folder, which is gone afterwards. Raises UserError as a run would.
    """
    if not covers(experiment):
        raise UserError(
            f"plan: does not cover method {experiment.method}; it does those that write answers and "
            "train on the data as they are, such as lora."
        )
    check_settings(experiment)
    with tempfile.TemporaryDirectory(prefix="plan-") as temporary:
        run = RunFolder(Path(temporary) / "run")
        if folder is not None and RunFolder(folder).manifest.exists() and RunFolder(folder).stages.exists():
            shutil.copytree(RunFolder(folder).manifest.parent, run.manifest.parent)
            shutil.copy(RunFolder(folder).stages, run.stages)
        with screen.output_to(run.log("plan")):
            screen.say("loading SWIFT …")
            start = time.monotonic()
            from workflows.commands.plan.estimate import estimate

            try:
                return estimate(run, experiment, time.monotonic() - start, screen)
            except UserError as error:  # the folder is gone when it is read
                raise UserError(str(error).replace(listed_in(run), "")) from error


def covers(experiment: Experiment) -> bool:
    """Whether `plan` knows what the method takes: it writes answers, and SWIFT trains it on the data as they
    are.
    """
    plain = isinstance(experiment.recipe, Plain)
    return experiment.tunes and not (experiment.has_head or experiment.derives_rows or plain)


def estimate_runs(asked: Asked, screen: Screen) -> list[dict[str, Any]]:
    """What runs of a study would take, as `estimate_each` (runs.py) has it; nothing is left behind."""
    with (
        tempfile.TemporaryDirectory(prefix="plan-") as temporary,
        screen.output_to(Path(temporary) / "plan.log"),
    ):
        screen.say("loading SWIFT …")
        from workflows.commands.plan.runs import estimate_each

        return estimate_each(asked, Path(temporary), screen)


def render_plan(result: dict[str, Any]) -> str:
    """The plan as text: data, steps, a row a machine, and what to change."""
    rows, median, longest, needed, minutes = (
        Column(heading, justify="right")
        for heading in ("rows", "tokens: median", "max", "memory, GB", "minutes")
    )
    data = Table("split", rows, median, longest, box=SIMPLE_HEAD)
    machines = Table("machine", "dtype", needed, minutes, "fits", "rests on", box=SIMPLE_HEAD)
    for name, split in result["splits"].items():
        data.add_row(name, f"{split['rows']:,}", f"{split['median']:.0f}", f"{split['max']:,}")
    notes: list[str] = []
    taken = result["this_machine"]["taken_by_other_programs"]
    if taken > NOTICEABLE:
        notes.append(busy_line(taken))
    for each in result["machines"]:
        there = "" if each["bytes_there"] is None else f" of {each['bytes_there'] / 1e9:.0f}"
        low, high = (f"{seconds / 60:.1f}" for seconds in each["seconds"])
        machines.add_row(
            each["name"],
            each["torch_dtype"],
            f"{each['bytes'] / 1e9:.1f}{there}",
            low if each["seconds"][0] == each["seconds"][1] else f"{low} – {high}",
            "yes" if not each["changes"] else "with changes" if each["fits_with_changes"] else "no",
            each["rests_on"],
        )
        asked = asked_for(each["changes"])
        own = [change for change in each["changes"] if change not in asked]
        if each["piece_tokens"]:
            notes.append(f"{each['name']}: a run computes {each['piece_tokens']} tokens at a time, to fit")
        if own:
            notes.append(f"{each['name']}: a run changes by itself, to fit: {' '.join(own)}")
        if asked:
            notes.append(f"{each['name']}: add {' '.join(asked)}")
        if not each["fits_with_changes"]:
            notes.append(f"{each['name']}: still too large, take a smaller model")
    tokens = result["training_tokens"]
    work = (
        f"{result['training_rows_used']:,} rows are trained on, {tokens['used']:,} tokens in all epochs "
        f"({tokens['computed']:,} are computed, a common beginning once); {result['steps']:,} optimiser "
        f"steps, {result['evaluations']} evaluations"
    )
    return "\n".join([as_text(data), work, as_text(machines), *notes])


def busy_line(taken: float) -> str:
    """What is said where other programs took this share of the processors' time."""
    return (
        f"{taken:.0%} of this machine's processors were busy with other programs: its minutes are "
        "reckoned as if it were alone, and are less sure; plan again when it is"
    )


def asked_for(changes: list[str]) -> list[str]:
    """Those of the `--set` lines that a run does not make by itself, since they change what is learned."""
    return [change for change in changes if LEARNS_THE_SAME not in change]
