"""The trials of a search on the machines of a Ray cluster: each is a task.

The command alone takes trials, notes what came of them, and decides who ends early; so the storage has one
writer, on one machine.  A task reports each evaluation, and hears at the next one that it may end.
"""

from functools import partial
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment
from workflows.pipeline import cluster
from workflows.search.trials import Came, Trials, Work, train


def train_on_cluster(trials: Trials, address: str, screen: Screen) -> None:
    """Do all trials that are left; a task whose machine dies goes on with its trial on another one.

    Raises UserError as `on_cluster`, `Trials.note` and the tasks.
    """
    works: dict[str, Work] = {}
    titles: dict[str, str] = {}
    told: set[tuple[str, int]] = set()  # a task that is done again tells its first values again

    def take() -> cluster.Task | None:
        if (work := trials.take_next()) is None:
            return None
        what = trials.what_comes(work)
        screen.say(f"\n{what}")
        name = work.run.path.name
        works[name], titles[name] = work, what.partition(":")[0]
        there = partial(train_there, name, work.experiment, work.run.path, trials.others())
        return cluster.Task(name, there, with_model=True)

    with screen.output_to(trials.folder / "logs" / "ray.log"), cluster.on_cluster(address) as has:
        import ray

        screen.say(has)
        reports = cluster.open_reports()

        def hear() -> None:
            for name, at, value in ray.get(reports.take.remote()):
                if (name, at) not in told:
                    works[name].trial.report(value, at)
                    told.add((name, at))
                if trials.is_behind(works[name]):
                    ray.get(reports.end.remote(name))

        for task, machine, came in cluster.each_once(take, cluster.slots(), hear):
            if machine is not None:
                screen.say(f"{titles[task.name]}: begun on {machine}")
                continue
            if isinstance(came, UserError):
                raise came
            screen.say(f"{titles[task.name]}:")
            hear()
            with works[task.name].lock:
                trials.note(works[task.name], came, screen)


def train_there(name: str, experiment: Experiment, folder: Path, others: list[RunFolder]) -> Came:
    """Do the run of a trial, `folder`, in a process on any machine that sees the search.

    Raises UserError where it does not.
    """
    with cluster.run_in_task(experiment, folder, beside=folder.parents[1]) as (run, screen):
        return train(experiment, run.path, others, partial(cluster.report, name), screen)
