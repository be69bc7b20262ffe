"""Finds a data set's files: --data-file, a local folder, the ModelScope hub, the Hugging Face hub, in that
order.

Hub files come through the hubs' own clients and their caches: `modelscope_hub.HubApi` (modelscope's, which
does not load torch) and `huggingface_hub.hf_hub_download`.
"""

import os
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.permissions import is_offline
from workflows.experiment.cards import DATASETS, DatasetCard, HubSource
from workflows.experiment.options import DataOptions

DATA_DIR_VARIABLE = "REVIEW_DATA_DIR"
REACH_SECONDS = 10.0  # the clients themselves try for half a minute before they give a dead network up


def find_files(card: DatasetCard, options: DataOptions) -> tuple[dict[str, Path], str]:
    """The file of each split that the source has (train always; val, test where it has them), and where it is
    from.

    Raises UserError where no source can be reached: it names each one tried, why it failed, and the flag for
    a file.
    """
    local = find_local_files(card, options)
    if local is not None:
        return local
    tried: list[str] = []
    for folder in _local_folders(options.data_dir)[:-1]:  # the last one holds the embedded sets
        wanted = " or ".join(", ".join(files.values()) for files in card.local)
        tried.append(f"{folder}: no {wanted}" if folder.is_dir() else f"{folder}: no such folder")
    offline = is_offline()
    for source in card.sources:
        if offline and not _is_cached(source):
            tried.append(f"{source.hub} {source.id}: not in its cache, and --offline asks no hub")
            continue
        try:
            if not _is_cached(source):
                _check_reachable(source)
            return {
                split: _fetch(source, name, offline) for split, name in source.files.items()
            }, source.place
        except Exception as error:  # each client has its own family of exceptions; all mean "not from here"
            tried.append(
                f"{source.hub} {source.id}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            )
    raise UserError(
        f"data set {card.name}: no source could be reached. Tried: "
        f"{'; '.join(tried) or 'nothing is known of it'}. "
        "Give the file with --data-file FILE, or its folder with --data-dir DIR (or "
        f"{DATA_DIR_VARIABLE}=DIR){', or start once without --offline' if offline else ''}."
    )


def find_local_files(card: DatasetCard, options: DataOptions) -> tuple[dict[str, Path], str] | None:
    """The files on this machine that --data-file or a local folder give, and where they are from; else
    None.
    """
    if options.data_file is not None:
        given = {"train": options.data_file, "val": options.val_file, "test": options.test_file}
        return {split: Path(name) for split, name in given.items() if name is not None}, "--data-file"
    for folder in _local_folders(options.data_dir):
        for files in card.local:
            paths = {split: folder / name for split, name in files.items()}
            if all(path.is_file() for path in paths.values()):
                return paths, str(folder)
    return None


def at_hand(card: DatasetCard, data_dir: str | None) -> str | None:
    """Where the data set already lies on this machine (a folder, or a hub's cache); None where it does
    not.
    """
    local = find_local_files(card, DataOptions(data_dir=data_dir))
    if local is not None:
        return "embedded" if local[1] == str(DATASETS) else local[1]
    return next((f"{source.hub} cache" for source in card.sources if _is_cached(source)), None)


def _local_folders(data_dir: str | None) -> list[Path]:
    """The folders searched for a data set's files, in order."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    return [*([Path(named).expanduser()] if named else []), DATASETS]


def _fetch(source: HubSource, name: str, only_cached: bool = False) -> Path:
    """A file of a hub, downloaded where it is not in the cache; what it raises where that fails differs."""
    if source.hub == "modelscope":
        from modelscope_hub import HubApi

        return Path(HubApi().download_file(source.id, "dataset", name, local_files_only=only_cached))
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source.id, name, repo_type="dataset", local_files_only=only_cached))


def _is_cached(source: HubSource) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError
    from modelscope_hub import CacheNotFound

    try:
        return all(_fetch(source, name, only_cached=True) for name in source.files.values())
    except (CacheNotFound, LocalEntryNotFoundError):
        return False


def _check_reachable(source: HubSource) -> None:
    """Raise ConnectionError at once where the hub does not answer."""
    import requests
    from huggingface_hub import constants
    from modelscope_hub import get_default_config

    endpoint = str(get_default_config().endpoint) if source.hub == "modelscope" else constants.ENDPOINT
    try:
        requests.head(endpoint, timeout=REACH_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise ConnectionError(f"{endpoint} does not answer") from error
