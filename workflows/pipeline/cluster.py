"""All that knows Ray: work for many machines, `--ray local` for the cores of this one.

Work is a function that every machine can load: of this project, under the same path on a disk that all share.
A task whose machine dies is done again on another one; what can be mended comes back as the line it is.

Not covered: Ray's client (ray://), for which the command would not run on a machine of the cluster.
"""

import importlib.util
import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError, what_to_mend
from workflows.core.permissions import OFFLINE_VARIABLES, is_here, is_offline, permitted, trusted_names
from workflows.core.run_folder import LOCK, RunFolder, hold
from workflows.core.screen import Screen
from workflows.experiment.cards import ROOT
from workflows.experiment.experiment import Experiment
from workflows.model.gpu import settle_gpu
from workflows.pipeline.run import start_run

LOCAL = "local"
REACH_SECONDS = 20.0
# What tasks need of this command's environment. Tokens are not among them: Ray would keep them where anybody
# on the cluster reads them, so each machine has its own.
PASSED_ON = (*OFFLINE_VARIABLES, "REVIEW_DATA_DIR", "OMP_NUM_THREADS")
TRIES_AGAIN = 5  # of a task whose process or machine died
NODE_LABEL = "ray.io/node-id"
VISIBLE = "CUDA_VISIBLE_DEVICES"
REPORTS = "reports"  # the actor's name

Told = tuple[Any, str | None]  # what came of a task: its result, or what the user can mend

_first_visible: list[str | None] = []  # the GPU that this process began with


@dataclass(frozen=True)
class Task:
    """Work for one process of any machine."""

    name: str
    work: Callable[[], Any]
    with_model: bool  # whether it needs one, so a GPU where there are any


@contextmanager
def on_cluster(address: str) -> Iterator[str]:
    """Within this, tasks go to the cluster at `address`, "local": to one that is started for it and reached
    by this machine alone; gives what it has, in words.  At the end unfinished tasks are stopped.

    Raises UserError where Ray is not installed, or no cluster answers.
    """
    host, _, port = address.rpartition(":")
    if importlib.util.find_spec("ray") is None:
        raise UserError('--ray: needs Ray, which is not installed: pip install "ray[data]>=2.60"')
    if address != LOCAL and ("://" in address or not (host and port.isdecimal())):
        raise UserError(f"--ray {address}: give local, or HOST:PORT, on a machine of the cluster itself.")
    if is_offline() and address != LOCAL and not is_here(host):
        raise UserError(f"--offline --ray {address}: is another machine; --ray local uses this one.")
    if address != LOCAL:
        try:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise UserError(f"--ray {address}: nothing answers there: {error}.") from error
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    if address == LOCAL:  # named after other systems, it is what keeps Ray on 127.0.0.1; read on import
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"env_vars": {**passed, "PYTHONPATH": os.pathsep.join(paths)}}
    try:
        ray.init(address, include_dashboard=False, logging_level=logging.ERROR, runtime_env=environment)
    except (ConnectionError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"--ray {address}: no cluster could be joined ({why}); see `ray status`, on a machine of it."
        ) from error
    try:
        has = ray.cluster_resources()
        gpus = f", {has['GPU']:g} GPUs" if has.get("GPU") else ""
        yield f"Ray: {len(ray.nodes())} machines, {has.get('CPU', 0):g} CPUs{gpus}"
    finally:
        ray.shutdown()


def each_once(
    take: Callable[[], Task | None], at_once: int | None = None, hear: Callable[[], None] | None = None
) -> Iterator[tuple[Task, str | None, Any]]:
    """Do each task that `take` gives, until it gives none; (task, machine, None) when one has begun,
    (task, None, result) when it is done.  Where one raised UserError, or its process died again and again,
    the result is that error.

    `at_once`: how many are taken before one is done (None: all); `hear`: called every second.
    """
    import ray

    tasks: dict[Any, Task] = {}
    asks = True  # no more after `take` gave none, until a task is done
    while True:
        while asks and (at_once is None or len(tasks) < at_once):
            if (task := take()) is None:
                asks = False
                break
            do = _portable(task.work, task.with_model)

            def in_task(do: Callable[[], Told] = do) -> Iterator[Any]:
                yield socket.gethostname()
                yield do()

            asked = {"num_returns": "streaming", "max_retries": TRIES_AGAIN, **_resources(task.with_model)}
            tasks[ray.remote(**asked)(in_task).remote()] = task
        if not tasks:
            return
        ready: Any
        for ready in ray.wait([*tasks], num_returns=1, timeout=None if hear is None else 1)[0]:
            task = tasks[ready]
            try:
                said = ray.get(next(ready))
            except StopIteration:
                del tasks[ready]
                asks = True
                continue
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                del tasks[ready]
                asks = True
                ended = f"ended {TRIES_AGAIN + 1} times without a word ({type(error).__name__})"
                why = f"{task.name}: its process {ended}, as it does where memory runs out"
                said = None, f"{why}; the same command goes on."
            if isinstance(said, str):
                yield task, said, None
                continue
            result, wrong = said
            yield task, None, result if wrong is None else UserError(wrong)
        if hear is not None:
            hear()


def slots() -> int:
    """How many tasks that need a model the cluster does at once."""
    import ray

    has, asked = ray.cluster_resources(), _resources(with_model=True)
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return max(1, min(int(has.get(names[name], 0) // count) for name, count in asked.items()))


class Reports:
    """What tasks tell the command while they work, and whether it has ended one; on the command's machine."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, float]] = []
        self.ended: set[str] = set()

    def tell(self, name: str, at: int, value: float) -> bool:
        """Of a task: its value number `at`; returns whether it has been ended."""
        self.told.append((name, at, value))
        return name in self.ended

    def take(self) -> list[tuple[str, int, float]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told

    def end(self, name: str) -> None:
        """Let a task know, when it tells its next value, that it may end."""
        self.ended.add(name)


def open_reports() -> Any:
    """The actor of `Reports`; it is gone when the cluster is left."""
    import ray

    here = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here)(Reports).options(name=REPORTS).remote()


def report(name: str, at: int, value: float) -> bool:
    """`Reports.tell` from a task."""
    import ray

    ended: bool = ray.get(ray.get_actor(REPORTS).tell.remote(name, at, value))
    return ended


def in_order(
    blocks: Callable[[], Iterator[Any]], work: Callable[[Any], Any], with_model: bool
) -> Iterator[Any]:
    """What `work` makes of each of `blocks`, in their order, through Ray Data.

    The blocks are read on this machine, as many as are about to be worked on; a process of a worker does many
    of them.  `with_model`: as of a task.  Raises UserError as `work` does.
    """
    import pyarrow as pa
    import ray
    from ray import data

    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # byte: so each of our blocks is one of Ray's, and is passed on at once
    do = _portable(partial(_on_first_gpu, work), with_model)
    here = ray.get_runtime_context().get_node_id()

    def table(at: int, content: Any) -> pa.Table:
        return pa.table({"at": [at], "content": pa.array([pickle.dumps(content)], pa.large_binary())})

    def read(_: pa.Table) -> Iterator[pa.Table]:
        for at, block in enumerate(blocks()):
            yield table(at, block)

    def answer(asked: pa.Table) -> pa.Table:
        (row,) = asked.to_pylist()
        return table(row["at"], do(pickle.loads(row["content"])))

    one_table: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    begun = data.from_items([0]).map_batches(read, **one_table, num_cpus=0, label_selector={NODE_LABEL: here})
    # Ray would end a process on a GPU after each block, and load the model for the next one.
    done = begun.map_batches(answer, **one_table, **_resources(with_model), max_calls=0)
    for at, row in enumerate(done.iter_rows()):
        result, wrong = pickle.loads(row["content"])
        if row["at"] != at:
            raise RuntimeError(f"Ray Data gave block {row['at']} in the place of block {at}")
        if wrong is not None:
            raise UserError(wrong)
        yield result


def check_seen(path: Path) -> None:
    """Raise UserError where the machine that a task is on does not see what the command works with."""
    if not path.exists():
        raise UserError(
            f"{path}: machine {socket.gethostname()} does not see it; with --ray it must lie on a disk that "
            "all machines share, under the same path."
        )


@contextmanager
def run_in_task(experiment: Experiment, folder: Path, beside: Path) -> Iterator[tuple[RunFolder, Screen]]:
    """The run `folder` of an experiment for a task, and its screen, which is logs/run.log in it.

    `beside`: what the command made where the run lies.  Raises UserError where that is not seen.
    """
    check_seen(beside)
    settle_gpu()
    with Screen().silenced() as silent:
        run = start_run(experiment, folder, silent)
    with hold(run.path / LOCK, wait=True):  # by the process of a machine that is taken for dead, and is not
        pass
    with Screen().output_to(run.log("run")):
        yield run, Screen()


def _resources(with_model: bool) -> dict[str, Any]:
    """What a task asks for: one core, and a GPU where it needs a model and there are GPUs."""
    import ray

    on_gpu = with_model and ray.cluster_resources().get("GPU", 0) >= 1
    return {"num_cpus": 1, **({"num_gpus": 1} if on_gpu else {})}


def _portable(work: Callable[..., Any], with_model: bool) -> Callable[..., Told]:
    """`work` as a function that is sent as code, and loads the project where it arrives."""
    packed, root = pickle.dumps(partial(_told, work, with_model, trusted_names())), str(ROOT)

    def there(*given: Any) -> Told:
        try:
            told: Told = pickle.loads(packed)(*given)
        except ModuleNotFoundError as error:
            why = f"machine {socket.gethostname()} cannot load this project from {root}: {error}"
            return None, f"--ray: {why}; it must lie there, with what it requires, on every machine."
        return told

    return there


def _told(work: Callable[..., Any], with_model: bool, trusted: list[str], *given: Any) -> Told:
    if with_model:
        # In a process of Ray SWIFT takes itself for one that its own way of using Ray has started.
        from swift.ray_utils.base import RayHelper

        RayHelper.ray_inited = staticmethod(lambda: False)
    with permitted(is_offline(), trusted):
        try:
            return work(*given), None
        except Exception as error:
            if (said := what_to_mend(error, [Path.cwd()])) is None:
                raise
            return None, said


def _on_first_gpu(work: Callable[[Any], Any], block: Any) -> Any:
    """Do the work, unless Ray gives this process another GPU than before, by which torch cannot go: then end
    it, and Ray takes a new one.
    """
    if not _first_visible:
        _first_visible.append(os.environ.get(VISIBLE))
    if os.environ.get(VISIBLE) != _first_visible[0]:
        os._exit(1)
    return work(block)
