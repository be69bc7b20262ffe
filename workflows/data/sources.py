"""Finds a data set's files: --data-file, a local folder, the ModelScope hub, the Hugging Face hub, in that
order.

Hub files come through the hubs' own clients and their caches: workflows/core/hubs.py.
"""

import os
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.hubs import HubError, Repository, fetch, find_cached
from workflows.experiment.cards import DATASETS, DatasetCard, HubSource
from workflows.experiment.options import DataOptions

DATA_DIR_VARIABLE = "REVIEW_DATA_DIR"


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
    wanted = " or ".join(", ".join(files.values()) for files in card.local)
    for folder in _local_folders(options.data_dir)[:-1]:  # the last one holds the embedded sets
        if not folder.is_dir():  # else a hub's data would be taken in place of those that it stands for
            raise UserError(
                f"{DATA_DIR_VARIABLE}={folder}: there is no such folder; mend the variable, or unset it."
            )
        tried.append(f"{folder}: no {wanted}")
    for source in card.sources:
        try:
            folder = find_cached(_repository(source)) or fetch(_repository(source))
            return {split: folder / name for split, name in source.files.items()}, source.place
        except HubError as error:
            tried.append(f"{source.hub} {source.id}: {error}")
    or_folder = f", or with --data-dir DIR (or {DATA_DIR_VARIABLE}=DIR) the folder that has {wanted}"
    raise UserError(
        f"data set {card.name}: no source could be reached. "
        f"{'Tried: ' + '; '.join(tried) if tried else 'No hub has it'}. "
        f"To work offline, give the file with --data-file FILE{or_folder if wanted else ''}."
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
    return next((f"{source.hub} cache" for source in card.sources if find_cached(_repository(source))), None)


def _local_folders(data_dir: str | None) -> list[Path]:
    """The folders searched for a data set's files, in order."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    return [*([Path(named).expanduser()] if named else []), DATASETS]


def _repository(source: HubSource) -> Repository:
    return Repository(source.hub, "dataset", source.id, wanted=tuple(source.files.values()))
