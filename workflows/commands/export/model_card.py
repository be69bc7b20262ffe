"""The model card of an exported model: README.md in English and Chinese, its figures from the run's files.

Its front matter says the same to the hubs, as their model-index has it.
"""

import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workflows.core.files import open_whole, read_json
from workflows.core.rows import question
from workflows.core.run_folder import RunFolder
from workflows.core.texts import texts, with_interval
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.experiment.experiment import Experiment
from workflows.experiment.recipes import Plain
from workflows.reporting.render import plain_in_markdown

EXAMPLE = "味道很好，送得也快。"  # a review of nobody's, for the lines that show how to load the model
# Of SWIFT's arguments: what this machine adds, and what has lines of its own.
LEFT_OUT = {"model", "model_type", "template", "check_model", "report_to", "torch_dtype", "seed", "data_seed"}

# The hubs' name of a metric, ours, and the hubs' arguments.
METRICS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("accuracy", "accuracy", {}),
    ("f1", "macro_f1", {"average": "macro"}),
)


def write_model_card(
    folder: Path, run: RunFolder, experiment: Experiment, base: Path, check: dict[str, Any]
) -> None:
    """Write README.md, and the base model's LICENSE where it has one, into `folder`.

    `base`: the base model's folder, whose own card says its licence; `check`: from the comparison with the
    run.  No path of this machine is written: files and folders go by their names.
    """
    manifest, scores = read_json(run.manifest), read_json(run.scores)
    named = str(experiment.model.arguments["model"])
    is_hub_id = named.count("/") == 1 and not Path(named).is_absolute()
    from_hub = manifest["from"] in [source.place for source in experiment.dataset.sources]
    files = [
        f"{Path(file['path']).name} (SHA-256 {file['sha256'][:16]}…)" for file in manifest["files"].values()
    ]
    row = write_row(Review("example", EXAMPLE, 0), experiment.prompt, experiment.labels, "messages")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["plain"] = lambda value: plain_in_markdown(str(value))
    card = environment.get_template("model_card.md.jinja").render(
        front=ModelCardData(
            language="zh",
            license=_licence(base) or "other",
            base_model=named if is_hub_id else None,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["sentiment", "text-classification", "ms-swift"],
            metrics=[metric for metric, _, _ in METRICS],
            model_name=experiment.name,
            eval_results=_results(experiment, manifest, scores),
        ).to_yaml(),
        experiment=experiment,
        base=named if is_hub_id else experiment.model.name,
        licence=_licence(base),
        labels=experiment.labels,
        source=manifest["from"] if from_hub else ", ".join(files),
        manifest=manifest,
        splits=texts("splits"),
        arguments={
            name: value
            for name, value in {**experiment.arguments, **experiment.recipe_settings}.items()
            if name not in LEFT_OUT and not is_place(value)
        },
        all_weights=experiment.arguments.get("tuner_type") == "full",
        by_swift=not isinstance(experiment.recipe, Plain),
        scores=scores,
        systems=texts("systems"),
        with_interval=with_interval,
        messages=question(row),
        check=check,
    )
    with open_whole(folder / "README.md") as file:
        file.write(card)
    if (base / "LICENSE").is_file():
        shutil.copy(base / "LICENSE", folder / "LICENSE")


def is_place(value: Any) -> bool:
    """Whether a setting is a path of this machine, which nobody else has."""
    return isinstance(value, str) and Path(value).is_absolute()


def _results(experiment: Experiment, manifest: dict[str, Any], scores: dict[str, Any]) -> list[EvalResult]:
    """What the hubs show beside the model: the tuned model's figures on the test rows.

    The number of rows and the intervals are arguments there: the hubs have no place of their own for them.
    """
    dataset, (name, title) = experiment.tested or experiment.dataset, experiment.tested_on
    place = manifest.get("tested", manifest)["from"]
    on_hub = [source.id for source in dataset.sources if source.place == place]
    tuned = scores["systems"]["tuned"]
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=next(iter(on_hub), name),
            dataset_name=title,
            dataset_split="test",
            dataset_args={"rows": scores["test_rows"], "sha256": scores["test_sha256"]},
            metric_type=metric,
            metric_name=texts("metrics")[figure].en,
            metric_value=tuned[figure],
            metric_args={**settings, "interval_95": tuned[f"{figure}_interval"]},
        )
        for metric, figure, settings in METRICS
    ]


def _licence(base: Path) -> str | None:
    """The licence that the base model's own card names in its front matter."""
    try:
        front = (base / "README.md").read_text(encoding="utf-8").split("---\n")[1]
        return str(yaml.safe_load(front)["license"] or "") or None
    except (OSError, LookupError, TypeError, yaml.YAMLError):  # no front matter that says anything
        return None
