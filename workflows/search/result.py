"""What came of a search: the best trial by validation, its preset, and what test rows say of it.

Test rows are answered here for the first time, by the default and by the best trial, which is chosen by then.
"""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from workflows.core.files import open_whole, read_json, read_jsonl, write_json
from workflows.core.screen import Screen, as_typed
from workflows.core.texts import Text, text
from workflows.experiment.cards import COMMAND
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import flags_of
from workflows.pipeline.run import do_stages, start_run
from workflows.scoring.score import compare_answers
from workflows.scoring.uncertainty import SIGNIFICANCE, conclude
from workflows.search.begin import run_in
from workflows.search.space import Space, Value, pair_of
from workflows.search.trials import FAILED, STAGES, STARTED, Trials, loss_of

TESTED = (*STAGES, "baselines", "tuned", "score", "report")


def conclude_search(trials: Trials, command: str, screen: Screen) -> dict[str, Any]:
    """Choose the best trial, let it and the default answer the test rows; write best.yaml and search.json;
    return the content of search.json.

    `command`: the one that repeats the search.
    """
    space, folder = trials.space, trials.folder
    best = min(trials.all(TrialState.COMPLETE), key=lambda each: (each.value, each.number))
    default_run = run_in(folder, space.asked)
    name = default_run.path.name
    default = next(each for each in trials.finished() if each.user_attrs.get(STARTED) == name)
    chosen = {"default": space.asked, "best": space.experiment(best.params)}
    runs = {name: run_in(folder, experiment) for name, experiment in chosen.items()}
    others = [*runs.values()]
    for run, experiment in {runs[name].path: (runs[name], chosen[name]) for name in chosen}.values():
        screen.say(f"\ntest rows: {as_typed(run.path)}")
        do_stages(start_run(experiment, run.path, screen), experiment, TESTED, screen, others=others)
    training = read_json(default_run.training)
    preset = _write_preset(folder / "best.yaml", space, best, default, training["evaluated_rows"])
    scores = {name: read_json(run.scores) for name, run in runs.items()}
    spent = [each.user_attrs["seconds"] for each in trials.finished() if each.number != default.number]
    pair = None
    if best.number != default.number:
        answers = {name: read_jsonl(run.predictions("tuned")) for name, run in runs.items()}
        (pair,) = compare_answers(answers, space.asked.dataset.task)
    found = {
        "search": space.asked.name,
        "command": command,
        "use": preset,
        "searched_by": loss_of(space.asked),
        "settings": list(space.settings),
        "evaluated_rows": training["evaluated_rows"],
        "rows": {split: each["rows"] for split, each in read_json(default_run.manifest)["splits"].items()},
        "stands_in": space.asked.model.name == "tiny",
        "default": default.number,
        "best": best.number,
        "trials": [_record(space, each) for each in trials.finished()],
        "runs": {name: str(run.path.relative_to(folder)) for name, run in runs.items()},
        "test": {name: _tested(each) for name, each in scores.items()},
        "comparison": pair,
        "minutes": sum(spent) / 60,
        "gain_a_minute": gain_a_minute(pair, sum(spent) / 60),
    }
    found["verdict"] = [asdict(said) for said in what_may_be_said(found)]
    write_json(folder / "search.json", found)
    return found


def _record(space: Space, trial: FrozenTrial) -> dict[str, Any]:
    """What search.json keeps of a trial."""
    figures = trial.user_attrs.get("validation", {})
    return {
        "number": trial.number,
        "state": "failed" if trial.state == TrialState.FAIL else trial.state.name.lower(),
        "why": trial.user_attrs.get(FAILED),
        "values": {**space.default, **space.changed(trial.params)},
        "loss": trial.value
        if trial.state == TrialState.COMPLETE
        else None,  # optuna has a pruned one's latest
        "accuracy": figures.get("eval_accuracy"),
        "evaluations": list(trial.intermediate_values.values()),
        "seconds": trial.user_attrs["seconds"],
        "run": trial.user_attrs.get(STARTED),
    }


def _tested(scores: dict[str, Any]) -> dict[str, Any]:
    systems = scores["systems"]
    figures = {
        system: {name: systems[system][name] for name in ("accuracy", "accuracy_interval")}
        for system in ("tuned", "tfidf", "majority")
        if system in systems
    }
    return {**figures.pop("tuned"), "baselines": figures, "rows": scores["test_rows"]}


def gain_a_minute(pair: dict[str, Any] | None, minutes: float) -> dict[str, Any] | None:
    """Accuracy over the default for each minute of the other trials, with its 95 % interval."""
    if pair is None:
        return None
    bounds = [each / minutes for each in pair["ci95"]]
    return {"accuracy": pair["accuracy_difference"] / minutes, "interval": bounds}


def what_may_be_said(found: dict[str, Any]) -> list[Text]:
    """What may be said: of the best trial and the default on test rows, and what that cost."""
    pair, gain, count = found["comparison"], found["gain_a_minute"], len(found["trials"])
    if pair is None:
        kept = text("search_keeps_the_default", count=count, rows=found["evaluated_rows"])
        return [kept, text("search_took", count=count - 1, minutes=found["minutes"])]
    rows = text("test_rows", count=found["test"]["best"]["rows"])
    said = [conclude(pair, text("the_default_preset"), text("the_searched_preset"), rows)]
    if pair["holm_p"] >= SIGNIFICANCE or pair["accuracy_difference"] < 0:
        said.append(text("search_shows_no_gain"))
    per_minute = "{:+.4f}, 95 % {:+.4f} … {:+.4f}".format(gain["accuracy"], *gain["interval"])
    took = text("search_took", count=count - 1, minutes=found["minutes"])
    return [*said, took, text("accuracy_a_minute", per_minute=per_minute, rows=rows)]


def _write_preset(path: Path, space: Space, best: FrozenTrial, default: FrozenTrial, rows: int) -> str:
    """Write the best trial's preset, SWIFT's own arguments, its use on the first lines; return the command
    that uses it.
    """
    asked, changed = space.asked, space.changed(best.params)
    prompt = space.experiment(best.params).tuning.prompt
    # What a preset cannot say: the prompt is no argument of SWIFT's, and a model's card goes before it.
    pairs = [pair_of(name, value) for name, value in changed.items() if name in asked.model.arguments]
    tuning = replace(asked.tuning, method=as_typed(path), prompt=prompt, set=(*asked.tuning.set, *pairs))
    changed.pop("prompt", None)
    command = shlex.join([*COMMAND.split(), "run", *flags_of(replace(asked.options, tuning=tuning))])
    with open_whole(path) as file:
        file.write(
            f"# Trial {best.number} of a search: {best.value:.4f} nats a row on {rows} validation rows; "
            f"{asked.method} has {default.value:.4f}.\n#   {command}\n"
        )
        yaml.safe_dump(_preset(asked, changed), file, allow_unicode=True, sort_keys=False)
    return command


def _preset(asked: Experiment, changed: dict[str, Value]) -> dict[str, Any]:
    """The asked preset with what the search changed; what it leaves unset is not there."""
    recipe = {} if asked.recipe is None else asdict(asked.recipe)
    preset = dict(asked.preset)
    for name, value in changed.items():
        if name.startswith("recipe."):
            recipe[name.removeprefix("recipe.")] = value
        else:
            preset[name] = value
    preset = {name: value for name, value in preset.items() if value is not None or name not in changed}
    return preset | ({"recipe": recipe} if recipe else {})
