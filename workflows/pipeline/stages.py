"""The stages of a run, in order: each reads files of the run folder and writes others.

    prepare -> tokens -> baselines -> audit -> zero_shot -> material -> train -> tuned -> score -> report

Stages import what they need when they start: preparing and scoring load neither torch nor SWIFT.
"""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, sha256, write_json
from workflows.core.run_folder import SPLITS, RunFolder, checkpoint_of, finished_stages
from workflows.core.screen import shown
from workflows.experiment.experiment import Experiment
from workflows.model.loaded import Session
from workflows.model.machine import Machine, describe_environment, dtype_of_answers, find_machine

Rows = list[dict[str, Any]]
# They count up when the files get other keys, so that older runs are worked on anew.
DATA_FORMAT = 3
PREDICTIONS_FORMAT = 2
SCORES_FORMAT = 4
REPORT_FORMAT = 1
SCORE_AND_REPORT = 10.0  # seconds; 8 and 10 in two runs on 2 cores of an AMD EPYC, most of it the figures


@dataclass(frozen=True)
class Stage:
    """One step of a run: what it needs, what goes in, what comes out."""

    name: str
    needs: Callable[[RunFolder], list[Path]]  # files of earlier stages
    settings: Callable[[RunFolder, Experiment], Any]  # what else it depends on
    writes: Callable[[RunFolder, Experiment], list[Path]]
    work: Callable[[RunFolder, Experiment, Session, str], None]
    is_part_of: Callable[[Experiment], bool] = lambda experiment: True  # whether a run has this stage


def _prepare(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.data.prepare import prepare

    manifest = prepare(run, experiment, session.screen)
    rows, reasons = manifest["rows"], manifest["rejected"]
    why = f" ({', '.join(f'{count} {reason}' for reason, count in reasons.items())})" if reasons else ""
    session.screen.say(
        f"  {rows['read']:,} rows read, {rows['kept']:,} kept, {rows['rejected']:,} rejected{why}; "
        f"{manifest['from']}"
    )
    for name, split in manifest["splits"].items():
        labels = ", ".join(f"{label} {count:,}" for label, count in split["labels"].items())
        if split["numbers"] is not None:
            labels = ", ".join(f"{name} {value:.2f}" for name, value in split["numbers"].items())
        session.screen.say(f"  {name:5} {split['rows']:6,} rows: {labels}")
    searched = manifest["near_copies"]["searched"]
    if searched != "all rows":
        were = "searched only for sampled rows" if searched else "not searched"
        session.screen.say(f"  near copies of test rows were {were}: there are too many rows")
    for name, mixed in manifest["mixed"].items():
        lengths = mixed["lengths"]
        left_out = "".join(f", {count:,} left out: {reason}" for reason, count in mixed["left_out"].items())
        session.screen.say(f"  mixed {mixed['used']:6,} rows of {name} into train{left_out}")
        if not lengths["alike"]:
            session.screen.say(
                f"  warning: lengths differ: {lengths['median']:.0f} characters in the middle, "
                f"{lengths['median_mixed']:.0f} in {name}; mixing was reported to hurt then"
            )


def _tokens(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.model.tokens import count_tokens

    summary = count_tokens(run, experiment, _machine(run, experiment, session), session.screen)
    lengths, over = summary["splits"]["train"], summary["splits"]["train"]["over_max_length"]["rows"]
    session.screen.say(
        f"  training rows have {lengths['median']:.0f} tokens in the middle, {lengths['max']} at most; "
        f"{over} of {lengths['rows']:,} are longer than max_length {summary['max_length']}"
        + (f" and will be {summary['longer_training_rows_are']}" if over else "")
    )


def _audit(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.baselines.audit import audit

    summary = audit(run, experiment)
    if summary["likely_wrong"] is None:
        session.screen.say("  not judged: that takes five rows of each label")
    else:
        wrong, rows = summary["likely_wrong"], summary["rows"]
        session.screen.say(f"  {wrong:,} of {rows:,} labels are likely wrong: {shown(run.audit)}")


def _baselines(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.baselines.baselines import run_baselines

    run_baselines(run, experiment)


def _zero_shot(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.inference.infer import infer

    infer(run, experiment, _machine(run, experiment, session), session, "zero_shot", None, inputs)


def _material(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.data.messages import write_row
    from workflows.data.reviews import Review
    from workflows.data.unlabelled import read_unlabelled
    from workflows.inference.infer import ask
    from workflows.inference.write import write_texts
    from workflows.model.tokens import count_material_tokens
    from workflows.pipeline.derived_rows import Tools, make_material

    machine = _machine(run, experiment, session)
    partial: list[Path] = []  # what a stop leaves, and the same command takes up

    def keep(name: str) -> Path:
        partial.append(run.path / "data" / f".{name}-{inputs}.jsonl")
        return partial[-1]

    def ask_rows(name: str, asked: Experiment, rows: Rows, checkpoint: Path | None) -> Rows:
        return ask(asked, machine, session, name, rows, checkpoint, keep(name))

    def write(prompts: Rows, max_new_tokens: int) -> dict[str, str]:
        return write_texts(
            experiment, machine, session, "reasonings", prompts, max_new_tokens, keep("reasonings")
        )

    def rewrite(row: dict[str, Any], other: Experiment) -> dict[str, Any]:
        name = experiment.labels[row["label"]].name
        label = [label.name for label in other.labels].index(name)
        return write_row(Review(row["id"], row["review"], label), other.prompt, other.labels, "messages")

    def unlabelled() -> tuple[Rows, Rows]:
        splits = {name: read_jsonl(run.split(name)) for name in SPLITS}
        reviews, rejected = read_unlabelled(
            Path(str(experiment.tuning.unlabelled)), experiment.dataset, splits, session.screen
        )
        return [
            rewrite({"id": each.id, "review": each.text, "label": 0}, experiment) for each in reviews
        ], rejected

    def count_tokens(rows: Rows) -> Any:
        return count_material_tokens(run, experiment, machine, session.screen, rows)

    summary = make_material(run, experiment, Tools(ask_rows, write, rewrite, unlabelled, count_tokens))
    for path in partial:
        path.unlink(missing_ok=True)
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in summary["rows"].items())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["rejected"].items())
    session.screen.say(f"  rows: {counts}" + (f"; rejected: {reasons}" if reasons else ""))


def _train(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.data.splits import evaluation_sample
    from workflows.inference.infer import measure_validation, work_of
    from workflows.tuning.train import train

    val = read_jsonl(run.split("val"))
    looked_at = evaluation_sample(val, experiment.tuning.eval_rows, experiment.data.data_seed)
    if len(looked_at) < len(val):
        session.screen.say(f"  evaluations look at {len(looked_at)} of {len(val):,} validation rows")

    def measure(model: Any, template: Any) -> dict[str, float]:
        with session.screen.progress("evaluating", sum(map(work_of, looked_at)), counted=False) as bar:
            return measure_validation(model, template, looked_at, experiment, bar)

    # Answers take as long as before tuning; of a head none were given.
    afterwards = finished_stages(run).get("zero_shot", {}).get("seconds", 0.0) + SCORE_AND_REPORT
    machine = _machine(run, experiment, session)
    summary = train(run, experiment, machine, session, inputs, measure, len(looked_at), afterwards)
    best = summary["best_by"]
    figure = f", best validation {best['metric']} {best['value']:.4f}" if best["value"] is not None else ""
    session.screen.say(f"  {summary['steps']} steps{figure}, kept {summary['checkpoint']}")
    rows = summary["rows"]["train"]
    if rows["used"] < rows["given"]:
        left_out = rows["given"] - rows["used"]
        session.screen.say(
            f"  {left_out} of {rows['given']} train rows were left out by SWIFT: longer than max_length"
        )


def _tuned(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.inference.infer import infer

    adapter = checkpoint_of(run)
    infer(run, experiment, _machine(run, experiment, session), session, "tuned", adapter, inputs)


def _score(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.scoring.score import score

    score(run, experiment)


def _report(run: RunFolder, experiment: Experiment, session: Session, inputs: str) -> None:
    from workflows.experiment.options import flags_of
    from workflows.reporting.report import report

    command = ["python", "run_swift.py", "run", *flags_of(experiment.options)]
    reproduce = ["python", "run_swift.py", "reproduce", shown(run.path)]
    report(run, experiment, shlex.join(command), shlex.join(reproduce))
    session.screen.say(f"  {shown(run.report_page)}")


def _what_a_report_adds(run: RunFolder) -> list[str]:
    """The hashes of what a report shows where it is there."""
    paths = (run.tokens, run.training, run.environment, run.audit_summary)
    return [sha256(path) for path in paths if path.exists()]


def _source_hashes(run: RunFolder, experiment: Experiment) -> list[str]:
    """The hashes of the data set's local files, and of the corrections; of those gone since, what the
    manifest says they were.

    None for a hub's files, which count as unchanged.
    """
    from workflows.data.sources import find_local_files

    manifest = read_json(run.manifest) if run.manifest.exists() else {}
    before = {split: file["sha256"] for split, file in sorted(manifest.get("files", {}).items())}
    named = experiment.data.apply
    known = manifest.get("corrections", {}).get("sha256")
    corrections = [] if named is None else [sha256(Path(named)) if Path(named).is_file() else known]
    found = find_local_files(experiment.dataset, experiment.data)
    if found is not None:
        files = sorted(found[0].items())
        hashes = [sha256(path) if path.is_file() else before.get(split, "") for split, path in files]
        return [*hashes, *corrections]
    from_hub = manifest.get("from") in [None, *(source.place for source in experiment.dataset.sources)]
    return [*([] if from_hub else before.values()), *corrections]


def _mixed_sources(run: RunFolder, experiment: Experiment) -> list[Any]:
    """What is mixed in, with the hashes of its files."""
    from workflows.data.mix import mixed_experiment, mixed_run

    return [
        [asdict(mix), _source_hashes(mixed_run(run, mix), mixed_experiment(experiment, mix, None))]
        for mix in experiment.mixed
    ]


def _all_predictions(run: RunFolder) -> list[Path]:
    return sorted((run.path / "predictions").glob("[!.]*.jsonl"))


def _model_settings(run: RunFolder, experiment: Experiment) -> Any:
    return [
        experiment.arguments,
        experiment.tuning.seed,
        experiment.data.data_seed,
        [asdict(label) for label in experiment.labels],
    ]


def _recipe_settings(experiment: Experiment) -> list[Any]:
    return [] if experiment.recipe is None else [asdict(experiment.recipe)]


def _training_settings(run: RunFolder, experiment: Experiment) -> Any:
    made = [sha256(path) for path in (run.material, run.material_val) if path.exists()]
    return [
        *_model_settings(run, experiment),
        experiment.tuning.eval_rows,
        *_recipe_settings(experiment),
        *made,
    ]


def _material_settings(run: RunFolder, experiment: Experiment) -> Any:
    from workflows.pipeline.derived_rows import describe_sources

    try:
        sources = describe_sources(experiment)
    except UserError:  # gone since: what was made of it stays
        if not run.material_summary.exists():
            raise
        made = read_json(run.material_summary)
        sources = {name: made[name] for name in ("from_run", "unlabelled") if name in made}
    return [*_model_settings(run, experiment), *_recipe_settings(experiment), sources]


def _answer_settings(run: RunFolder, experiment: Experiment) -> Any:
    ends = [] if experiment.ends_after_label else ["answers go on after the label"]
    return [
        *_model_settings(run, experiment),
        experiment.tuning.engine,
        experiment.tuning.window,
        PREDICTIONS_FORMAT,
        *ends,
    ]


def _baseline_files(run: RunFolder, experiment: Experiment) -> list[Path]:
    constant = "mean" if experiment.dataset.task == "regression" else "majority"
    return [run.predictions(constant), run.predictions("tfidf")]


STAGES = (
    Stage(
        "prepare",
        needs=lambda run: [],
        settings=lambda run, experiment: [
            *(asdict(part) for part in (experiment.dataset, experiment.data, experiment.prompt)),
            experiment.arguments.get("split_dataset_ratio"),
            experiment.has_head,
            _source_hashes(run, experiment),
            _mixed_sources(run, experiment),
            DATA_FORMAT,
        ],
        writes=lambda run, experiment: [*map(run.split, SPLITS), run.rejected, run.corrections, run.manifest],
        work=_prepare,
    ),
    Stage(
        "tokens",
        needs=lambda run: [*map(run.split, SPLITS)],
        settings=lambda run, experiment: experiment.arguments,
        writes=lambda run, experiment: [run.tokens],
        work=_tokens,
    ),
    Stage(
        "baselines",
        needs=lambda run: [*map(run.split, SPLITS)],
        settings=lambda run, experiment: [PREDICTIONS_FORMAT],
        writes=_baseline_files,
        work=_baselines,
    ),
    Stage(
        "audit",
        needs=lambda run: [*map(run.split, SPLITS)],
        settings=lambda run, experiment: [asdict(label) for label in experiment.labels],
        writes=lambda run, experiment: [run.audit, run.audit_summary],
        work=_audit,
        is_part_of=lambda experiment: experiment.dataset.task == "single_label",  # what it judges
    ),
    Stage(
        "zero_shot",
        needs=lambda run: [run.split("test")],
        settings=_answer_settings,
        writes=lambda run, experiment: [run.predictions("zero_shot")],
        work=_zero_shot,
        is_part_of=lambda experiment: not experiment.has_head,  # an untrained head knows nothing
    ),
    Stage(
        "material",
        needs=lambda run: [run.split("train"), run.split("val"), run.split("test")],
        settings=_material_settings,
        writes=lambda run, experiment: [run.material, run.material_rejected, run.material_summary],
        work=_material,
        is_part_of=lambda experiment: experiment.makes_material,
    ),
    Stage(
        "train",
        needs=lambda run: [run.split("train"), run.split("val"), run.tokens],
        settings=_training_settings,
        writes=lambda run, experiment: [run.training],
        work=_train,
    ),
    Stage(
        "tuned",
        needs=lambda run: [run.split("test"), run.training],
        settings=_answer_settings,
        writes=lambda run, experiment: [run.predictions("tuned")],
        work=_tuned,
    ),
    Stage(
        "score",
        needs=lambda run: [run.split("test"), *_all_predictions(run)],
        settings=lambda run, experiment: [SCORES_FORMAT, [asdict(label) for label in experiment.labels]],
        writes=lambda run, experiment: [run.scores],
        work=_score,
    ),
    Stage(
        "report",
        needs=lambda run: [run.scores, run.manifest],
        settings=lambda run, experiment: [REPORT_FORMAT, asdict(experiment), _what_a_report_adds(run)],
        writes=lambda run, experiment: [run.report_page, run.report_markdown, run.figures],
        work=_report,
    ),
)
EARLIER = {
    "data": "prepare",
    "training.json": "train",
    "scores.json": "score",
}  # which command writes what a stage finds missing


def _machine(run: RunFolder, experiment: Experiment, session: Session) -> Machine:
    """This machine, said on the screen and kept in environment.json when it is new to the run."""
    machine = find_machine()
    if not run.environment.exists() or read_json(run.environment).get("machine") != asdict(machine):
        write_json(run.environment, {**describe_environment(), "machine": asdict(machine)})
        dtype = dtype_of_answers(experiment.arguments, experiment.pinned, machine)
        why = machine.reason if dtype == machine.torch_dtype else "set by the model card or --set"
        session.screen.say(f"  device: {machine.device} ({machine.name}); dtype: {dtype} ({why})")
    return machine
