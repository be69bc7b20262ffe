"""The page of a search: what came of it, optuna's own figures, each trial, and the command."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import TrialState

from workflows.core.texts import Text, number, text, texts, with_interval
from workflows.reporting.blocks import Block, Command, Grid, Links, Paragraph, Picture, Report, Section
from workflows.reporting.figures import Say, save_figure


def build_page(found: dict[str, Any], study: Study, figures: Path) -> Report:
    """The page of what search.json holds; optuna's figures of `study` are drawn into `figures`."""
    trials = {each["number"]: each for each in found["trials"]}
    result: list[Block] = [Paragraph(Text(**said), strong=True) for said in found["verdict"]]
    if found["stands_in"]:
        result.append(Paragraph(text("search_says_nothing_of_a_real_qwen"), strong=True))
    result += [
        _chosen(found, trials),
        Paragraph(text("how_a_search_is_read", rows=found["evaluated_rows"], test=found["rows"]["test"])),
    ]
    links = [
        (text("run_of_the_search", run=title), f"{found['runs'][name]}/report.html")
        for name, title in (("default", text("the_default_preset")), ("best", text("the_searched_preset")))
    ]
    return Report(
        found["search"],
        text("a_search", count=len(trials)),
        [
            Section(text("result"), result),
            Section(text("use_the_preset"), [Command(found["use"])]),
            Section(text("how_the_search_went"), [*_draw(study, figures)]),
            Section(text("the_trials"), [_all(found, trials)], folded=True),
            Section(text("how_to_repeat"), [Command(found["command"]), Links(links)]),
        ],
    )


def _chosen(found: dict[str, Any], trials: dict[int, dict[str, Any]]) -> Grid:
    """The default and the best trial, setting by setting and figure by figure."""
    both = [trials[found[name]] for name in ("default", "best")]
    rows: list[list[Text | str]] = [
        [name, *(_shown(each["values"][name]) for each in both)] for name in found["settings"]
    ]
    rows += [
        [text("label_loss"), *(number(each["loss"], 4) for each in both)],
        [
            text("validation_figure", figure=texts("metrics")["accuracy"]),
            *(number(each["accuracy"]) for each in both),
        ],
    ]
    tested = [found["test"][name] for name in ("default", "best")]
    rows.append(
        [
            text("test_accuracy"),
            *(with_interval(each["accuracy"], each["accuracy_interval"]) for each in tested),
        ]
    )
    for system, each in tested[0]["baselines"].items():  # the same beside both
        shown = with_interval(each["accuracy"], each["accuracy_interval"])
        rows.append([text("test_accuracy_of", system=texts("systems")[system]), shown, shown])
    return Grid([text("setting"), text("the_default_preset"), text("the_searched_preset")], rows)


def _all(found: dict[str, Any], trials: dict[int, dict[str, Any]]) -> Grid:
    """All trials, in the order in which they were begun."""
    headings = [
        text("trial"),
        *found["settings"],
        text("label_loss"),
        text("validation_figure", figure=texts("metrics")["accuracy"]),
        text("time"),
        text("how_it_ended"),
    ]
    rows: list[list[Text | str]] = []
    for each in trials.values():
        ended: Text | str = each["why"] or texts("ends_of_a_trial")[each["state"]]
        values = [_shown(each["values"][name]) for name in found["settings"]]
        last = each["loss"] if each["loss"] is not None else next(reversed(each["evaluations"]), None)
        cells = [number(last, 4), number(each["accuracy"]), f"{each['seconds']:.0f} s", ended]
        rows.append([str(each["number"]), *values, *cells])
    return Grid(headings, rows, texts=(len(headings) - 1,))


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _draw(study: Study, figures: Path) -> list[Block]:
    """Optuna's own figures; those that some trials are too few for are left out."""
    from optuna.visualization import matplotlib as plots

    matplotlib.use("agg")  # optuna draws by pyplot, which would open windows
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    tell_apart = len({each.value for each in complete}) > 1
    drawn: dict[str, Callable[..., Any]] = {
        "history": plots.plot_optimization_history,
        "evaluations": plots.plot_intermediate_values,
        **({"importances": plots.plot_param_importances} if tell_apart else {}),
        **({"slices": plots.plot_slice} if tell_apart else {}),
        **({"parallel": plots.plot_parallel_coordinate} if tell_apart else {}),
        "timeline": plots.plot_timeline,
    }
    captions = texts("figures_of_a_search")
    for name, plot in drawn.items():
        save_figure(figures, name, _by_optuna, plot, study)
    return [Picture(name, captions[name]) for name in drawn]


def _by_optuna(say: Say, plot: Callable[..., Any], study: Study) -> Figure:
    """A figure of optuna's, with all of its words in the picture; they are English alone."""
    from matplotlib import pyplot

    pyplot.close("all")
    matplotlib.rcParams["savefig.bbox"] = "tight"  # as long as `save_figure` works
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes = plot(study)
    figure: Figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
    for axis in (each for panel in figure.axes for each in (panel.xaxis, panel.yaxis)):
        if axis.get_scale() == "log":  # its marks are powers, in a form that our figures do not read
            axis.set_major_locator(LogLocator(subs=(1, 3)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    return figure
