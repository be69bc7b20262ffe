"""The stages of a run, in order: each reads files of the run folder and writes others.

    prepare -> tokens -> baselines -> probe -> audit -> zero_shot
            -> derive -> train -> tuned -> score -> report

A table: what is done stands behind each stage's door, what is said of it in lines.py.  A door is imported
when its stage starts, so that preparing and scoring load neither torch nor SWIFT.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import read_json, sha256
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.experiment.experiment import Experiment, content_of
from workflows.experiment.job import Job
from workflows.experiment.recipes import Preference

# They count up when the files get other keys, so that older runs are worked on anew.
DATA_FORMAT = 3
PREDICTIONS_FORMAT = 2
BASELINES_FORMAT = 2  # of what is fitted, not of the files
SCORES_FORMAT = 9
REPORT_FORMAT = 2

UNTUNED = ("zero_shot", "zero_shot_labels", "zero_shot_threshold")  # what one model's answers are read as

Settings = dict[str, Any]  # what a stage depends on beside files of earlier stages, by the name that is said


@dataclass(frozen=True)
class Stage:
    """One step of a run: its door, what it needs, what else it depends on, what it writes."""

    name: str
    door: str  # module:function in workflows, a function of a job that returns its summary
    needs: Callable[[RunFolder], list[Path]]  # files of earlier stages
    depends: Callable[[RunFolder, Experiment], Settings]
    writes: Callable[[RunFolder, Experiment], list[Path]]
    made_by: str  # the command that makes what a later stage finds missing
    is_part_of: Callable[[Experiment], bool] = lambda experiment: True  # whether a run has this stage
    by_many: bool = False  # whether several processes can share its work

    def do(self, job: Job) -> Any:
        """Do the work; return its summary."""
        module, name = self.door.split(":")
        return getattr(import_module(f"workflows.{module}"), name)(job)


def _splits(run: RunFolder) -> list[Path]:
    return [*map(run.split, SPLITS)]


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


def _tested_source(run: RunFolder, experiment: Experiment) -> Settings:
    """Whose test rows are taken, with the hashes of its files; nothing where they are the data set's own."""
    from workflows.data.tested import tested_experiment, tested_run

    card = experiment.tested
    if card is None:
        return {}
    hashes = _source_hashes(tested_run(run, card), tested_experiment(experiment, card))
    return {"what is tested on": [asdict(card), hashes]}


def _labels(experiment: Experiment) -> list[Settings]:
    return [asdict(label) for label in experiment.labels]


def _data(run: RunFolder, experiment: Experiment) -> Settings:
    return {
        "the data set's card": asdict(experiment.dataset),
        **{f"--{name.replace('_', '-')}": value for name, value in content_of(experiment)["data"].items()},
        "the prompt": asdict(experiment.prompt),
        "split_dataset_ratio": experiment.arguments.get("split_dataset_ratio"),
        "the method": experiment.has_head,
        "the data files": _source_hashes(run, experiment),
        "what is mixed in": _mixed_sources(run, experiment),
        **_tested_source(run, experiment),
        "the files' format": DATA_FORMAT,
    }


def _data_files(run: RunFolder, experiment: Experiment) -> list[Path]:
    flipped = [run.flipped] if experiment.data.flip_labels else []
    return [*_splits(run), run.rejected, run.corrections, *flipped, run.manifest]


def _model(experiment: Experiment) -> Settings:
    return {
        **experiment.arguments,
        "--seed": experiment.tuning.seed,
        "--data-seed": experiment.data.data_seed,
        "label words": _labels(experiment),
    }


def _recipe(experiment: Experiment) -> Settings:
    return {} if experiment.recipe is None else {"the recipe": asdict(experiment.recipe)}


def _sources(run: RunFolder, experiment: Experiment) -> Any:
    """The runs and files that derived rows are made from."""
    from workflows.pipeline.derived_rows import describe_sources

    try:
        return describe_sources(experiment)
    except UserError:  # gone since: what was made of it stays
        if not run.derived_summary.exists():
            raise
        made = read_json(run.derived_summary)
        return {name: made[name] for name in ("from_run", "unlabelled") if name in made}


def _derive(run: RunFolder, experiment: Experiment) -> Settings:
    made_from: Settings = {"what it is made from": _sources(run, experiment)}
    if isinstance(experiment.recipe, Preference):  # of the validation rows, too
        made_from["--eval-rows"] = experiment.tuning.eval_rows
    return {**_model(experiment), **_recipe(experiment), **made_from}


def _training(run: RunFolder, experiment: Experiment) -> Settings:
    made = [sha256(path) for path in (run.derived, run.derived_val) if path.exists()]
    rows = {"--eval-rows": experiment.tuning.eval_rows, "rows that were made": made}
    more: Settings = {}
    if experiment.tuning.window is not None:  # evaluations read so, and choose the checkpoint
        more["--window"] = experiment.tuning.window
    if isinstance(experiment.recipe, Preference):  # it trains the other run's adapter on
        more["what it begins from"] = _sources(run, experiment)
    return {**_model(experiment), **_recipe(experiment), **rows, **more}


def _answers(run: RunFolder, experiment: Experiment) -> Settings:
    return {
        **_model(experiment),
        "--engine": experiment.tuning.engine,
        "--window": experiment.tuning.window,
        "how answers end": experiment.ends_after_label,
        "the files' format": PREDICTIONS_FORMAT,
    }


def _untuned(run: RunFolder, experiment: Experiment) -> Settings:
    return {**_answers(run, experiment), "--probe-rows": experiment.tuning.probe_rows}


def _baseline_files(run: RunFolder, experiment: Experiment) -> list[Path]:
    constant = "mean" if experiment.dataset.task == "regression" else "majority"
    return [run.predictions(constant), run.predictions("tfidf")]


def _probe_files(run: RunFolder, experiment: Experiment) -> list[Path]:
    if run.probe.exists() and read_json(run.probe)["missing"] is not None:
        return [run.probe]
    return [run.probe, run.probe_weights, run.predictions("probe")]


def _audit(run: RunFolder, experiment: Experiment) -> Settings:
    said = [path for path in (run.out_of_fold, run.predictions("probe")) if path.exists()]
    more: Settings = {"what the probe says": [*map(sha256, said)]} if len(said) == 2 else {}
    if experiment.data.apply is not None:  # its rows come first
        more["what was corrected"] = sha256(run.corrections)
    return {"label words": _labels(experiment), **more}


def _scores(run: RunFolder, experiment: Experiment) -> Settings:
    probe = read_json(run.probe) if run.probe.exists() else {}
    return {
        "label words": _labels(experiment),
        "the probe": [probe.get("missing"), probe.get("rows")],
        "the files' format": SCORES_FORMAT,
        **({"report_to": experiment.trackers} if experiment.trackers else {}),
    }


def _what_a_report_adds(run: RunFolder) -> list[str]:
    """The hashes of what a report shows where it is there."""
    paths = (run.tokens, run.training, run.environment, run.audit_summary, run.explained)
    return [sha256(path) for path in paths if path.exists()]


STAGES = (
    Stage(
        "prepare",
        "data.prepare:prepare",
        needs=lambda run: [],
        depends=_data,
        writes=_data_files,
        made_by="prepare",
    ),
    Stage(
        "tokens",
        "model.tokens:count_tokens",
        needs=_splits,
        depends=lambda run, experiment: experiment.arguments,
        writes=lambda run, experiment: [run.tokens],
        made_by="train",
    ),
    Stage(
        "baselines",
        "baselines.baselines:run_baselines",
        needs=_splits,
        depends=lambda run, experiment: {
            "the files' format": PREDICTIONS_FORMAT,
            "how baselines are fitted": BASELINES_FORMAT,
        },
        writes=_baseline_files,
        made_by="score",
    ),
    Stage(
        "probe",
        "inference.probe:probe",
        needs=_splits,
        depends=_untuned,
        writes=_probe_files,
        is_part_of=lambda experiment: not experiment.for_encoders,  # which have another kind of layer
        made_by="infer",
    ),
    Stage(
        "audit",
        "baselines.audit:audit",
        needs=_splits,
        depends=_audit,
        writes=lambda run, experiment: [run.audit, run.audit_summary],
        is_part_of=lambda experiment: experiment.dataset.task == "single_label",  # what it judges
        made_by="audit",
    ),
    Stage(
        "zero_shot",
        "inference.infer:answer_untuned",
        needs=_splits,
        depends=_untuned,
        writes=lambda run, experiment: [*map(run.predictions, UNTUNED)],
        is_part_of=lambda experiment: not experiment.has_head,  # an untrained head knows nothing
        made_by="infer",
        by_many=True,
    ),
    Stage(
        "derive",
        "pipeline.derived_rows:derive_rows",
        needs=_splits,
        depends=_derive,
        writes=lambda run, experiment: [run.derived, run.derived_rejected, run.derived_summary],
        is_part_of=lambda experiment: experiment.derives_rows,
        made_by="train",
    ),
    Stage(
        "train",
        "pipeline.training:train_and_measure",
        needs=lambda run: [run.split("train"), run.split("val"), run.tokens],
        depends=_training,
        writes=lambda run, experiment: [run.training],
        is_part_of=lambda experiment: experiment.tunes,
        made_by="train",
        by_many=True,
    ),
    Stage(
        "tuned",
        "inference.infer:answer_tuned",
        needs=lambda run: [run.split("test"), run.training],
        depends=_answers,
        writes=lambda run, experiment: [run.predictions("tuned")],
        is_part_of=lambda experiment: experiment.tunes,
        made_by="infer",
        by_many=True,
    ),
    Stage(
        "score",
        "pipeline.trackers:score_and_track",
        needs=lambda run: [
            run.split("test"),
            run.manifest,
            *sorted((run.path / "predictions").glob("[!.]*.jsonl")),
        ],
        depends=_scores,
        writes=lambda run, experiment: [run.scores, *([run.tracked] if experiment.trackers else [])],
        made_by="score",
    ),
    Stage(
        "report",
        "reporting.report:report",
        needs=lambda run: [run.scores, run.manifest, *_splits(run)],  # the figure of lengths shows them
        depends=lambda run, experiment: {
            "the experiment": content_of(experiment),
            "other files that it shows": _what_a_report_adds(run),
            "its format": REPORT_FORMAT,
        },
        writes=lambda run, experiment: [run.report_page, run.report_markdown, run.figures],
        made_by="report",
    ),
)


def makers(run: RunFolder, experiment: Experiment) -> dict[Path, Stage]:
    """The stage that makes each file of the run folder."""
    return {path: stage for stage in STAGES for path in stage.writes(run, experiment)}
