"""The door of searches: trials of a run's settings, then the best of them against the default.

python run_swift.py search --dataset chnsenticorp --trials 30
"""

import importlib.util
import shlex
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.screen import Screen, as_typed
from workflows.core.texts import text
from workflows.experiment.cards import COMMAND
from workflows.experiment.checks import when_saved_and_evaluated
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import RunOptions, flags_of
from workflows.experiment.recipes import Plain
from workflows.experiment.resolve import resolve
from workflows.model.swift_names import check_settings
from workflows.pipeline.run import OUTPUTS
from workflows.reporting.render import write_report


def work_on_search(
    options: RunOptions,
    space_file: str | None,
    count: int,
    output: Path | None,
    ray: str | None,
    screen: Screen,
) -> None:
    """Do what is missing of `count` trials around the run that `options` ask for, and say what came of it.

    `space_file`: a space other than the default one; `ray`: the cluster that trains, as of `on_cluster`.  The
    same command goes on, and works beside another that does the same.  Raises UserError where optuna is not
    installed, the run tunes or validates nothing, the space does not fit, `output` holds something else, or
    the run as it was asked cannot be trained.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError('search: needs optuna, which is not installed: pip install "optuna>=5"')
    from workflows.search.begin import begin
    from workflows.search.page import build_page
    from workflows.search.result import conclude_search
    from workflows.search.space import load_space
    from workflows.search.trials import Trials

    asked = resolve(options)
    _check(asked)
    space = load_space(space_file, asked)
    folder = (output or OUTPUTS / "searches" / asked.name).expanduser().resolve()
    begin(folder, space, screen)
    trials = Trials(folder, space, count)
    screen.say(f"search {as_typed(folder)}: {len(trials.finished())} of {count} trials finished")
    if ray is not None:
        from workflows.search.on_cluster import train_on_cluster

        train_on_cluster(trials, ray, screen)
    while (work := trials.take_next()) is not None:
        with screen.output_to(folder / "logs" / "model.log"):
            from workflows.model.folder import fetch_model

            fetch_model(asked.arguments)  # one that cannot be had now would fail the trial for good
        screen.say(f"\n{trials.what_comes(work)}")
        trials.work_on(work, screen)
    if running := trials.running():
        screen.say(f"\n{len(running)} trials are at work in other processes; the last one writes the result")
        return
    if len(trials.finished()) < count:
        screen.say(f"\nno other values were found in the space after {len(trials.finished())} trials")
    command = [*COMMAND.split(), "search", *flags_of(options), "--trials", str(count)]
    command += [] if space_file is None else ["--space", space_file]
    command += [] if output is None else ["--output", str(output)]
    with trials.result_lock():
        found = conclude_search(trials, shlex.join(command), screen)
        write_report(build_page(found, trials.study, folder / "figures"), folder, options.lang)
    for said in found["verdict"]:
        screen.say(f"\n{said['en']}\n{said['zh']}")
    if found["stands_in"]:
        stand_in = text("search_says_nothing_of_a_real_qwen")
        screen.say(f"\n{stand_in.en}\n{stand_in.zh}")
    screen.say(f"\npreset: {as_typed(folder / 'best.yaml')}\n  {found['use']}")
    screen.say(f"report: {as_typed(folder / 'report.html')}")


def _check(asked: Experiment) -> None:
    """Raise UserError where there is nothing to search, or this machine could not train it."""
    if not asked.tunes or isinstance(asked.recipe, Plain):
        does = "watches no validation rows" if asked.tunes else "tunes no model"
        raise UserError(f"search: method {asked.method} {does}, so there is nothing to search by.")
    if when_saved_and_evaluated(asked.arguments)[1] == "no":
        raise UserError("search: eval_strategy no leaves nothing to search by; leave it out.")
    if asked.dataset.task == "regression":
        raise UserError(f"search: is about accuracy; {asked.dataset.name} has numbers.")
    check_settings(asked)
    from workflows.model.folder import check_machine

    check_machine(asked)
