"""The command line: commands and their options, and nothing of what they do."""

import argparse
from pathlib import Path
from typing import NoReturn

from workflows.core.errors import UserError


def count(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def add_source_options(data: argparse._ArgumentGroup) -> None:
    """The options that say which rows there are, and which of them are training rows."""
    data.add_argument(
        "--dataset", metavar="NAME", help="a data set by name (default: demo, the embedded one)"
    )
    data.add_argument("--data-file", metavar="FILE", help="your reviews: CSV, TSV, JSONL, Parquet or XLSX")
    data.add_argument("--val-file", metavar="FILE", help="validation reviews, where you have them apart")
    data.add_argument("--test-file", metavar="FILE", help="test reviews, where you have them apart")
    data.add_argument(
        "--data-dir", metavar="DIR", help="a folder with data sets' files (or set REVIEW_DATA_DIR)"
    )
    data.add_argument("--text-column", metavar="NAME", help="the column with the review")
    data.add_argument("--label-column", metavar="NAME", help="the column with the label")
    data.add_argument(
        "--labels",
        metavar="LABELS",
        help=(
            "labels in order, as the model writes them: 差评,好评; or with the file's values: "
            "1=差评,3=,5=好评"
        ),
    )
    data.add_argument(
        "--neutral", metavar="LABEL", help="count neutral ratings as this label (default: leave them out)"
    )
    data.add_argument(
        "--keep-near-copies",
        action="store_true",
        help="keep training rows that stand in the test set in nearly the same words (default: remove them)",
    )
    data.add_argument(
        "--apply",
        metavar="FILE",
        help="labels corrected by hand: audit.csv with its column `correction` filled",
    )
    data.add_argument(
        "--split",
        choices=("standard", "course"),
        default="standard",
        help="standard: 80/10/10 stratified; course: 72/8/20 as the course's code cut it (default: standard)",
    )
    data.add_argument(
        "--data-seed", metavar="N", type=int, default=42, help="seed of splits and samples (default: 42)"
    )


def add_experiment_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a run."""
    data = parser.add_argument_group("data")
    add_source_options(data)
    data.add_argument(
        "--train-samples", metavar="N", type=count, help="train on a stratified sample of N rows"
    )
    data.add_argument(
        "--mix",
        metavar="NAME=RATIO",
        action="append",
        default=[],
        help="add training rows of another data set, RATIO for each row of this one; may be repeated",
    )
    data.add_argument("--balance", action="store_true", help="train on equally many rows of each label")
    data.add_argument("--test-samples", metavar="N", type=count, help="test on a stratified sample of N rows")
    data.add_argument(
        "--format", choices=("messages", "query-response"), default="messages", help="of the files for SWIFT"
    )
    tuning = parser.add_argument_group("model and tuning")
    tuning.add_argument(
        "--model",
        metavar="NAME",
        help="a model by name, a folder, or a hub id (default: tiny, embedded)",
    )
    tuning.add_argument(
        "--method", metavar="NAME", default="lora", help="a preset in sft_args/ (default: lora)"
    )
    tuning.add_argument(
        "--prompt", metavar="NAME", help="a prompt by name, or a YAML file (default: by the kind of model)"
    )
    tuning.add_argument(
        "--from-run",
        metavar="RUN",
        help="the finished run that the method starts from (dpo, distill, pseudo-label)",
    )
    tuning.add_argument("--unlabelled", metavar="FILE", help="reviews without labels (pseudo-label)")
    tuning.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any SWIFT argument, or recipe.NAME; may be repeated",
    )
    tuning.add_argument(
        "--best-by",
        choices=("loss", "macro_f1"),
        default="loss",
        help="keep the checkpoint that is best by this on validation (default: loss)",
    )
    tuning.add_argument(
        "--eval-rows",
        type=count,
        default=256,
        metavar="N",
        help="validation rows at most in each evaluation during training: a stratified sample, the same each "
        "time (default: 256)",
    )
    tuning.add_argument(
        "--window",
        metavar="STRIDE",
        type=count,
        help="let an encoder read long texts in windows, one every STRIDE tokens, and average what it "
        "says of them (default: it reads the beginning)",
    )
    tuning.add_argument(
        "--engine",
        choices=("fast", "swift", "vllm"),
        default="fast",
        help="what writes the answers: our scorer, SWIFT's infer_main, or that on vLLM (default: fast)",
    )
    tuning.add_argument("--seed", metavar="N", type=int, default=42, help="seed of training (default: 42)")
    parser.add_argument(
        "--lang", choices=("zh", "en"), default="zh", help="language that the report opens in (default: zh)"
    )
    parser.add_argument(
        "--run-folder", metavar="DIR", type=Path, help="where the run goes (default: a new one in outputs/)"
    )


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage."""
        raise UserError(f"{message} (python {self.prog} --help)")


def build_parser(description: str = "") -> argparse.ArgumentParser:
    """The whole command line; `description` is what --help begins with."""
    parser = OneLineParser(
        prog="run_swift.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    helps = {
        "run": "the whole job; goes on at the first unfinished stage",
        "prepare": "only the data: read, clean, split, write SWIFT's files",
        "train": "only the tuning of a prepared run",
        "infer": "only the answers to the test rows, before and (once trained) after tuning",
        "score": "only baselines and scores",
        "report": "only the report of a scored run",
        "audit": "only the data, and which of its labels are likely wrong",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        starts = name in ("run", "prepare", "audit")
        what = "a run folder, or a data set by name" if name == "audit" else "a run folder"
        command.add_argument("folder", metavar="RUN", nargs="?" if starts else None, help=what)
        command.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
        if starts:
            add_experiment_options(command)
        if name == "report":
            command.add_argument("--lang", choices=("zh", "en"), help="language that the report opens in")
    planning = commands.add_parser("plan", help="what a run would take, before any weights are downloaded")
    add_experiment_options(planning)
    planning.add_argument("--output", metavar="FILE", type=Path, help="write the figures as JSON, too")
    planning.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    comparing = commands.add_parser("compare", help="several runs on the same test rows, in one table")
    comparing.add_argument("folders", metavar="RUN", nargs="+", help="run folders, two or more")
    comparing.add_argument(
        "--common", action="store_true", help="compare on the test rows that all share, where they differ"
    )
    comparing.add_argument(
        "--lang", choices=("zh", "en"), default="zh", help="language that the report opens in"
    )
    comparing.add_argument("--output", metavar="DIR", type=Path, help="default: outputs/compare-<time>")
    selecting = commands.add_parser(
        "select-model", help="which base model to tune: several answer the same few cases, untuned"
    )
    selecting.add_argument(
        "--models", metavar="NAMES", required=True, help="two or more, by name, folder or hub id: a,b,c"
    )
    selecting.add_argument(
        "--cases", metavar="N", type=count, default=50, help="balanced training rows (default: 50)"
    )
    selecting.add_argument(
        "--prompt", metavar="NAME", help="a prompt by name, or a YAML file, for all models"
    )
    selecting.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="any SWIFT argument; may be repeated"
    )
    add_source_options(selecting.add_argument_group("data"))
    selecting.add_argument(
        "--lang", choices=("zh", "en"), default="zh", help="language of selection.md (default: zh)"
    )
    selecting.add_argument("--output", metavar="DIR", type=Path, help="default: outputs/select-<time>")
    selecting.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    exporting = commands.add_parser("export", help="a run's tuned model as a plain Hugging Face folder")
    exporting.add_argument("folder", metavar="RUN", help="a finished run")
    exporting.add_argument("--output", metavar="DIR", type=Path, help="default: export/ in the run")
    exporting.add_argument(
        "--push", metavar="OWNER/NAME", help="upload it to the ModelScope hub (token: MODELSCOPE_API_TOKEN)"
    )
    exporting.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    repeating = commands.add_parser("reproduce", help="repeat a run, and say what came out equal")
    repeating.add_argument("folder", metavar="RUN", help="a run folder")
    repeating.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    timing = commands.add_parser(
        "benchmark", help="times against plain SWIFT and against this machine's limit"
    )
    timing.add_argument("kind", choices=("inference", "training", "pipeline", "startup", "data"))
    timing.add_argument(
        "folder",
        metavar="RUN",
        nargs="?",
        help="a finished run, whose model and data are used (but for data)",
    )
    timing.add_argument(
        "--rows", metavar="N", type=count, help="test rows (inference; default: 200), rows (data; 100,000)"
    )
    timing.add_argument("--steps", metavar="N", type=count, default=10, help="steps (training; default: 10)")
    timing.add_argument("--repeats", metavar="N", type=count, default=3, help="of each, in turn (default: 3)")
    timing.add_argument("--output", metavar="DIR", type=Path, help="default: outputs/benchmark-<kind>-<time>")
    timing.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    examining = commands.add_parser(
        "doctor", help="ten small commands that show whether all works here, and one file on how they went"
    )
    examining.add_argument(
        "--gpu", action="store_true", help="stop where there is no GPU, instead of using the CPU"
    )
    examining.add_argument("--output", metavar="DIR", type=Path, help="default: outputs/doctor-<time>")
    listing = commands.add_parser("list", help="what can be named: data sets, models, methods, prompts")
    listing.add_argument("kind", choices=("datasets", "models", "methods", "prompts"))
    listing.add_argument(
        "--data-dir", metavar="DIR", help="a folder with data sets' files (or set REVIEW_DATA_DIR)"
    )
    return parser
