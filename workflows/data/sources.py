"""Finds a data set's files: --data-file, a local folder, the ModelScope hub, the Hugging Face hub, in that
order.

Hub files come through the hubs' own clients and their caches: `modelscope_hub.HubApi` (modelscope's, which
does not load torch) and `huggingface_hub.hf_hub_download`.
"""

import os
from collections.abc import Callable
from pathlib import Path

from workflows.core.errors import UserError
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
    for folder in local_folders(options.data_dir):
        if folder != DATASETS:
            wanted = " or ".join(", ".join(files.values()) for files in card.local)
            tried.append(f"{folder}: no {wanted}" if folder.is_dir() else f"{folder}: no such folder")
    for source in card.sources:
        try:
            return {split: _download(source, name) for split, name in source.files.items()}, source.place
        except Exception as error:  # each client has its own family of exceptions; all mean "not from here"
            tried.append(
                f"{source.hub} {source.id}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            )
    raise UserError(
        f"data set {card.name}: no source could be reached. Tried: "
        f"{'; '.join(tried) or 'nothing is known of it'}. "
        "Give the file with --data-file FILE, or its folder with --data-dir DIR (or "
        f"{DATA_DIR_VARIABLE}=DIR)."
    )


def find_local_files(card: DatasetCard, options: DataOptions) -> tuple[dict[str, Path], str] | None:
    """The files on this machine that --data-file or a local folder give, and where they are from; else
    None.
    """
    if options.data_file is not None:
        given = {"train": options.data_file, "val": options.val_file, "test": options.test_file}
        return {split: Path(name) for split, name in given.items() if name is not None}, "--data-file"
    for folder in local_folders(options.data_dir):
        found = find_in_folder(card, folder)
        if found:
            return found, str(folder)
    return None


def local_folders(data_dir: str | None) -> list[Path]:
    """The folders searched for a data set's files, in order."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    return [*([Path(named).expanduser()] if named else []), DATASETS]


def find_in_folder(card: DatasetCard, folder: Path) -> dict[str, Path] | None:
    """The first of the card's local file sets that lies whole in `folder`."""
    for files in card.local:
        paths = {split: folder / name for split, name in files.items()}
        if all(path.is_file() for path in paths.values()):
            return paths
    return None


def at_hand(card: DatasetCard, data_dir: str | None) -> str | None:
    """Where the data set already lies on this machine (a folder, or a hub's cache); None where it does
    not.
    """
    for folder in local_folders(data_dir):
        if find_in_folder(card, folder):
            return "embedded" if folder == DATASETS else str(folder)
    for source in card.sources:
        if all(_cached(source, name) for name in source.files.values()):
            return f"{source.hub} cache"
    return None


def _download(source: HubSource, name: str) -> Path:
    if source.hub == "modelscope":
        from modelscope_hub import HubApi, get_default_config

        _check_reachable(str(get_default_config().endpoint), lambda: _cached(source, name))
        return Path(HubApi().download_file(source.id, "dataset", name))
    from huggingface_hub import constants, hf_hub_download

    _check_reachable(constants.ENDPOINT, lambda: _cached(source, name))
    return Path(hf_hub_download(source.id, name, repo_type="dataset"))


def _check_reachable(endpoint: str, in_cache: Callable[[], bool]) -> None:
    """Raise ConnectionError at once where the hub does not answer and the file is not in its cache."""
    import requests

    if in_cache():
        return
    try:
        requests.head(endpoint, timeout=REACH_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise ConnectionError(f"{endpoint} does not answer") from error


def _cached(source: HubSource, name: str) -> bool:
    if source.hub == "modelscope":
        from modelscope_hub import CacheNotFound, HubApi

        try:
            HubApi().download_file(source.id, "dataset", name, local_files_only=True)
        except CacheNotFound:
            return False
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.id, name, repo_type="dataset"), str)
