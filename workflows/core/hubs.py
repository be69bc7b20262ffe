"""The two hubs, ModelScope and Hugging Face: files of a repository, fetched by the hub's own client.

The clients repeat what failed with growing pauses and go on where a transfer broke off; ModelScope's compares
checksums, for Hugging Face that is done here.  Neither gives up every hub that stalls, so a client works in a
process of its own, which is stopped when it moves less than LEAST_RATE for as long as STALL_VARIABLE says.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from workflows.core.errors import UserError
from workflows.core.permissions import offline_variable

Hub = Literal["modelscope", "huggingface"]
HUBS: tuple[Hub, ...] = ("modelscope", "huggingface")
REACH_SECONDS = 10.0  # the clients themselves try for half a minute before they give a dead network up
STALL_VARIABLE = "MODELSCOPE_DOWNLOAD_LOW_SPEED_WINDOW_SECONDS"  # ModelScope's own, here for both hubs
STALL_SECONDS = 60.0  # ModelScope's default
LEAST_RATE = 1024  # bytes a second, ModelScope's default
PIECE = 2**16  # bytes; of Hugging Face's 10 MB a transfer that breaks off would lose all, and show nothing


class HubError(Exception):
    """A hub did not give what it was asked for; the message says why in one line."""


@dataclass(frozen=True)
class Repository:
    """What is wanted of a repository: the files that fit one of `wanted` (none: all), without `unwanted`."""

    hub: Hub
    kind: Literal["model", "dataset"]
    id: str
    revision: str | None = None
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()


def fetch(repository: Repository) -> Path:
    """The local folder with the files, downloaded where they are not in the client's cache.

    Raises HubError where the hub does not answer, refuses, sends what does not fit its own checksum, or
    stalls; what came whole or in part stays in the cache, and ModelScope's client goes on from there.
    UserError where STALL_VARIABLE is no number.
    """
    if variable := offline_variable():
        raise HubError(f"not in its cache, and --offline asks no hub ({variable} is set)")
    program = f"import sys; sys.path[:] = {sys.path!r}; from workflows.core.hubs import work; work()"
    command = [sys.executable, "-c", program, json.dumps(asdict(repository))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            _wait_while_it_moves(process)
            assert process.stdout is not None
            answer = process.stdout.read()
        finally:
            process.kill()
    if not answer:
        raise HubError(f"its client ended with exit code {process.returncode}")
    result = json.loads(answer)
    if "folder" not in result:
        raise HubError(result["error"])
    return Path(result["folder"])


def find_cached(repository: Repository) -> Path | None:
    """The folder of what the client's cache holds of a repository, with all of `wanted` that are names; None
    where it does not. Opens no socket.
    """
    try:
        folder = _ask_client(repository, local_files_only=True)
    except Exception:  # each client has its own family of exceptions
        return None
    return folder if all((folder / name).is_file() for name in repository.wanted) else None


def check_reachable(hub: Hub, seconds: float = REACH_SECONDS) -> str:
    """The hub's address. Raises HubError where nothing answers there within so many seconds."""
    import requests

    if hub == "modelscope":
        from modelscope_hub import get_default_config

        endpoint = str(get_default_config().endpoint)
    else:
        from huggingface_hub import constants

        endpoint = constants.ENDPOINT
    try:
        requests.head(endpoint, timeout=seconds, allow_redirects=False)
    except requests.RequestException as error:
        found = requests.exceptions
        wrong = (found.ProxyError, found.SSLError, found.MissingSchema, found.InvalidSchema, found.InvalidURL)
        if isinstance(error, wrong):
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise HubError(f"{endpoint} cannot be asked: {why}") from error
        raise HubError(f"{endpoint} does not answer") from error
    return endpoint


def work() -> None:
    """What the process of its own does: a Repository in its first argument, the answer on its output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a client prints is no answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked = json.loads(sys.argv[1])
    repository = Repository(**{**asked, **{name: tuple(asked[name]) for name in ("wanted", "unwanted")}})
    try:
        check_reachable(repository.hub)
        if repository.hub == "huggingface":
            from huggingface_hub import constants

            constants.DOWNLOAD_CHUNK_SIZE = PIECE
        result = {"folder": str(_download(repository))}
    except Exception as error:  # each client has its own family of exceptions; all mean "not from here"
        cause: BaseException = error
        if parts := getattr(error, "failed_files", None):  # ModelScope's, of which one is as good as all
            cause = next(iter(parts.values()))
        elif type(error).__name__ == "LocalEntryNotFoundError":  # Hugging Face's: nor is it in the cache
            cause = error.__cause__ or error
        name = "" if isinstance(cause, HubError) else f"{type(cause).__name__}: "
        result = {"error": f"{name}{' '.join(str(cause).split())[:200]}"}
    answers.write(json.dumps(result))
    answers.flush()
    os._exit(0)  # threads of a client may still wait for the hub


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _wait_while_it_moves(process: "subprocess.Popen[str]") -> None:
    """Wait for the end of `process`; raise HubError where it stalls."""
    import psutil

    if not hasattr(psutil.Process, "io_counters"):  # as on a Mac: whether it moves nobody says
        process.wait()
        return
    seconds, moved = _stall_seconds(), 0
    while True:
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            before, moved = moved, _bytes_moved(process.pid)
        if moved - before < LEAST_RATE * seconds:
            raise HubError(f"it stalls: less than {LEAST_RATE / 1024:g} KB/s for {seconds:g} s")


def _stall_seconds() -> float:
    asked = os.environ.get(STALL_VARIABLE) or STALL_SECONDS
    with suppress(ValueError):
        if (seconds := float(asked)) > 0:
            return seconds
    raise UserError(f"{STALL_VARIABLE}={asked}: give a number of seconds above 0, without a unit.")


def _bytes_moved(pid: int) -> int:
    """Bytes that a process has read and written so far, in files for the most part."""
    import psutil

    try:
        counters = psutil.Process(pid).io_counters()
    except psutil.NoSuchProcess:  # it ended just now
        return sys.maxsize
    return int(counters.read_chars + counters.write_chars)


def _download(repository: Repository) -> Path:
    import requests

    try:
        folder = _ask_client(repository)
    except requests.exceptions.ChunkedEncodingError:  # huggingface_hub 0 goes on only when it is asked again
        folder = _ask_client(repository)
    if repository.hub == "huggingface" and _discard_corrupted(folder):
        folder = _ask_client(repository)
        if names := _discard_corrupted(folder):
            raise HubError(f"{', '.join(names)}: not what the checksum says, twice")
    if missing := [name for name in repository.wanted if not (folder / name).is_file()]:
        raise HubError(f"it has no {', '.join(missing)}")
    return folder


def _ask_client(repository: Repository, local_files_only: bool = False) -> Path:
    """What the hub's own client gives; what it raises differs from hub to hub."""
    named = None if repository.revision in ("main", "master") else repository.revision
    asked = {
        "repo_type": repository.kind,
        "revision": named,
        "allow_patterns": [*repository.wanted] or None,
        "ignore_patterns": [*repository.unwanted] or None,
        "local_files_only": local_files_only,
    }
    if repository.hub == "modelscope":
        from modelscope_hub.compat import snapshot_download

        return Path(snapshot_download(repository.id, **asked))
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository.id, **asked))


def _discard_corrupted(snapshot: Path) -> list[str]:
    """Delete the files of a Hugging Face snapshot that are not what the hub announced; their names.

    Each is a link to a file named by its ETag: the SHA-256 of a large file, git's SHA-1 of any other.
    """
    bad = []
    for path in sorted(each for each in snapshot.rglob("*") if each.is_symlink()):
        announced, content = path.readlink().name, path.resolve()
        digest = hashlib.sha256()
        if len(announced) == 40:
            digest = hashlib.sha1(f"blob {content.stat().st_size}\0".encode(), usedforsecurity=False)
        with open(content, "rb") as file:
            for part in iter(partial(file.read, 2**20), b""):
                digest.update(part)
        if len(announced) in (40, 64) and digest.hexdigest() != announced:
            bad.append(path.name)
            content.unlink()
            path.unlink()
    return bad
