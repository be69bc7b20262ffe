#!/usr/bin/env python3
"""Fine-tune a small Qwen for Chinese review sentiment with ModelScope SWIFT, and score it honestly.

python run_swift.py                                     the whole job on the embedded demo data and model
python run_swift.py run --dataset jd --model qwen2.5-0.5b-instruct
python run_swift.py run --data-file reviews.csv --text-column text --label-column label --labels 差评,好评
python run_swift.py list datasets                       what can be named
"""

import argparse
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from workflows.errors import UserError

STAGES_OF = {
    "run": ("prepare", "tokens", "baselines", "audit", "zero_shot", "train", "tuned", "score", "report"),
    "prepare": ("prepare",),
    "audit": ("prepare", "audit"),
    "train": ("tokens", "train"),
    "infer": ("zero_shot", "tuned"),
    "score": ("baselines", "score"),
    "report": ("report",),
}


def count(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def add_experiment_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a run."""
    data = parser.add_argument_group("data")
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
        "--train-samples", metavar="N", type=count, help="train on a stratified sample of N rows"
    )
    data.add_argument("--balance", action="store_true", help="train on equally many rows of each label")
    data.add_argument("--test-samples", metavar="N", type=count, help="test on a stratified sample of N rows")
    data.add_argument(
        "--format", choices=("messages", "query-response"), default="messages", help="of the files for SWIFT"
    )
    data.add_argument(
        "--data-seed", metavar="N", type=int, default=42, help="seed of splits and samples (default: 42)"
    )
    tuning = parser.add_argument_group("model and tuning")
    tuning.add_argument(
        "--model",
        metavar="NAME",
        default="tiny",
        help="a model by name, a folder, or a hub id (default: tiny, embedded)",
    )
    tuning.add_argument(
        "--method", metavar="NAME", default="lora", help="a preset in sft_args/ (default: lora)"
    )
    tuning.add_argument("--prompt", metavar="NAME", help="a prompt by name (default: by the kind of model)")
    tuning.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="any SWIFT argument; may be repeated"
    )
    tuning.add_argument(
        "--best-by",
        choices=("loss", "macro_f1"),
        default="loss",
        help="keep the checkpoint that is best by this on validation (default: loss)",
    )
    tuning.add_argument(
        "--engine",
        choices=("fast", "swift"),
        default="fast",
        help="what writes the answers: our scorer, or SWIFT's infer_main; both the same (default: fast)",
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


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = OneLineParser(
        prog="run_swift.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    comparing = commands.add_parser("compare", help="several runs on the same test rows, in one table")
    comparing.add_argument("folders", metavar="RUN", nargs="+", help="run folders, two or more")
    comparing.add_argument(
        "--common", action="store_true", help="compare on the test rows that all share, where they differ"
    )
    comparing.add_argument(
        "--lang", choices=("zh", "en"), default="zh", help="language that the report opens in"
    )
    comparing.add_argument("--output", metavar="DIR", type=Path, help="default: outputs/compare-<time>")
    repeating = commands.add_parser("reproduce", help="repeat a run, and say what came out equal")
    repeating.add_argument("folder", metavar="RUN", help="a run folder")
    repeating.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    timing = commands.add_parser(
        "benchmark", help="times against plain SWIFT and against this machine's limit"
    )
    timing.add_argument("kind", choices=("inference", "training", "startup"))
    timing.add_argument("folder", metavar="RUN", help="a finished run, whose model and data are used")
    timing.add_argument(
        "--rows", metavar="N", type=count, default=200, help="test rows (inference; default: 200)"
    )
    timing.add_argument("--steps", metavar="N", type=count, default=10, help="steps (training; default: 10)")
    timing.add_argument("--repeats", metavar="N", type=count, default=3, help="of each, in turn (default: 3)")
    timing.add_argument("--output", metavar="DIR", type=Path, help="default: outputs/benchmark-<kind>-<time>")
    timing.add_argument("--verbose", action="store_true", help="show SWIFT's own log on the screen too")
    listing = commands.add_parser("list", help="what can be named: data sets, models, methods, prompts")
    listing.add_argument("kind", choices=("datasets", "models", "methods", "prompts"))
    listing.add_argument(
        "--data-dir", metavar="DIR", help="a folder with data sets' files (or set REVIEW_DATA_DIR)"
    )
    return parser


def refuse_options(options: argparse.Namespace) -> None:
    """Raise UserError for options that would describe a run beside a folder that already has its own."""
    ignored = {"verbose", "lang"} if options.command == "report" else {"verbose"}
    defaults = vars(build_parser().parse_args([options.command, str(options.folder)]))
    given = [name for name, value in vars(options).items() if name not in ignored and value != defaults[name]]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(
            f"{options.folder} has its own experiment.yaml; {flags} would be ignored: leave out one of them."
        )


def work_on_run(options: argparse.Namespace) -> None:
    """Run the stages of the command, and show the scores where it ends with them."""
    from workflows.experiment import DATASETS, names_of
    from workflows.pipeline import open_run, run_stages, start_run
    from workflows.run_folder import locked, read_json, remove_if_barren
    from workflows.screen import Screen, shown

    screen = Screen(options.verbose)
    names = STAGES_OF[options.command]
    if options.command == "audit" and options.folder in names_of(DATASETS):
        if options.dataset is not None:
            raise UserError(f"audit {options.folder} --dataset {options.dataset}: name one data set.")
        options.dataset, options.folder = options.folder, None
    if options.folder is None:
        from workflows.assemble import assemble_experiment

        experiment = assemble_experiment(options)
        run = start_run(experiment, options.run_folder, screen)
    else:
        refuse_options(options)
        run, experiment = open_run(Path(options.folder))
        if options.command == "report" and options.lang is not None:
            experiment = replace(experiment, lang=options.lang)
    with locked(run):
        if options.command == "infer" and not run.training.exists():
            names = ("zero_shot",)
            screen.say("not trained yet: only the answers before tuning")
        try:
            run_stages(run, experiment, names, screen)
        except UserError:
            remove_if_barren(run)
            raise
    if "score" in names:
        from workflows.scoring.table import render_scores

        screen.say("\n" + render_scores(read_json(run.scores)))
    screen.say(f"run folder: {shown(run.path)}")


def compare_runs(options: argparse.Namespace) -> None:
    """Compare the runs, and show the table."""
    from workflows.pipeline import timed_folder
    from workflows.run_folder import RunFolder
    from workflows.scoring.table import render_comparison
    from workflows.screen import shown
    from workflows.studies.compare import compare

    folder = options.output or timed_folder("compare")
    runs = [RunFolder(Path(name)) for name in options.folders]
    comparison = compare(runs, options.common, folder, options.lang)
    print(render_comparison(comparison))
    print(f"report: {shown(folder / 'report.html')}")


def reproduce_run(options: argparse.Namespace) -> int:
    """Repeat the run, and show stage by stage what came out equal; 0 where all did, else 3."""
    from workflows.pipeline import open_run
    from workflows.screen import Screen, shown
    from workflows.studies.reproduce import reproduce

    screen = Screen(options.verbose)
    original, _ = open_run(Path(options.folder))
    run, result = reproduce(original, screen)
    screen.say(f"\n{shown(run.path)} against {shown(original.path)}:")
    for stage, differences in result["stages"].items():
        screen.say(f"  {stage:10} {'; '.join(differences) or 'equal'}")
    for line in result["environment"]:
        screen.say(f"  not the same here: {line}")
    return 0 if result["equal"] else 3


def run_benchmark(options: argparse.Namespace) -> None:
    """Time what was asked for, show the ratios, and write them."""
    from statistics import median

    from workflows.pipeline import open_finished, timed_folder
    from workflows.reporting.figures import draw_times, save_figure
    from workflows.run_folder import write_json
    from workflows.screen import Screen, shown

    screen = Screen(options.verbose)
    run = open_finished(Path(options.folder))
    folder = options.output or timed_folder(f"benchmark-{options.kind}")
    folder.mkdir(parents=True, exist_ok=True)
    with screen.quiet(folder / "benchmark.log"):
        if options.kind == "startup":
            from workflows.studies.startup import benchmark_startup

            figures = benchmark_startup(run, options.repeats, screen)
        else:
            from workflows.studies.benchmark import benchmark_inference, benchmark_training

            if options.kind == "inference":
                figures = benchmark_inference(run, options.rows, options.repeats, screen)
            else:
                figures = benchmark_training(run, options.steps, options.repeats, screen)
    write_json(folder / "benchmark.json", figures)
    save_figure(folder, "times", draw_times(figures["seconds"]), [])
    for name, times in figures["seconds"].items():
        screen.say(f"  {name:14} {median(times):8.2f} s (median of {len(times)})")
    for name, ratio in figures["ratios"].items():
        screen.say(f"  {name}: {ratio['median']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})")
    screen.say(f"benchmark: {shown(folder / 'benchmark.json')}")


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit code is 0, 2 for what the user can mend, 130 after Ctrl-C.

    `reproduce` ends with 3 where something came out different.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale says: labels and reviews are Chinese
            stream.reconfigure(encoding="utf-8", errors="replace")
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    try:
        options = build_parser().parse_args(arguments)
        if options.command == "list":
            from workflows.listing import render_list

            print(render_list(options.kind, options.data_dir))
        elif options.command == "compare":
            compare_runs(options)
        elif options.command == "benchmark":
            run_benchmark(options)
        elif options.command == "reproduce":
            return reproduce_run(options)
        else:
            work_on_run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
