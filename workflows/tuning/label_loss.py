"""The loss that SWIFT loads for methods with a loss of their own: what the answer's cross-entropy cannot say.

    label-loss:  answer cross-entropy + alpha x classification loss + beta x KL(tuned || base)
    distill:     (1 - w) x answer cross-entropy + w x T^2 x KL(teacher || student) over the labels

The classification loss reads the labels as paths in a tree of tokens.  At each answer position where labels
part, it is the cross-entropy of the right branch among the branches alone: for labels that differ in their
first token that is a softmax over those tokens' logits, and for labels that share first tokens it comes where
they part.  Its sum over an answer is -log of the label's probability when nothing but labels can be written,
and it needs no logits but those of the answer itself.  Distillation compares teacher and student at the same
places: the teacher's probability of a branch is that of its labels together.  Of labels that share first
tokens with each other but not with the answer, only their sum is compared.

Not covered: packing and padding_free (rows must be rows of a batch), sequence parallelism.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from swift.loss import loss_map
from swift.loss.base import BaseLoss
from torch.nn.functional import cross_entropy, kl_div, pad

from workflows.core.errors import UserError
from workflows.model.ranks import ranks

LABEL_LOSS = "label_loss"
Tokens = list[int]


@dataclass(frozen=True)
class Branching:
    """A place in an answer where labels part."""

    position: int  # in the answer's tokens
    tokens: Tokens  # one for each branch
    labels: list[list[int]]  # indices of the labels on each branch
    right: int  # the branch that the answer takes


@dataclass(frozen=True)
class Terms:
    """What the loss is made of; the default is the answer's cross-entropy alone."""

    smoothing: float = 0.0  # of the answer's cross-entropy: the share that all tokens get alike
    alpha: float = 0.0
    beta: float = 0.0
    weights: tuple[float, ...] = ()  # of rows, by their label's index; none: all count alike
    teacher: dict[tuple[int, ...], list[float]] | None = None  # label probabilities by a row's input_ids
    teacher_weight: float = 0.0
    temperature: float = 1.0


def find_label(answer: Tokens, labels: list[Tokens]) -> int:
    """The index of the label that an answer's tokens begin with, of several the longest.

    Raises ValueError where there is none.
    """
    found = [index for index, label in enumerate(labels) if answer[: len(label)] == label]
    if not found:
        raise ValueError(f"the answer {answer} begins with no label's tokens {labels}.")
    return max(found, key=lambda index: len(labels[index]))


def branchings(answer: Tokens, labels: list[Tokens]) -> list[Branching]:
    """Where on the way along `answer` the labels part; `labels` as `folder.label_tokens` gives them."""
    gold = labels[find_label(answer, labels)]
    found = []
    for position, taken in enumerate(gold):
        here = [index for index, label in enumerate(labels) if label[:position] == gold[:position]]
        tokens = sorted({labels[index][position] for index in here})
        if len(tokens) > 1:
            sides = [[index for index in here if labels[index][position] == token] for token in tokens]
            found.append(Branching(position, tokens, sides, tokens.index(taken)))
    return found


class LabelLoss(BaseLoss):
    """SWIFT's loss interface over `Terms`; each term is logged: loss_answer, loss_label, loss_kl,
    loss_teacher.
    """

    def __init__(self, args: Any, trainer: Any, *, labels: list[Tokens], terms: Terms) -> None:
        """`labels`: each label's tokens, ended so that none is the beginning of another."""
        super().__init__(args, trainer)
        self.labels, self.terms = labels, terms
        compute = trainer.template.compute_sft_loss

        # A loss gets no inputs of SWIFT: this is the last place that sees them.
        def compute_and_remember(model: Any, inputs: dict[str, Any], **rest: Any) -> Any:
            self.model, self.inputs = model, inputs
            return compute(model, inputs, **rest)

        trainer.template.compute_sft_loss = compute_and_remember
        batches_of_step = trainer.get_batch_samples

        # SWIFT counts the answer tokens of an optimiser step, not its rows.
        def count_rows(*args: Any, **named: Any) -> Any:
            batches, items = batches_of_step(*args, **named)
            rows = torch.tensor(sum(len(batch["labels"]) for batch in batches), device=trainer.args.device)
            averaged = getattr(trainer.args, "average_tokens_across_devices", False)
            self.rows = trainer.accelerator.gather(rows).sum() if averaged and ranks() > 1 else rows
            return batches, items

        trainer.get_batch_samples = count_rows

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        *,
        num_items_in_batch: Any = None,
        loss_scale: Any = None,
        **rest: Any,
    ) -> torch.Tensor:
        """The loss of one batch; `outputs.logits` (rows, positions, vocabulary) predict the next position's
        `labels` (rows, positions), -100 outside the answers.

        `num_items_in_batch`: answer tokens of all batches of this optimiser step; None: of this one.
        """
        if loss_scale is not None:
            raise UserError("--set loss_scale does not go with this method's loss; leave it out.")
        targets = pad(labels, (0, 1), value=-100)[:, 1:]
        inside = targets != -100
        answers = [row[mask].tolist() for row, mask in zip(targets, inside, strict=True)]
        model = self.trainer.accelerator.unwrap_model(self.model)
        terms = {"answer": self._answer(outputs.logits, labels, targets, answers, model)}
        logits = [row[mask].float() for row, mask in zip(outputs.logits, inside, strict=True)]
        factors: dict[str, Any] = {"answer": 1.0, "label": self.terms.alpha, "kl": self.terms.beta}
        if self.terms.alpha:
            losses = [
                self._weight(answer) * self._label(row, answer)
                for row, answer in zip(logits, answers, strict=True)
            ]
            terms["label"] = torch.stack(losses).mean()
        if self.terms.beta:
            terms["kl"] = self._kl(outputs.logits[inside], inside, model)
        if self.terms.teacher is not None and self.trainer.model.training:  # nothing is known of other rows
            taught = [self._teacher_of(row) for row in range(len(answers))]
            losses = [self._distil(*row) for row in zip(logits, answers, taught, strict=True)]
            terms["teacher"] = torch.stack(losses).mean()
            factors |= {"answer": 1 - self.terms.teacher_weight, "teacher": self.terms.teacher_weight}
        metrics = self.trainer.custom_metrics["train" if self.trainer.model.training else "eval"]
        for name, value in terms.items():
            metrics[f"loss_{name}"].update(value.detach())
        share: Any = 1.0
        if num_items_in_batch is not None and self.trainer.model.training:
            # Each term is a mean over this batch, of tokens or of rows, which is a part of what the optimiser
            # steps on.
            share = inside.sum() / num_items_in_batch
            by_rows = torch.tensor(len(answers), device=inside.device) / self.rows / share
            factors |= {name: factors[name] * by_rows for name in ("label", "teacher") if name in terms}
        return torch.stack([factors[name] * value for name, value in terms.items()]).sum() * share

    def _weight(self, answer: Tokens) -> float:
        return self.terms.weights[find_label(answer, self.labels)] if self.terms.weights else 1.0

    def _answer(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        targets: torch.Tensor,
        answers: list[Tokens],
        model: Any,
    ) -> torch.Tensor:
        """Mean cross-entropy of the answers' tokens, each row's times its label's weight."""
        if not self.terms.weights and not self.terms.smoothing:
            # By the model's own function, so that the loss is its own to the last bit.
            return model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        losses = cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            reduction="none",
            label_smoothing=self.terms.smoothing,
        )
        weights = torch.tensor([self._weight(answer) for answer in answers], device=logits.device)
        return (losses.view_as(targets) * weights[:, None]).sum() / (targets != -100).sum()

    def _label(self, logits: torch.Tensor, answer: Tokens) -> torch.Tensor:
        """The classification loss of one row; `logits`: (tokens of the answer, vocabulary)."""
        losses = [
            cross_entropy(
                logits[place.position, place.tokens], torch.tensor(place.right, device=logits.device)
            )
            for place in branchings(answer, self.labels)
        ]
        return torch.stack(losses).sum()

    def _teacher_of(self, row: int) -> list[float]:
        """The teacher's label probabilities for a row of the batch."""
        assert self.terms.teacher is not None
        present = self.inputs["attention_mask"][row].bool()
        return self.terms.teacher[tuple(self.inputs["input_ids"][row][present].tolist())]

    def _distil(self, logits: torch.Tensor, answer: Tokens, taught: list[float]) -> torch.Tensor:
        """temperature^2 x KL(teacher || student) over the labels, as far as `logits` of the answer tell it.

        Source: Hinton et al. (2015), Distilling the Knowledge in a Neural Network.
        """
        heat = self.terms.temperature
        soft = (torch.tensor(taught, device=logits.device).clamp(min=1e-9).log() / heat).softmax(-1)
        parts = []
        for place in branchings(answer, self.labels):
            target = torch.stack([soft[side].sum() for side in place.labels])
            student = (logits[place.position, place.tokens] / heat).log_softmax(-1)
            # With the probability that the teacher comes here, these add up to the KL over whole labels.
            comes_here = target.sum()  # 0 where a low temperature leaves nothing of it
            share = target / comes_here.clamp(min=torch.finfo(target.dtype).tiny)
            parts.append(comes_here * kl_div(student, share, reduction="sum"))
        return heat**2 * torch.stack(parts).sum()

    def _kl(self, logits: torch.Tensor, inside: torch.Tensor, model: Any) -> torch.Tensor:
        """Mean KL(tuned || base) over the answers' tokens; the base model is this one without its adapter."""
        if not isinstance(model, PeftModel):
            raise UserError("recipe.beta needs an adapter: the base model is the tuned one without it.")
        inputs = {name: value for name, value in self.inputs.items() if name != "labels"}
        with torch.no_grad(), model.disable_adapter():
            base = self.model(**inputs).logits[inside].float().log_softmax(-1)
        return kl_div(base, logits.float().log_softmax(-1), log_target=True, reduction="batchmean")


def register_label_loss(labels: list[Tokens], terms: Terms) -> str:
    """Make SWIFT's argument `loss_type` know this loss; its name there is returned."""
    loss_map[LABEL_LOSS] = partial(LabelLoss, labels=labels, terms=terms)
    return LABEL_LOSS


def balanced_weights(indices: list[int], labels: int) -> tuple[float, ...]:
    """A weight for each of `labels` labels, inverse to how many of `indices` are it; their mean over the rows
    is 1.

    Source: scikit-learn's class_weight="balanced", after King and Zeng (2001).
    """
    counts = [indices.count(label) for label in range(labels)]
    present = sum(count > 0 for count in counts)
    return tuple(len(indices) / (present * count) if count else 0.0 for count in counts)
