"""The door of the stage `train`: SWIFT's training, its evaluations made by our scorer."""

import time
from contextlib import nullcontext
from typing import Any

from workflows.core.files import read_jsonl
from workflows.core.run_folder import finished_stages
from workflows.data.splits import sample_rows
from workflows.experiment.job import Job
from workflows.experiment.recipes import Plain
from workflows.inference.infer import measure_validation, work_of
from workflows.model.machine import machine_of
from workflows.model.ranks import rank
from workflows.pipeline.trackers import tracked
from workflows.tuning.checkpoints import last_checkpoint
from workflows.tuning.plain import train_plainly
from workflows.tuning.train import train

SCORE_AND_REPORT = 10.0  # seconds; 8 and 10 in two runs on 2 cores of an AMD EPYC, most of it the figures


def train_and_measure(job: Job) -> dict[str, Any]:
    """Train, looking at a sample of the validation rows now and then; return what training.json holds,
    and the seconds.
    """
    run, experiment, screen = job.run, job.experiment, job.screen
    val = read_jsonl(run.split("val"))
    looked_at = sample_rows(val, experiment.tuning.eval_rows, experiment.data.data_seed)
    if len(looked_at) < len(val):
        screen.say(f"  evaluations look at {len(looked_at)} of {len(val):,} validation rows")

    def measure(model: Any, template: Any) -> dict[str, float]:
        with screen.progress("evaluating", sum(map(work_of, looked_at)), counted=False) as bar:
            return measure_validation(model, template, looked_at, experiment, bar)

    # Answers take as long as before tuning; of a head none were given.
    afterwards = finished_stages(run).get("zero_shot", {}).get("seconds", 0.0) + SCORE_AND_REPORT
    start, resumed = time.monotonic(), last_checkpoint(job) is not None
    with tracked(run, experiment) if rank() == 0 else nullcontext():
        if isinstance(experiment.recipe, Plain):
            summary = train_plainly(job, machine_of(job))
        else:
            summary = train(job, machine_of(job), measure, len(looked_at), afterwards)
    seconds = {"tuning": round(time.monotonic() - start, 2), "resumed": resumed}
    return summary | {"seconds": {"tuned": seconds}}
