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

from workflows.core.errors import UserError
from workflows.experiment.options import build_parser

STAGES_OF = {
    "run": (
        "prepare",
        "tokens",
        "baselines",
        "audit",
        "zero_shot",
        "material",
        "train",
        "tuned",
        "score",
        "report",
    ),
    "prepare": ("prepare",),
    "audit": ("prepare", "audit"),
    "train": ("tokens", "material", "train"),
    "infer": ("zero_shot", "tuned"),
    "score": ("baselines", "score"),
    "report": ("report",),
}
WITHOUT_MODEL = {"list", "prepare", "audit", "score", "report", "compare"}


def refuse_options(options: argparse.Namespace) -> None:
    """Raise UserError for options that would describe a run beside a folder that already has its own."""
    ignored = {"verbose", "lang"} if options.command == "report" else {"verbose"}
    defaults = vars(build_parser(str(__doc__)).parse_args([options.command, str(options.folder)]))
    given = [name for name, value in vars(options).items() if name not in ignored and value != defaults[name]]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(
            f"{options.folder} has its own experiment.yaml; {flags} would be ignored: leave out one of them."
        )


def work_on_run(options: argparse.Namespace) -> None:
    """Run the stages of the command, and show the scores where it ends with them."""
    from workflows.core.files import read_json
    from workflows.core.run_folder import locked, remove_if_barren
    from workflows.core.screen import Screen, shown
    from workflows.experiment.cards import DATASETS, names_of
    from workflows.pipeline.run import open_run, run_stages, start_run

    screen = Screen(options.verbose)
    names = STAGES_OF[options.command]
    if options.command == "audit" and options.folder in names_of(DATASETS):
        if options.dataset is not None:
            raise UserError(f"audit {options.folder} --dataset {options.dataset}: name one data set.")
        options.dataset, options.folder = options.folder, None
    if options.folder is None:
        from workflows.experiment.resolve import assemble_experiment

        experiment = assemble_experiment(options)
        if options.command not in WITHOUT_MODEL:
            from workflows.model.folder import check_machine

            check_machine(experiment)  # before data is prepared that this machine could not train on
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


def plan_run(options: argparse.Namespace) -> None:
    """Say what the run that the options describe would take, and write it where a file is named."""
    from workflows.commands.plan.plan import plan, render_plan
    from workflows.core.files import write_json
    from workflows.core.screen import Screen
    from workflows.experiment.resolve import assemble_experiment

    screen = Screen(options.verbose)
    result = plan(assemble_experiment(options), options.run_folder, screen)
    if options.output is not None:
        write_json(options.output, result)
    screen.say("\n" + render_plan(result))


def compare_runs(options: argparse.Namespace) -> None:
    """Compare the runs, and show the table."""
    from workflows.commands.compare import compare
    from workflows.core.run_folder import RunFolder
    from workflows.core.screen import shown
    from workflows.pipeline.run import timed_folder
    from workflows.scoring.table import render_comparison

    folder = options.output or timed_folder("compare")
    runs = [RunFolder(Path(name)) for name in options.folders]
    comparison = compare(runs, options.common, folder, options.lang)
    print(render_comparison(comparison))
    print(f"report: {shown(folder / 'report.html')}")


def select_models(options: argparse.Namespace) -> None:
    """Let the models answer the cases, and show the table."""
    from workflows.commands.select_model import select_model
    from workflows.core.screen import Screen, shown
    from workflows.experiment.resolve import assemble_experiment
    from workflows.scoring.table import render_selection

    defaults = vars(build_parser(str(__doc__)).parse_args(["run"]))
    given = [name.strip() for name in options.models.split(",")]
    if len(set(given)) < len(given) or len(given) < 2:
        raise UserError(f"--models {options.models}: name two models or more, each once.")
    found = [
        (name, assemble_experiment(argparse.Namespace(**{**defaults, **vars(options), "model": name})))
        for name in given
    ]
    short = [experiment.model.name for _, experiment in found]
    experiments = {
        name if short.count(experiment.model.name) > 1 else experiment.model.name: experiment
        for name, experiment in found
    }
    screen = Screen(options.verbose)
    folder, selection = select_model(experiments, options.cases, options.output, screen)
    screen.say(render_selection(selection))
    screen.say(f"selection: {shown(folder / 'selection.json')}")


def export_run(options: argparse.Namespace) -> None:
    """Write the run's tuned model as a plain folder, and push it where asked to."""
    from workflows.commands.export.push import check_push, push
    from workflows.core.run_folder import locked
    from workflows.core.screen import Screen, shown
    from workflows.pipeline.run import open_finished, open_run

    if options.push is not None:
        check_push(options.push)
    screen = Screen(options.verbose)
    run = open_finished(Path(options.folder))
    with locked(run):
        with screen.quiet(run.log("export")):
            from workflows.commands.export.export import export
        folder = export(run, open_run(run.path)[1], options.output, screen)
    screen.say(f"model: {shown(folder)}")
    if options.push is not None:
        screen.say(f"pushed: {push(folder, options.push)}")


def reproduce_run(options: argparse.Namespace) -> int:
    """Repeat the run, and show stage by stage what came out equal; 0 where all did, else 3."""
    from workflows.commands.reproduce import reproduce
    from workflows.core.screen import Screen, shown
    from workflows.pipeline.run import open_run

    screen = Screen(options.verbose)
    original, _ = open_run(Path(options.folder))
    run, result = reproduce(original, screen)
    screen.say(f"\n{shown(run.path)} against {shown(original.path)}:")
    for stage, differences in result["stages"].items():
        screen.say(f"  {stage:10} {'; '.join(differences) or 'equal'}")
    for line in result["environment"]:
        screen.say(f"  not the same here: {line}")
    screen.say(f"  {result['can_be_equal']}")
    return 0 if result["equal"] else 3


def run_benchmark(options: argparse.Namespace) -> None:
    """Time what was asked for, show the ratios, and write them."""
    from workflows.commands.benchmark.record import record_benchmark
    from workflows.core.screen import Screen, shown
    from workflows.pipeline.run import open_finished, timed_folder

    screen = Screen(options.verbose)
    if (options.folder is None) != (options.kind == "data"):
        raise UserError("benchmark data takes no run folder, every other benchmark takes one.")
    run = None if options.folder is None else open_finished(Path(options.folder))
    folder = options.output or timed_folder(f"benchmark-{options.kind}")
    folder.mkdir(parents=True, exist_ok=True)
    with screen.quiet(folder / "benchmark.log"):
        if run is None:
            from workflows.commands.benchmark.data_size import benchmark_data

            figures = benchmark_data(options.rows or 100_000, options.repeats, screen)
        elif options.kind == "startup":
            from workflows.commands.benchmark.startup import benchmark_startup

            figures = benchmark_startup(run, options.repeats, screen)
        elif options.kind == "pipeline":
            from workflows.commands.benchmark.against_swift import benchmark_pipeline

            figures = benchmark_pipeline(run, options.repeats, screen)
        else:
            from workflows.commands.benchmark.benchmark import benchmark_inference, benchmark_training

            if options.kind == "inference":
                figures = benchmark_inference(run, options.rows or 200, options.repeats, screen)
            else:
                figures = benchmark_training(run, options.steps, options.repeats, screen)
    for line in record_benchmark(folder, options.kind, figures):
        screen.say(line)
    screen.say(f"benchmark: {shown(folder / 'benchmark.json')}")


def examine_machine(options: argparse.Namespace) -> int:
    """Run the doctor's commands, and say where its file is; 0 where all is well, else 3."""
    from workflows.commands.doctor import examine
    from workflows.core.screen import Screen, shown
    from workflows.model.machine import find_machine
    from workflows.pipeline.run import timed_folder

    if options.gpu and find_machine().device != "cuda":
        raise UserError(
            "doctor --gpu: there is no GPU here; without --gpu it looks whether all works on the CPU."
        )
    folder = (options.output or timed_folder("doctor")).expanduser().resolve()
    screen = Screen()
    report = examine(folder, screen)
    unwell = [outcome["shows"] for outcome in report["commands"] if outcome["problems"]]
    screen.say(f"not well: {', '.join(unwell)}" if unwell else "all is well")
    screen.say(f"doctor: {shown(folder / 'doctor.json')}")
    return 3 if unwell else 0


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit code is 0, 2 for what the user can mend, 130 after Ctrl-C.

    `reproduce` ends with 3 where something came out different, `doctor` where something is not well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale says: labels and reviews are Chinese
            stream.reconfigure(encoding="utf-8", errors="replace")
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    try:
        options = build_parser(str(__doc__)).parse_args(arguments)
        if options.command not in WITHOUT_MODEL and vars(options).get("kind") != "data":
            from workflows.model.gpu import settle_gpu

            if (said := settle_gpu()) is not None:
                print(said)
        if options.command == "list":
            from workflows.commands.listing import render_list

            print(render_list(options.kind, options.data_dir))
        elif options.command == "plan":
            plan_run(options)
        elif options.command == "compare":
            compare_runs(options)
        elif options.command == "benchmark":
            run_benchmark(options)
        elif options.command == "select-model":
            select_models(options)
        elif options.command == "export":
            export_run(options)
        elif options.command == "doctor":
            return examine_machine(options)
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
