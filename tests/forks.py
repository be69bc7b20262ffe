"""Runs command lines in forks of one process, in which the libraries are loaded already: SWIFT takes 10 s.

    python -m tests.forks       (started by tests/conftest.py)

Each line of its input is a request in JSON: the arguments, the files for output and errors, the environment.
Each line of its answer is an exit code.  Of the variables that libraries read while they are loaded those of
the hubs and of temporary files have an effect all the same.
Not for a machine with a GPU: CUDA does not outlive a fork.
"""

import gc
import importlib
import json
import multiprocessing
import os
import sys
import tempfile

import run_swift
from tests.kill_runs import ORDER, arm

PATIENCE = 600  # seconds after which a test takes what it waits for to hang, on the slowest machine
LIGHT = (
    *("pandas", "sklearn.linear_model", "sklearn.feature_extraction.text", "cleanlab", "matplotlib.figure"),
    *("statsmodels.stats.multitest", "workflows.commands.run", "workflows.data.prepare"),
    *("workflows.baselines.audit", "workflows.scoring.score", "workflows.pipeline.trackers"),
    *("workflows.reporting.report", "workflows.commands.compare", "workflows.serving.predict"),
)
HEAVY = (
    *("torch", "peft", "transformers.models.qwen2.modeling_qwen2", "swift.callbacks", "swift.infer_engine"),
    *("swift.pipelines.infer.infer", "swift.pipelines.train.sft", "swift.trainers.seq2seq_trainer"),
    *("workflows.pipeline.training", "workflows.inference.infer", "workflows.inference.probe"),
    *("workflows.studies.study", "workflows.search.search", "workflows.serving.server"),
    *("workflows.serving.systems", "workflows.commands.plan.plan", "workflows.commands.export.export"),
)
WITHOUT_HEAVY = {"--help", "list", "prepare", "audit", "score", "report", "compare"}


def serve() -> None:
    """Answer requests until there are no more."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints while it is loaded is no answer
    for line in requests:
        arguments, files, environment = json.loads(line)
        needed = (*LIGHT, *(() if WITHOUT_HEAVY.intersection(arguments[:1]) else HEAVY))
        if not sys.modules.keys() >= {*needed}:
            for name in needed:
                importlib.import_module(name)
            gc.collect()
            gc.freeze()  # else a fork's first collection copies all that the libraries made
        fork = multiprocessing.get_context("fork").Process(
            target=_command, args=(arguments, files, environment)
        )
        fork.start()
        fork.join(PATIENCE)
        fork.kill()
        fork.join()
        answers.write(f"{fork.exitcode}\n")


def _command(arguments: list[str], files: list[str], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    tempfile.tempdir = None
    if "huggingface_hub.constants" in sys.modules:
        importlib.reload(sys.modules["huggingface_hub.constants"])
    if "modelscope_hub" in sys.modules:
        sys.modules["modelscope_hub"].set_default_config(None)
    if "datasets.fingerprint" in sys.modules:  # else all forks would draw the same names for files
        sys.modules["datasets.fingerprint"].fingerprint_rng.seed()
    if (order := environment.get(ORDER)) is not None:
        arm(json.loads(order))
    sys.exit(run_swift.main(arguments))


if __name__ == "__main__":
    serve()
