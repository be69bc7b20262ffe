"""A plugin of SWIFT's: our data sets by name in SWIFT's own commands, cleaned and cut as ours.

swift sft --external_plugins workflows/serving/swift_datasets.py --dataset waimai --val_dataset waimai:val …

Subsets: the training rows by default, `val` and `test`.  Data are prepared once, in outputs/swift/NAME/; the
variable REVIEW_DATA_DIR names a folder that has their files, as for `run`.
"""

import sys
from pathlib import Path
from typing import Any

from swift.dataset import DatasetMeta, SubsetDataset, register_dataset
from swift.dataset.loader import DatasetLoader

sys.path.insert(0, str(Path(__file__).parents[2]))  # SWIFT imports this file alone, from wherever it is run

from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.cards import DATASETS, names_of
from workflows.experiment.options import DataOptions, RunOptions
from workflows.experiment.resolve import resolve
from workflows.pipeline.run import OUTPUTS, do_stages

SPLIT_OF = {"default": "train", "val": "val", "test": "test"}  # by subset


class ReviewLoader(DatasetLoader):
    """Loads a data set's rows from the files that `prepare` writes."""

    def load(self, dataset_syntax: Any = None, dataset_meta: Any = None, *, use_hf: Any = None) -> Any:
        """The rows of the subsets that are asked for, as SWIFT's loader gives them."""
        name = dataset_meta.dataset_name
        run, experiment = RunFolder(OUTPUTS / "swift" / name), resolve(RunOptions(DataOptions(dataset=name)))
        do_stages(run, experiment, ("prepare",), Screen())
        subsets = self._select_subsets(dataset_syntax.subsets, dataset_meta)
        paths = [str(run.split(SPLIT_OF[subset.subset])) for subset in subsets]
        return self.concat_datasets([self._load_dataset_path(path, dataset_meta) for path in paths])


for _name in names_of(DATASETS):
    register_dataset(
        DatasetMeta(
            ms_dataset_id=_name,
            hf_dataset_id=_name,
            dataset_name=_name,
            subsets=[SubsetDataset(subset=subset) for subset in SPLIT_OF],
            loader=ReviewLoader,
        ),
        exist_ok=True,
    )
