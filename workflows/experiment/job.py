"""What every stage is given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment

# Asked after each evaluation of a training, with the trainer's log so far: whether it ends there.
Stops = Callable[[list[dict[str, Any]]], bool]


@dataclass(frozen=True)
class Job:
    """A stage at work: on which run, as which experiment says, and what the stages of one command share."""

    run: RunFolder
    experiment: Experiment
    screen: Screen = field(default_factory=Screen)
    base: Any = None  # the model kept from stage to stage (model/loaded.py), for stages that need one
    inputs: str = ""  # fingerprint of what goes in: what an interrupted stage left is of the same or useless
    features: Path | None = None  # where runs share what a frozen model knows of prompts (recall.py)
    stops: Stops | None = None  # what may end the training early
