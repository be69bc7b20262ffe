"""Recipes: what a method does that SWIFT's arguments cannot say, with its settings.

A preset's key `recipe` names the kind and changes the defaults here; --set recipe.NAME=VALUE changes them
again.
"""

from dataclasses import dataclass
from typing import Any, Literal

from workflows.core.errors import UserError


def _check(recipe: Any, name: str, low: float, high: float = float("inf")) -> None:
    value = getattr(recipe, name)
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"recipe.{name} {value}: must be {limits}.")


@dataclass(frozen=True)
class LabelLoss:
    """Recipe: answer cross-entropy + alpha x classification loss + beta x KL to the frozen base model."""

    kind: Literal["label-loss"]
    alpha: float = 0.0
    beta: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        _check(self, "alpha", 0)
        _check(self, "beta", 0)


@dataclass(frozen=True)
class Preference:
    """Recipe: the right label is to be more probable than a wrong one (DPO), from another run's adapter."""

    kind: Literal["dpo"]


@dataclass(frozen=True)
class Distillation:
    """Recipe: (1 - teacher_weight) x answer cross-entropy + teacher_weight x temperature^2 x KL(teacher ||
    student) over the labels, the teacher being another run's tuned model.
    """

    kind: Literal["distill"]
    teacher_weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        _check(self, "teacher_weight", 0, 1)
        _check(self, "temperature", 0.1)


@dataclass(frozen=True)
class Reasoning:
    """Recipe: the untuned model, told the label, writes why; training answers with the label, then that."""

    kind: Literal["cot"]
    prompt: str  # with {review} and {label}
    samples: int | None = None  # rows that get a reasoning; None: all
    max_new_tokens: int = 96
    min_characters: int = 10
    max_characters: int = 200

    def __post_init__(self) -> None:
        _check(self, "max_new_tokens", 1)
        _check(self, "max_characters", self.min_characters)
        if self.samples is not None:
            _check(self, "samples", 1)
        if "{review}" not in self.prompt or "{label}" not in self.prompt:
            raise UserError("recipe.prompt: must hold {review} and {label}.")


@dataclass(frozen=True)
class PseudoLabels:
    """Recipe: unlabelled reviews join the training rows, labelled by another run's models."""

    kind: Literal["pseudo-label"]
    threshold: float = 0.9  # least probability that the tuned model gives to its label

    def __post_init__(self) -> None:
        _check(self, "threshold", 0, 1)


@dataclass(frozen=True)
class Probe:
    """Recipe: nothing is tuned; what answers is the probe of the frozen model."""

    kind: Literal["probe"]


Recipe = LabelLoss | Preference | Distillation | Reasoning | PseudoLabels | Probe
FROM_RUN = {"dpo", "distill", "pseudo-label"}  # the kinds of recipe that start from another run
SAME_MODEL = {"dpo", "pseudo-label"}  # of these, the ones that take model and prompt from it
DERIVED = {"dpo", "distill", "cot", "pseudo-label"}  # the kinds that make training rows of their own
