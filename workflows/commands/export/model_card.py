"""The model card of an exported model: README.md in English and Chinese, its figures from the run's files."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workflows.core.files import open_whole, read_json
from workflows.core.rows import question
from workflows.core.run_folder import RunFolder
from workflows.core.texts import texts, with_interval
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.experiment.experiment import Experiment

EXAMPLE = "味道很好，送得也快。"  # a review of nobody's, for the lines that show how to load the model
# Of SWIFT's arguments: what this machine adds, and what has lines of its own.
LEFT_OUT = {"model", "model_type", "template", "check_model", "report_to", "torch_dtype", "seed", "data_seed"}


def write_model_card(
    folder: Path, run: RunFolder, experiment: Experiment, base: Path, check: dict[str, Any]
) -> None:
    """Write README.md, and the base model's LICENSE where it has one, into `folder`.

    `base`: the base model's folder, whose own card says its licence; `check`: from the comparison with the
    run.  No path of this machine is written: files and folders go by their names.
    """
    manifest = read_json(run.manifest)
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
    card = environment.get_template("model_card.md.jinja").render(
        experiment=experiment,
        base=named if is_hub_id else experiment.model.name,
        base_on_hub=is_hub_id,
        licence=_licence(base),
        labels=experiment.labels,
        source=manifest["from"] if from_hub else ", ".join(files),
        manifest=manifest,
        splits=texts("splits"),
        arguments={name: value for name, value in experiment.arguments.items() if name not in LEFT_OUT},
        scores=read_json(run.scores),
        systems=texts("systems"),
        with_interval=with_interval,
        messages=question(row),
        check=check,
    )
    with open_whole(folder / "README.md") as file:
        file.write(card)
    if (base / "LICENSE").is_file():
        shutil.copy(base / "LICENSE", folder / "LICENSE")


def _licence(base: Path) -> str | None:
    """The licence that the base model's own card names in its front matter."""
    try:
        front = (base / "README.md").read_text(encoding="utf-8").split("---\n")[1]
        return str(yaml.safe_load(front)["license"] or "") or None
    except (OSError, LookupError, TypeError, yaml.YAMLError):  # no front matter that says anything
        return None
