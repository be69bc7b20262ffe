"""A plugin of SWIFT's: our data sets by name in SWIFT's own commands, cleaned and cut as ours.

swift sft --external_plugins workflows/serving/swift_datasets.py --dataset waimai --val_dataset waimai:val …

Subsets: the training rows by default, `val` and `test`.  Data are prepared once, in outputs/swift/NAME/; the
variable REVIEW_DATA_DIR names a folder that has their files, as for `run`.  Data sets for heads have rows for
heads.  Only the bare name is ours: SWIFT's DAMO_NLP/jd and a folder data/demo stay what they are.
"""

import sys
from pathlib import Path
from typing import Any

from swift.dataset import DatasetMeta, SubsetDataset, register_dataset
from swift.dataset.loader import DatasetLoader
from swift.utils import safe_ddp_context

sys.path.insert(0, str(Path(__file__).parents[2]))  # SWIFT imports this file alone, from wherever it is run

from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.cards import DATASETS, load_dataset_card, names_of
from workflows.experiment.options import DataOptions, RunOptions, TuningOptions
from workflows.experiment.resolve import resolve
from workflows.pipeline.run import OUTPUTS, do_stages

SPLIT_OF = {"default": "train", "val": "val", "test": "test"}  # by subset


class ReviewLoader(DatasetLoader):
    """Loads a data set's rows from the files that `prepare` writes."""

    def load(self, dataset_syntax: Any = None, dataset_meta: Any = None, *, use_hf: Any = None) -> Any:
        """The rows of the subsets that are asked for, as SWIFT's loader gives them."""
        name = dataset_meta.dataset_name
        dataset_syntax.dataset = name  # SWIFT marks the rows with it, and has put the id of a hub there
        in_words = load_dataset_card(name).task == "single_label"
        tuning = TuningOptions() if in_words else TuningOptions(method="head")
        run = RunFolder(OUTPUTS / "swift" / name)
        with safe_ddp_context(None, True):  # of several processes one prepares, and the others wait
            do_stages(run, resolve(RunOptions(DataOptions(dataset=name), tuning)), ("prepare",), Screen())
        subsets = self._select_subsets(dataset_syntax.subsets, dataset_meta)
        paths = [str(run.split(SPLIT_OF[subset.subset])) for subset in subsets]
        return self.concat_datasets([self._load_dataset_path(path, dataset_meta) for path in paths])


for _name in names_of(DATASETS):
    register_dataset(  # without the id of a hub, by whose last part SWIFT would take other data for ours
        DatasetMeta(
            dataset_name=_name,
            subsets=[SubsetDataset(subset=subset) for subset in SPLIT_OF],
            loader=ReviewLoader,
        )
    )
