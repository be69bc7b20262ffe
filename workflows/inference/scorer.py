"""Greedy answers and label probabilities of many prompts, in little more than one forward pass over them.

Prompts of like length share a batch, the tokens that all prompts begin with are computed once, and the output
layer is applied to the needed positions only.  Every label's words stand behind their prompt in the same
pass, each label blind to the others: this gives the labels' probabilities, and the answer as far as it stays
within their words.  Rows whose greedy answer leaves them are decoded on, token by token, from its cache.

Where layers carry a state on (`carries_state`), no beginning is shared, prompts are padded before their first
token, and each label's words are read on a copy of the state behind the prompt.

Not covered: sampling, beams, and what a generation config may add to greedy decoding beyond a repetition
penalty (`Greedy` says which it refuses).
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from swift.infer_engine import RequestConfig
from swift.infer_engine.utils import prepare_generation_config
from torch.nn.functional import pad
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor

from workflows.core.errors import UserError
from workflows.core.rows import question
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.model.batches import LOGIT_ROWS, in_batches, most_rows
from workflows.model.loaded import body_of, carries_state
from workflows.model.tokens import common_beginning

SHARED_HEAD = 8  # prompts that agree in so many first tokens are taken to have the same beginning
# What would make greedy decoding choose other tokens than the largest logit, and its neutral values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "guidance_scale": (None, 1.0),
    "exponential_decay_length_penalty": (None,),
}

Tokens = list[int]


@dataclass(frozen=True)
class Answer:
    """What the model says to the prompt at position `row` of the list."""

    row: int
    tokens: Tokens  # greedy, at most MAX_NEW_TOKENS, the end mark included where it came
    log_probabilities: list[float]  # of each label's whole answer, (labels,); with its end mark where `ended`


@dataclass(frozen=True)
class Greedy:
    """How the model decodes: which tokens end an answer, and the penalty on tokens that were seen."""

    end_tokens: frozenset[int]
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, model: Any, template: Any, request: RequestConfig) -> "Greedy":
        """As SWIFT's engine would decode `request`; a UserError for what is not covered here."""
        config = prepare_generation_config(model.generation_config, request, template.tokenizer)
        for name, neutral in NEUTRAL.items():
            if getattr(config, name, None) not in neutral:
                raise UserError(
                    f"generation config: {name} is set, which the fast scorer does not follow; "
                    "use --engine swift."
                )
        ends = config.eos_token_id
        end_tokens = {*(ends if isinstance(ends, list) else [ends])}
        for word in [*(request.stop or []), *template.template_meta.stop_words]:
            tokens = (
                template.tokenizer.encode(word, add_special_tokens=False) if isinstance(word, str) else word
            )
            if len(tokens) != 1:
                raise UserError(f"stop word {word!r} is not one token; use --engine swift.")
            end_tokens.add(tokens[0])
        return cls(frozenset(end_tokens), config.repetition_penalty or 1.0)


def prompt_tokens(template: Any, row: dict[str, Any]) -> Tokens:
    """What the model reads before it answers a row of a data file, as SWIFT's inference encodes it."""
    with template.generate_context():
        return template.encode({"messages": question(row)})["input_ids"]


def score_prompts(
    model: Any, prompts: list[Tokens], labels: list[Tokens], greedy: Greedy, ended: bool = True
) -> Iterator[list[Answer]]:
    """The answers to `prompts`, batch by batch, the longest prompts first.

    `model`: a causal language model, with or without a LoRA adapter; it is left in the mode it was in.
    `labels`: from `folder.label_tokens`; `ended`: whether a label's probability is that of its words and end
    mark, or of the words alone, whatever follows them.
    """
    device = next(model.parameters()).device
    with padding_within_rows(model):
        scorer = _Scorer(model, labels, greedy, device, ended)
        # Padding may not follow a state, so nothing is read once there.
        alone: list[tuple[Tokens, list[int]]] = [([], [*range(len(prompts))])]
        for beginning, rows in alone if scorer.has_state else shared_beginnings(prompts):
            prefix = read_prefix(scorer.body, beginning, device)
            lengths = {row: len(prompts[row]) - len(beginning) + len(scorer.places) for row in rows}
            work = partial(scorer.answer, prompts=prompts, beginning=beginning, prefix=prefix)
            yield from in_batches(lengths, device.type, most_rows(model, len(beginning)), work)


@contextmanager
def padding_within_rows(model: Any) -> Iterator[None]:
    """Within this the model reads without gradients or dropout, and takes rows with padding in their midst,
    which flash attention does not.
    """
    training, config = model.training, body_of(model).config
    attention = config._attn_implementation
    if attention not in ("eager", "sdpa"):
        config._attn_implementation = "sdpa"
    model.eval()
    try:
        yield
    finally:
        config._attn_implementation = attention
        model.train(training)


@torch.no_grad()
def read_prefix(body: Any, tokens: Tokens, device: torch.device) -> DynamicCache:
    """The cache after the tokens that all prompts begin with, for one row."""
    # What a layer keeps, keys and values or a state, the config tells.
    cache = DynamicCache(config=body.config) if carries_state(body.config) else DynamicCache()
    if tokens:
        body(input_ids=torch.tensor([tokens], device=device), past_key_values=cache, use_cache=True)
    return cache


def padded_behind(
    beginning: Tokens, rest: list[Tokens], device: torch.device, words: Tokens | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens padded on the left, behind a common beginning, so that a row's last token stands at the
    end (right before `words`): ids, (rows, tokens), and which tokens are there, the beginning's included,
    `words` left out.
    """
    width = max(map(len, rest))
    ids = [[0] * (width - len(tokens)) + tokens + (words or []) for tokens in rest]
    present = [[1] * len(beginning) + [0] * (width - len(tokens)) + [1] * len(tokens) for tokens in rest]
    return torch.tensor(ids, device=device), torch.tensor(present, device=device)


def shared_beginnings(prompts: list[Tokens]) -> list[tuple[Tokens, list[int]]]:
    """The longest beginning that most prompts share, with their rows; then the other rows, with none."""
    heads = Counter(tuple(prompt[:SHARED_HEAD]) for prompt in prompts)
    common = heads.most_common(1)[0][0] if prompts else ()
    same = [row for row, prompt in enumerate(prompts) if tuple(prompt[:SHARED_HEAD]) == common]
    others = [row for row, prompt in enumerate(prompts) if tuple(prompt[:SHARED_HEAD]) != common]
    # One token at least of each prompt is left to be read: its hidden state begins the answer.
    shared = common_beginning(prompts[row][:-1] for row in same)
    groups = [(shared, same), ([], others)]
    return [group for group in groups if group[1]]


class _Scorer:
    """One model with its labels; `answer` does a batch."""

    def __init__(
        self, model: Any, labels: list[Tokens], greedy: Greedy, device: torch.device, ended: bool
    ) -> None:
        self.ended = ended
        self.body, self.head = body_of(model), model.get_output_embeddings()
        self.labels, self.greedy, self.device = labels, greedy, device
        self.has_state = carries_state(self.body.config)
        # (label, how many of its words are read) of each position behind a prompt.
        self.places = [(i, n) for i, label in enumerate(labels) for n in range(1, len(label))]
        self.penalty = (
            None
            if greedy.repetition_penalty == 1.0
            else RepetitionPenaltyLogitsProcessor(greedy.repetition_penalty)
        )

    @torch.no_grad()
    def answer(
        self, rows: list[int], prompts: list[Tokens], beginning: Tokens, prefix: DynamicCache
    ) -> list[Answer]:
        """Answer the prompts at `rows`, one batch; `prefix` is the cache of their common `beginning`."""
        prompts = [prompts[row] for row in rows]
        cache = copy.deepcopy(prefix)
        if beginning:
            cache.batch_repeat_interleave(len(rows))
        words = [self.labels[label][n - 1] for label, n in self.places]
        rest = [prompt[len(beginning) :] for prompt in prompts]
        if self.has_state:
            ids, present = padded_behind(beginning, rest, self.device)
            hidden, seen_by = self._read_words_apart(ids, present, cache), present
        else:
            ids, present = padded_behind(beginning, rest, self.device, words)
            hidden = self._read_with_words(ids, present, cache)[:, -len(words) - 1 :]
            seen_by = pad(present, (0, len(words)), value=0)
        seen = [[prompt, *(prompt + self.labels[i][:n] for i, n in self.places)] for prompt in prompts]
        # At a place only its own label's next token is wanted; at the prompt's end each label's first.
        wanted = [
            [label[0] for label in self.labels],
            *([self.labels[i][n]] * len(self.labels) for i, n in self.places),
        ]
        chosen, logs = self._choose(
            hidden.flatten(0, 1).contiguous(), [each for row in seen for each in row], wanted * len(rows)
        )
        logs = logs.double().view(len(rows), len(wanted), len(self.labels))
        scores = logs[:, 0].clone()
        for place, (label, n) in enumerate(self.places, start=1):
            if self.ended or n < len(self.labels[label]) - 1:
                scores[:, label] += logs[:, place, label]
        choices = [chosen[at : at + len(wanted)] for at in range(0, len(chosen), len(wanted))]
        answers = [self._draft(each) for each in choices]
        open_rows = [i for i, tokens in enumerate(answers) if not self._ended(tokens)]
        if open_rows:
            self._decode(open_rows, answers, prompts, seen_by, cache)
        return [
            Answer(row, tokens, log) for row, tokens, log in zip(rows, answers, scores.tolist(), strict=True)
        ]

    def _ended(self, tokens: Tokens) -> bool:
        return tokens[-1] in self.greedy.end_tokens or len(tokens) >= MAX_NEW_TOKENS

    def _read(self, ids: torch.Tensor, present: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Hidden states of the tokens `ids`, (rows, tokens, size); `present` marks cached and new tokens."""
        width = ids.shape[1]
        if self.has_state and 1 < width < present.shape[1]:  # not every transformers goes on from a state so
            steps = [(ids[:, at : at + 1], present[:, : at + 1 - width or None]) for at in range(width)]
            return torch.cat([self._read(*step, cache) for step in steps], 1)
        positions = (present.cumsum(1) - 1).clamp(min=0)[:, -width:]
        return self.body(
            input_ids=ids,
            attention_mask=present,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _read_with_words(self, ids: torch.Tensor, present: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Hidden states of the prompts' tokens and of the labels' words behind them, (rows, tokens, size).

        `present` marks cached tokens and the prompts'.  Words see the prompt, and their own label's words
        before them.
        """
        rows, size = ids.shape
        width = size - len(self.places)
        before = present.shape[1] - width
        label, n = (torch.tensor(each, device=self.device) for each in zip(*self.places, strict=True))
        visible = torch.ones(size, before + size, dtype=torch.bool, device=self.device).tril(before)
        visible[width:, before + width :] &= label[:, None] == label
        keys = torch.cat([present, present.new_ones(rows, len(self.places))], 1).bool()[:, None, None]
        # Padding sees itself: a softmax over nothing is not a number.
        itself = torch.eye(size, dtype=torch.bool, device=self.device)
        keys = keys | torch.nn.functional.pad(itself, (before, 0))
        hidden_from = torch.zeros(rows, 1, size, before + size, dtype=self.body.dtype, device=self.device)
        hidden_from.masked_fill_(~(visible & keys), torch.finfo(self.body.dtype).min)
        positions = (present.cumsum(1) - 1).clamp(min=0)
        return self.body(
            input_ids=ids,
            attention_mask=hidden_from,
            position_ids=torch.cat([positions[:, before:], positions[:, -1:] + n], 1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _read_words_apart(
        self, ids: torch.Tensor, present: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Hidden states of each prompt's end and of the labels' words behind it, (rows, 1 + words, size); the
        cache then holds the prompts alone.
        """
        hidden = [self._read(ids, present, cache)[:, -1:]]
        for label in self.labels:
            after, seen = copy.deepcopy(cache), present
            for token in label[:-1]:
                seen = pad(seen, (0, 1), value=1)
                hidden.append(self._read(torch.full_like(ids[:, :1], token), seen, after))
        return torch.cat(hidden, 1)

    def _choose(
        self, hidden: torch.Tensor, contexts: list[Tokens], wanted: list[Tokens]
    ) -> tuple[Tokens, torch.Tensor]:
        """The greedy next token of each row, and the log probabilities of its `wanted` ones, (rows, wanted).

        `hidden`: (rows, size), contiguous; `contexts`: the tokens seen so far, for the repetition penalty.
        """
        chosen: Tokens = []
        logs = []
        for start in range(0, len(hidden), LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            logits = self.head(hidden[rows]).float()
            logs.append(
                logits.log_softmax(-1).gather(1, torch.tensor(wanted[rows], device=self.device)).cpu()
            )
            if self.penalty is not None:
                width = max(map(len, contexts[rows]))
                # Filled up with each row's own first token: a padding token was not seen.
                ids = [tokens[:1] * (width - len(tokens)) + tokens for tokens in contexts[rows]]
                logits = self.penalty(torch.tensor(ids, device=self.device), logits)
            chosen += logits.argmax(-1).tolist()
        return chosen, torch.cat(logs)

    def _draft(self, chosen: Tokens) -> Tokens:
        """The greedy answer as far as it stays within a label's words.

        `chosen`: the greedy next token at the prompt's end and at each place.
        """
        following = {
            tuple(self.labels[label][:n]): token
            for (label, n), token in zip(self.places, chosen[1:], strict=True)
        }
        tokens = chosen[:1]
        while not self._ended(tokens) and tuple(tokens) in following:
            tokens.append(following[tuple(tokens)])
        return tokens

    def _decode(
        self,
        rows: list[int],
        answers: list[Tokens],
        prompts: list[Tokens],
        present: torch.Tensor,
        cache: DynamicCache,
    ) -> None:
        """Decode on, token by token, the answers of `rows` that left the labels' words; changes `answers`."""
        cache.reorder_cache(torch.tensor(rows, device=self.device))
        present = present[rows]
        fed = 0
        while not all(self._ended(answers[row]) for row in rows):
            known = min(len(answers[row]) for row in rows if not self._ended(answers[row]))
            # All rows go on in step; those that are further along are fed what they have written.
            ids = torch.tensor(
                [(answers[row] + [0] * MAX_NEW_TOKENS)[fed:known] for row in rows], device=self.device
            )
            present = torch.cat([present, torch.ones_like(ids)], 1)
            hidden = self._read(ids, present, cache)[:, -1].contiguous()
            contexts = [prompts[row] + answers[row][:known] for row in rows]
            chosen, _ = self._choose(hidden, contexts, [[0]] * len(rows))
            for row, token in zip(rows, chosen, strict=True):
                if len(answers[row]) == known and not self._ended(answers[row]):
                    answers[row].append(token)
            fed = known
