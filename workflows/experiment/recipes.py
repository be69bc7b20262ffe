"""Recipes: what a method does that SWIFT's arguments cannot say, with its settings.

A preset's key `recipe` names the kind and changes the defaults here; --set recipe.NAME=VALUE changes them
again.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from workflows.core.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class LabelLoss:
    """Recipe: answer cross-entropy + alpha x classification loss + beta x KL to the frozen base model."""

    kind: Literal["label-loss"]
    alpha: Weight = 0.0
    beta: Weight = 0.0
    class_weights: Literal["none", "balanced"] = "none"


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
    teacher_weight: Share = 0.5
    temperature: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 2.0


@dataclass(frozen=True)
class Reasoning:
    """Recipe: the untuned model, told the label, writes why; training answers with the label, then that."""

    kind: Literal["cot"]
    prompt: str  # with {review} and {label}
    samples: Annotated[int, Field(ge=1)] | None = None  # rows that get a reasoning; None: all
    max_new_tokens: Annotated[int, Field(ge=1)] = 96
    min_characters: int = 10
    max_characters: int = 200

    def __post_init__(self) -> None:
        if self.max_characters < self.min_characters:
            raise UserError(f"recipe.max_characters: must be at least min_characters, {self.min_characters}.")
        if "{review}" not in self.prompt or "{label}" not in self.prompt:
            raise UserError("recipe.prompt: must hold {review} and {label}.")


@dataclass(frozen=True)
class PseudoLabels:
    """Recipe: unlabelled reviews join the training rows, labelled by another run's models."""

    kind: Literal["pseudo-label"]
    threshold: Share = 0.9  # least probability that the tuned model gives to its label


@dataclass(frozen=True)
class Probe:
    """Recipe: nothing is tuned; what answers is the probe of the frozen model."""

    kind: Literal["probe"]


@dataclass(frozen=True)
class Plain:
    """Recipe: trained as a short script with peft and transformers' Trainer does it, to compare with."""

    kind: Literal["plain"]


Recipe = Annotated[
    LabelLoss | Preference | Distillation | Reasoning | PseudoLabels | Probe | Plain,
    Field(discriminator="kind"),
]
FROM_RUN = {"dpo", "distill", "pseudo-label"}  # the kinds of recipe that start from another run
SAME_MODEL = {"dpo", "pseudo-label"}  # of these, the ones that take model and prompt from it
DERIVED = {"dpo", "distill", "cot", "pseudo-label"}  # the kinds that make training rows of their own
