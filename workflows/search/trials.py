"""The trials of a search: who works on which, in optuna's SQLite storage, and one of them from start to end.

A trial is an ordinary run that ends with its training, so test rows are only prepared.  Whoever works on a
trial holds its lock, which the system lets go when a process ends, however it ends: a trial that is running
and held by nobody was stopped.  It counts as failed, and its values are the next to be tried, in the same run
folder, where the training goes on from its last checkpoint.
"""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from workflows.core.errors import MomentaryError, TrainingStopped, UserError
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder, hold, is_held
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment
from workflows.pipeline.run import do_stages, start_run
from workflows.search.begin import LOCKS, run_in
from workflows.search.space import Space

STAGES = ("prepare", "tokens", "derive", "train")  # none of them answers a test row
# Trials that end before any other is judged by them, and the evaluations that each has in any case.
BEFORE_PRUNING = 5
EVALUATIONS_IN_ANY_CASE = 1
# Values that were tried before are drawn anew, so often in a row: then there may be no others.
DRAWS = 50
SEEDS_APART = 100_000  # so that no second draw has the seed of a later trial
STARTED, FAILED = "run", "error"  # what is noted of a trial: its run folder, why it could not be trained


@dataclass(frozen=True)
class Work:
    """A trial that is this process's, and its lock."""

    trial: Trial
    experiment: Experiment
    run: RunFolder
    lock: ExitStack  # held already; it is let go on leaving its `with`


@dataclass(frozen=True)
class Came:
    """What came of a trial: the validation figures, why it could not be trained, or neither where it ended
    early.
    """

    seconds: float
    figures: dict[str, float] | None = None
    error: str | None = None
    momentary: bool = False  # whether the error may pass: no fault of the trial's values


class Trials:
    """The trials of one search."""

    def __init__(self, folder: Path, space: Space, wanted: int) -> None:
        """Open the storage in `folder`, or make it; `wanted`: how many trials there are to be in all."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.space, self.wanted = folder, space, wanted
        self.failed_by_the_moment = False
        with self._asking():
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{folder / 'search.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
            )
            pruner = optuna.pruners.MedianPruner(BEFORE_PRUNING, EVALUATIONS_IN_ANY_CASE)
            self.study = optuna.create_study(
                storage=storage, study_name="search", pruner=pruner, load_if_exists=True
            )
            if not self.all():
                self.study.enqueue_trial(space.default)

    def all(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those of some states."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def finished(self) -> list[FrozenTrial]:
        """The trials that count: trained, pruned, or not to be trained."""
        ended = self.all(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [each for each in ended if each.state != TrialState.FAIL or FAILED in each.user_attrs]

    def running(self) -> list[FrozenTrial]:
        """The trials that some process works on."""
        return self.all(TrialState.RUNNING)

    def take_next(self) -> Work | None:
        """The next trial, which is this process's from now on; None where none is left to start."""
        with self._asking():
            for each in self.running():
                if not is_held(self._lock(each.number)):
                    # First: a kill in between loses nothing then.  One that was stopped while drawn has
                    # but some of its values.
                    self.study.enqueue_trial({**each.system_attrs.get("fixed_params", {}), **each.params})
                    self.study.tell(each.number, state=TrialState.FAIL)
            distributions = {name: each.distribution for name, each in self.space.settings.items()}
            for draw in range(DRAWS):
                taken = [*self.finished(), *self.running()]
                if len(taken) >= self.wanted and not self.all(TrialState.WAITING):
                    return None
                # By what was tried: processes, and a command that goes on, draw other values each time.
                seed = self.space.asked.tuning.seed + len(taken) + draw * SEEDS_APART
                self.study.sampler = optuna.samplers.TPESampler(seed=seed)
                trial = self.study.ask(distributions)
                if (work := self._work(trial, taken)) is not None:
                    return work
        return None

    def _work(self, trial: Trial, taken: list[FrozenTrial]) -> Work | None:
        """Take a trial on; None where its values do not go together, or are those of one that is taken."""
        try:
            experiment = self.space.experiment(trial.params)
            run = run_in(self.folder, experiment)
            known = run.path.name in [each.user_attrs.get(STARTED) for each in taken]
        except UserError as error:
            known = trial.params in [each.params for each in taken]
            if not known:
                self._cannot(trial, str(error), 0.0)
                return None
        if known:
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        lock = ExitStack()
        lock.enter_context(hold(self._lock(trial.number)))
        trial.set_user_attr(STARTED, run.path.name)
        return Work(trial, experiment, run, lock)

    def what_comes(self, work: Work) -> str:
        """A line on the trial that comes: its values, what one takes, and what all will."""
        finished, running = self.finished(), self.running()
        changed = self.space.changed(work.trial.params)
        what = ", ".join(f"{name} {value}" for name, value in changed.items()) or "as it was asked"
        left = ""
        if finished:
            each = sum(trial.user_attrs["seconds"] for trial in finished) / len(finished)
            seconds = each * (self.wanted - len(finished)) / len(running)
            left = f"; {each:.0f} s a trial so far, about {tqdm.format_interval(seconds)} left for all"
        return f"trial {len(finished) + len(running)} of {self.wanted}: {what}{left}"

    def work_on(self, work: Work, screen: Screen) -> None:
        """Do the run of a trial as far as validation, and tell the storage what came of it.

        Raises UserError where the default cannot be trained; another trial that cannot is noted, with why.
        """

        def report(at: int, value: float) -> bool:
            work.trial.report(value, at)
            return self.is_behind(work)

        with work.lock:
            self.note(work, train(work.experiment, work.run.path, self.others(), report, screen), screen)

    def others(self) -> list[RunFolder]:
        """The runs of the search, whose data and training another takes over where they are the same."""
        return [RunFolder(path) for path in sorted((self.folder / "runs").iterdir())]

    def is_behind(self, work: Work) -> bool:
        """Whether a trial may end early, by what it reported: it is behind the median of the others."""
        return work.experiment != self.space.asked and work.trial.should_prune()

    def note(self, work: Work, came: Came, screen: Screen) -> None:
        """Tell the storage, and the screen, what came of a trial.

        Raises UserError where the default could not be trained, and where two trials one after the other
        failed by the moment: that is the machine, rather than their values.  The next command notes one, too.
        """
        twice, self.failed_by_the_moment = self.failed_by_the_moment and came.momentary, came.momentary
        if came.error is not None:
            if work.experiment == self.space.asked or twice:
                raise UserError(came.error)
            self._cannot(work.trial, came.error, came.seconds)
            screen.say(f"  cannot be trained: {came.error}")
            return
        work.trial.set_user_attr("seconds", came.seconds)
        if came.figures is None:
            self.study.tell(work.trial, state=TrialState.PRUNED)
            screen.say("  ended early: on validation it is behind the median of the others")
            return
        loss = came.figures[loss_of(work.experiment)]
        work.trial.set_user_attr("validation", came.figures)
        self.study.tell(work.trial, loss)
        screen.say(f"  {loss:.4f} nats a validation row")

    def _cannot(self, trial: Trial, why: str, seconds: float) -> None:
        """Note of a trial why its values cannot be trained."""
        trial.set_user_attr("seconds", seconds)  # first: one that has failed counts, with its seconds
        trial.set_user_attr(FAILED, why)
        self.study.tell(trial, state=TrialState.FAIL)

    def result_lock(self) -> AbstractContextManager[None]:
        """Held while the result is written, by one process at a time."""
        return hold(self._lock("result"), wait=True)

    def _asking(self) -> AbstractContextManager[None]:
        """Held while trials are handed out, by one process at a time."""
        return hold(self._lock("asking"), wait=True)

    def _lock(self, name: str | int) -> Path:
        return self.folder / LOCKS / f"{name}.lock"


def train(
    experiment: Experiment,
    folder: Path,
    others: list[RunFolder],
    report: Callable[[int, float], bool],
    screen: Screen,
) -> Came:
    """Do the run of a trial, `folder`, as far as validation.

    `report`: is told each evaluation's number and loss, and says whether the training may end.
    """
    start, name = time.monotonic(), loss_of(experiment)
    in_shares = evaluates_in_shares(experiment)
    told: set[int] = set()
    ends = False

    def stops(history: list[dict[str, Any]]) -> bool:
        nonlocal ends
        for at, entry in enumerate(each for each in history if name in each):
            if in_shares and at not in told:
                ends = report(at, entry[name])
                told.add(at)
        return ends

    run = RunFolder(folder)
    try:
        run = start_run(experiment, folder, screen)
        do_stages(run, experiment, STAGES, screen, others=others, stops=stops)
        figures = validation_of(run, name)
        if not math.isfinite(figures[name]):
            raise UserError("its validation loss is no number: the training diverged.")
    except TrainingStopped:
        shutil.rmtree(run.sft)  # the weights of a training that leads nowhere
        return Came(time.monotonic() - start)
    except UserError as error:
        momentary = isinstance(error, MomentaryError)
        return Came(time.monotonic() - start, error=str(error), momentary=momentary)
    return Came(time.monotonic() - start, figures)


def evaluates_in_shares(experiment: Experiment) -> bool:
    """Whether evaluations come at shares of a training, so that those of unlike trainings compare."""
    arguments = experiment.arguments
    with suppress(ValueError):  # of which SWIFT's parser says more
        steps = float(arguments.get("eval_steps") or arguments.get("save_steps") or 1)
        return arguments.get("eval_strategy") in (None, "steps") and steps < 1
    return False


def loss_of(experiment: Experiment) -> str:
    """The figure that is searched by: nats a validation row that the right label lacks.

    Not accuracy, which is the same for many trials on few rows; not the loss of the answers' tokens, of which
    prompts have different numbers.
    """
    return "eval_loss" if experiment.has_head else "eval_label_loss"


def validation_of(run: RunFolder, name: str) -> dict[str, float]:
    """The validation figures of the checkpoint that a training kept, the loss `name` among them.

    Raises UserError where there is no evaluation of it.
    """
    training = read_json(run.training)
    step = int(training["checkpoint"].split("-")[1])
    for entry in training["log_history"]:
        if entry["step"] == step and name in entry:
            return {key: value for key, value in entry.items() if key.startswith("eval_")}
    raise UserError(
        f"{run.path}: no evaluation at the checkpoint that was kept, so there is nothing to search by; leave "
        "out the settings of checkpoints and evaluations (save_…, eval_…)."
    )
