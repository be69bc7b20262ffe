"""One of several processes that do a stage together; spread.py starts it.

Arguments: run folder, stage, fingerprint of the stage's inputs, process id of the command, trusted names.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
from swift.utils import init_process_group

from workflows.core.errors import what_to_mend
from workflows.core.files import write_json
from workflows.core.permissions import is_offline, permitted
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.told import listening
from workflows.experiment.experiment import load_experiment
from workflows.experiment.job import Job
from workflows.model.loaded import LoadedModel
from workflows.model.machine import peak_memory
from workflows.model.ranks import rank, wait_for_all
from workflows.pipeline.spread import result_of
from workflows.pipeline.stages import STAGES


def main(folder: str, name: str, inputs: str, command: str, *trusted: str) -> int:
    """Do this process's part of a stage; the exit code is 0, or 2 for what the user can mend."""
    threading.Thread(target=_end_with, args=(int(command),), daemon=True).start()
    screen = _screen(shows=os.environ["RANK"] == "0")
    run = RunFolder(Path(folder))
    with permitted(is_offline(), trusted), listening(lambda said: None) as told:
        try:
            init_process_group()
            job = Job(run, load_experiment(run.experiment), screen, LoadedModel(), inputs)
            summary = next(stage for stage in STAGES if stage.name == name).do(job)
        except Exception as error:
            if (mend := what_to_mend(error, [folder])) is None:
                raise
            write_json(result_of(run, name), {"error": mend})
            return 2
    if rank() == 0:
        said = {"told": [asdict(each) for each in told], "peak_memory_bytes": peak_memory()}
        write_json(result_of(run, name), {"summary": summary, **said})
    # Who ends early is taken for dead.  A connection that is closed here is of a process that has left this
    # line: gloo may see that before the last message.  One that failed has an exit code of its own.
    with suppress(RuntimeError):
        wait_for_all()
    return 0


def _screen(shows: bool) -> Screen:
    """The first process draws on standard output, which is the terminal; all else goes where standard error
    leads, to the log.
    """
    log = os.dup(2)
    shown = os.dup(1) if shows else os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(shown, descriptor)
    screen = Screen()
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    return screen


def _end_with(command: int) -> None:
    """End this process when the command that started it is gone: nobody else may find two at work."""
    with suppress(psutil.NoSuchProcess):
        # A zombie has ended, though whoever started it has not asked.
        while psutil.Process(command).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
