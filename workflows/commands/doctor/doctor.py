"""The doctor: checks of this machine (checks.py), and with --gpu ten commands on its GPU (commands.py)."""

import json
from pathlib import Path
from typing import Any

from workflows.commands.doctor.checks import FILE, Check, as_json, check_machine, render_check
from workflows.core.errors import UserError
from workflows.core.screen import Screen, as_typed
from workflows.core.texts import in_language, one_after_another, text, texts


def see_doctor(gpu: bool, as_one_object: bool, language: str, output: Path | None, screen: Screen) -> int:
    """Print each check as soon as it is made, or all as one JSON object at the end; the exit code.

    With `gpu` the ten commands follow where no check is wrong; their file goes into `output` (default: a new
    folder in outputs/). Raises UserError where `gpu` is asked for and there is none, and where `output` is
    of an earlier doctor, whose finished runs would be looked at again.
    """
    if output is not None and not gpu:
        raise UserError("doctor --output: is for the files of --gpu; leave it out, or add --gpu.")
    lines = screen
    with screen.silenced() as silent:
        if as_one_object:
            lines = silent
        if gpu:
            _require_gpu()
        checks: list[Check] = []
        for check in check_machine():
            checks.append(check)
            lines.say(render_check(check, language))
        wrong = [check.name for check in checks if check.status == "wrong"]
        names = one_after_another([texts("doctor_checks")[name] for name in wrong], ", ", "、")
        said = text("doctor_unwell", names=names) if wrong else text("doctor_well")
        lines.say(in_language(said, language))
        found: dict[str, Any] = {
            "well": not wrong,
            "checks": [as_json(check, language) for check in checks],
        }
        if gpu and not wrong:
            found = _run_commands(output, lines, found)
    if as_one_object:
        screen.say(json.dumps(found, ensure_ascii=False, indent=2))
    return 0 if found["well"] else 3


def _require_gpu() -> None:
    from workflows.model.gpu import settle_gpu
    from workflows.model.machine import find_machine

    try:
        settle_gpu()
        device = find_machine().device
    except UserError:
        raise
    except Exception:  # whatever a broken torch raises: the checks say what it is
        return
    if device != "cuda":
        raise UserError("doctor --gpu: there is no GPU here; without --gpu it checks the CPU.")


def _run_commands(output: Path | None, screen: Screen, found: dict[str, Any]) -> dict[str, Any]:
    from workflows.commands.doctor.commands import examine, refuse_examined
    from workflows.pipeline.run import timed_folder

    folder = (output or timed_folder("doctor")).expanduser().resolve()
    refuse_examined(folder)
    examined = examine(folder, screen, found["checks"])
    unwell = ", ".join(outcome["shows"] for outcome in examined["commands"] if outcome["problems"])
    screen.say(f"not well: {unwell}" if unwell else "all is well")
    screen.say(f"doctor: {as_typed(folder / FILE)}")
    return examined
