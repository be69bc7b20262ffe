"""The files of a run that its report is made of."""

from dataclasses import dataclass
from typing import Any

from workflows.core.costs import Costs, costs_of
from workflows.core.files import read_json, read_jsonl, sha256
from workflows.core.run_folder import RunFolder, finished_stages


@dataclass(frozen=True)
class Files:
    """The content of a run folder, as far as it is there."""

    scores: dict[str, Any]
    predictions: dict[str, list[dict[str, Any]]]
    manifest: dict[str, Any]
    tokens: dict[str, Any] | None
    training: dict[str, Any] | None
    environment: dict[str, Any] | None
    audit: dict[str, Any] | None
    stages: dict[str, dict[str, Any]]
    costs: Costs
    explained: dict[str, dict[str, Any]]  # by id


def read_files(run: RunFolder) -> Files:
    """Read what a report needs."""
    scores = read_json(run.scores)
    tokens, training, environment, audit = (
        read_json(path) if path.exists() else None
        for path in (run.tokens, run.training, run.environment, run.audit_summary)
    )
    predictions = {system: read_jsonl(run.predictions(system)) for system in scores["systems"]}
    by_id = {}
    if run.explained.exists():
        answers = sha256(
            run.predictions([*scores["systems"]][-1])
        )  # an older model's may hang on other clauses
        by_id = {row["id"]: row for row in read_jsonl(run.explained) if row.get("answers") == answers}
    made = tokens, training, environment, audit, finished_stages(run), costs_of(run), by_id
    return Files(scores, predictions, read_json(run.manifest), *made)
