"""What a user can mend: the exception for it, and which failures of a library or of the machine are of that
kind.

Libraries tell of one full disk in four ways, from anywhere: `what_to_mend` reads them all where a command
ends, so that no write needs a check of its own.
"""

import errno
import os
import pickle
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from workflows.core.secrets import hide

GOES_ON = "the same command then goes on"
NAME_ANOTHER = f"change that, or name another path; {GOES_ON}"
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_MEMORY = (
    *("can't allocate memory", "bad_alloc", "can't start new thread"),  # of torch, C++, Python
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),  # of CUDA, outside torch's own allocator
)
PLENTY = 10e9  # bytes: more than a checkpoint of any model here
# What the system refuses a path for, and what to do about it.
REFUSED = {
    errno.EFBIG: f"allow larger files (ulimit -f), or name a folder on another disk; {GOES_ON}",
    errno.EIO: f"see whether that disk is well; {GOES_ON}",
    errno.ESTALE: f"connect that disk again; {GOES_ON}",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), NAME_ANOTHER),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR), "name another path"),
    errno.EEXIST: "a folder is wanted; name another path",
}


class UserError(Exception):
    """Bad input: the message says in one line what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.  Libraries' own messages are a part
    of many, and may hold a token, which is hidden.
    """

    def __str__(self) -> str:
        return hide(super().__str__())


class MomentaryError(UserError):
    """What failed may be well in a moment: memory that others hold, a server that is down."""


class TrainingStopped(UserError):
    """Whoever watched a training has ended it: its run goes on where it is asked again."""


def what_to_mend(error: BaseException | None, written: Iterable[str | Path]) -> str | None:
    """One line on a failure that is no fault of the program: what a UserError says, a disk that is full, a
    path that is refused or gone, memory that ran out; None for any other.

    `written`: paths that the command may have written to, since a failed write does not say where it was.
    """
    if isinstance(error, UserError):
        return str(error)
    while error is not None:
        if isinstance(error, pickle.UnpicklingError):  # of torch, which reads numbers alone
            return (
                "a .bin, .pt or .pth file of the model or checkpoint is torn, or holds more than numbers; "
                "nothing of it was run. Take one with .safetensors, or train again in a new folder."
            )
        number, path = _number_and_path(error)
        if number is None and type(error).__name__ == "SafetensorError":
            return (
                "a .safetensors file of the model, its checkpoint or the probe is torn, or a pointer of "
                "git-lfs: bring a whole copy back, or fetch or train it again"
            )
        if number is None and isinstance(error, OSError) and "no file named" in str(error):  # transformers'
            return f"{' '.join(str(error).split())} Copy the model again, whole."
        if number in FULL:
            return f"no space is left: {_fullest(written)}; free some; {GOES_ON}"
        if number == errno.ENOMEM or is_out_of_memory(error):
            mend = f"end other programs that use it; {GOES_ON}; or begin anew with a smaller model"
            return f"memory ran out: {mend}"
        if number == errno.ENOENT and path and not Path(path).parent.exists():
            return f"{Path(path).parent}: this folder is gone; bring it back, or name another one"
        if number in REFUSED and (path or number == errno.EFBIG):
            what = os.strerror(number)
            return f"{path}: {what}; {REFUSED[number]}" if path else f"{what}: {REFUSED[number]}"
        error = error.__cause__
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory: of torch on a GPU an exception of its own, on a CPU a RuntimeError."""
    said = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(part in said for part in NO_MEMORY))
    )


def _number_and_path(error: BaseException) -> tuple[int | None, str | None]:
    """The system's number of a failure (errno) and the path that it was about, as far as they are told."""
    said = str(error)
    if isinstance(error, OSError):
        if "No usable temporary directory" in said:  # tempfile's, where it could write to none
            return errno.ENOSPC, None
        return error.errno, os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if isinstance(error, RuntimeError):
        if "inline_container.cc" in said:  # torch.save's, whatever kept it from writing
            return errno.ENOSPC, None
        if found := re.match(r"Parent directory (.+) does not exist", said):  # torch.save's, too
            return errno.ENOENT, f"{found[1]}/file"
        if found := re.match(r"Symlink loop from '(.+)'", said):  # pathlib's
            return errno.ELOOP, found[1]
    if "database or disk is full" in said:  # SQLite's
        return errno.ENOSPC, None
    found = re.search(r'\(os error (\d+)\)(?: at path "(.+)")?', said)  # safetensors', tokenizers'
    return (int(found[1]), found[2]) if found else (None, None)


def _fullest(paths: Iterable[str | Path]) -> str:
    """Of the disks that paths lie on, the one with least space, where that is little."""
    folders = set()
    for path in map(Path, paths):
        at = path.absolute()
        while not os.path.isdir(at):  # noqa: PTH112 - an argument may be a text that is no path
            at = at.parent
        folders.add(at)
    free, folder = min((shutil.disk_usage(folder).free, str(folder)) for folder in folders)
    if free > PLENTY:
        return f"{folder} has {free / 1e9:,.0f} GB free, so it is a quota, or where the output goes"
    return f"{folder} has {free / 1e6:,.0f} MB free"
