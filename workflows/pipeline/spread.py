"""Does a stage by several processes, on one machine or more: starts torchrun, as SWIFT's own command line
does, on the module beside this one, and waits.

A process that ends badly ends the others, and so does the end of the command that started them; what they
have written until then is what the same command goes on from.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.permissions import trusted_names
from workflows.core.run_folder import RunFolder
from workflows.core.screen import as_typed
from workflows.core.texts import Text
from workflows.core.told import tell
from workflows.experiment.cards import ROOT
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.experiment.options import ProcessOptions
from workflows.experiment.recipes import Plain
from workflows.model.gpu import gpus_of_processes
from workflows.model.machine import find_machine, is_adalora, let_go_of_memory

GRACE = 5  # seconds in which torchrun ends by the terminal's Ctrl-C
PATIENCE = 86_400  # seconds that machines wait for each other: machine 0 does the stages before alone


def result_of(run: RunFolder, stage: str) -> Path:
    """Where the first process leaves what the stage returned, or any of them why it could not."""
    return run.path / f".{stage}.json"


def do_by_many(job: Job, stage: str, processes: ProcessOptions) -> dict[str, Any]:
    """Do a stage by all processes; return its `summary` and the first one's `peak_memory_bytes` (nothing on
    another machine than 0).

    Raises UserError as the stage does, and RuntimeError where a process ended otherwise.
    """
    result, is_first = result_of(job.run, stage), processes.node_rank == 0
    if is_first:
        result.unlink(missing_ok=True)
    job.base.release()  # each process has a model of its own
    let_go_of_memory()  # the first one's GPU is this process's
    cores = os.cpu_count() or 1
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // processes.nproc))),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    gpus = gpus_of_processes(processes.nproc)
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    command = [
        *(sys.executable, "-m", "torch.distributed.run", *_torchrun(processes)),
        *("-m", "workflows.pipeline.rank", str(job.run.path.resolve()), stage, job.inputs, str(os.getpid())),
        *trusted_names(),
    ]
    # Standard error goes to the log, where all of them write; the first one's bars go to the screen.
    with subprocess.Popen(command, stdout=job.screen.err, env=environment) as started:
        try:
            code = started.wait()
        except KeyboardInterrupt:
            try:
                started.wait(GRACE)  # the terminal's Ctrl-C reached it too …
            except subprocess.TimeoutExpired:
                started.terminate()  # … a signal to this process alone did not
                started.wait()
            raise
    said = read_json(result) if result.exists() and (is_first or code != 0) else {}
    if is_first:
        result.unlink(missing_ok=True)
    if "error" in said:
        raise UserError(said["error"])
    if code != 0:
        raise RuntimeError(
            f"one of {processes.total} processes ended before its work was done, and the others with it; "
            f"{as_typed(job.run.log(stage))} says why. The same command goes on from here."
        )
    for each in said.pop("told", []):
        tell(Text(**each))
    return said


def check_processes(experiment: Experiment, processes: ProcessOptions, trains: bool) -> None:
    """Raise UserError where several processes cannot work on a run; `trains`: whether it is to be trained."""
    several = f"--nproc {processes.nproc} --nnodes {processes.nnodes}"
    if experiment.tuning.engine != "fast":
        raise UserError(f"{several}: several processes answer by --engine fast only.")
    # SWIFT changes AdaLoRA's ranks in a method that the model of several processes does not call.
    if isinstance(experiment.recipe, Plain) or is_adalora(experiment.arguments):
        raise UserError(f"{several}: method {experiment.tuning.method} trains in one process.")
    gpus_of_processes(processes.nproc)
    if processes.nnodes > 1 and processes.node_rank == 0:
        _check_port(processes.master_port)
    if trains:
        from workflows.tuning.train import share_batch  # with SWIFT, which light commands do without

        share_batch(experiment, find_machine(), processes.total)


def _check_port(port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--master-port {port}: {error.strerror or error}; take another on every machine."
            ) from error


def _torchrun(processes: ProcessOptions) -> list[str]:
    if processes.nnodes == 1:  # a free port is found
        return ["--standalone", "--nproc-per-node", str(processes.nproc)]
    return [
        *("--nproc-per-node", str(processes.nproc), "--nnodes", str(processes.nnodes)),
        *("--node-rank", str(processes.node_rank), "--rdzv-conf", f"timeout={PATIENCE}"),
        *("--master-addr", processes.master_addr, "--master-port", str(processes.master_port)),
    ]
