"""Greedy answers and label probabilities of many prompts, in little more than one forward pass over them.

Prompts of like length share a batch, the tokens that all prompts begin with are computed once, and the output
layer is applied to the needed positions only.  Each label's words and end mark are then run from the prompts'
cache: this gives the label's probability, and checks the answer that the first token starts.  Rows whose
greedy answer is no label's words are decoded on, token by token, from the same cache.

Not covered: sampling, beams, and what a generation config may add to greedy decoding beyond a repetition
penalty (`Greedy` says which it refuses).
"""

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from swift.infer_engine import RequestConfig
from swift.infer_engine.utils import prepare_generation_config
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor

from workflows.errors import UserError
from workflows.experiment import MAX_NEW_TOKENS
from workflows.inference.batches import LOGIT_ROWS, in_halves, length_batches, most_rows
from workflows.run_folder import question

LABELS_AT_A_TIME = 4  # each needs a copy of the prompts' keys and values
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


def body_and_head(model: Any) -> tuple[Any, Any]:
    """The layers that make hidden states of tokens, and the output layer that makes logits of them."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(base, base.base_model_prefix), base.get_output_embeddings()


def answer_prompts(
    model: Any, prompts: list[Tokens], labels: list[Tokens], greedy: Greedy, ended: bool = True
) -> Iterator[list[Answer]]:
    """The answers to `prompts`, batch by batch, the longest prompts first.

    `model`: a causal language model, with or without a LoRA adapter; it is left in the mode it was in.
    `labels`: from `models.label_tokens`; `ended`: whether a label's probability is that of its words and end
    mark, or of the words alone, whatever follows them.
    """
    device = next(model.parameters()).device
    training, config = model.training, body_and_head(model)[0].config
    attention = config._attn_implementation
    if attention not in ("eager", "sdpa"):  # padding stands within the rows here, which flash attention lacks
        config._attn_implementation = "sdpa"
    model.eval()
    try:
        scorer = _Scorer(model, labels, greedy, device, ended)
        for beginning, rows in _shared_beginnings(prompts):
            with torch.no_grad():
                prefix = scorer.read_prefix(beginning)
            lengths = {row: len(prompts[row]) - len(beginning) for row in rows}
            copies, words = 1 + min(LABELS_AT_A_TIME, len(labels)), max(map(len, labels))
            most = most_rows(model, len(beginning), copies, words)
            work = partial(scorer.answer, prompts=prompts, beginning=beginning, prefix=prefix)
            for batch in length_batches(lengths, device.type, most):
                yield from in_halves(batch, work)
    finally:
        config._attn_implementation = attention
        model.train(training)


def _shared_beginnings(prompts: list[Tokens]) -> list[tuple[Tokens, list[int]]]:
    """The longest beginning that most prompts share, with their rows; then the other rows, with none."""
    heads = Counter(tuple(prompt[:SHARED_HEAD]) for prompt in prompts)
    common = heads.most_common(1)[0][0] if prompts else ()
    same = [row for row, prompt in enumerate(prompts) if tuple(prompt[:SHARED_HEAD]) == common]
    others = [row for row, prompt in enumerate(prompts) if tuple(prompt[:SHARED_HEAD]) != common]
    # One token at least of each prompt is left to be read: its hidden state begins the answer.
    shared = [
        column[0]
        for column in itertools.takewhile(
            lambda column: len(set(column)) == 1, zip(*(prompts[row][:-1] for row in same), strict=False)
        )
    ]
    groups = [(shared, same), ([], others)]
    return [group for group in groups if group[1]]


class _Scorer:
    """One model with its labels; `answer` does a batch."""

    def __init__(
        self, model: Any, labels: list[Tokens], greedy: Greedy, device: torch.device, ended: bool
    ) -> None:
        self.ended = ended
        self.body, self.head = body_and_head(model)
        self.labels, self.greedy, self.device = labels, greedy, device
        self.penalty = (
            None
            if greedy.repetition_penalty == 1.0
            else RepetitionPenaltyLogitsProcessor(greedy.repetition_penalty)
        )

    def read_prefix(self, tokens: Tokens) -> DynamicCache:
        """The cache after the tokens that all prompts begin with, for one row."""
        cache = DynamicCache()
        if tokens:
            ids = torch.tensor([tokens], device=self.device)
            self.body(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    @torch.no_grad()
    def answer(
        self, rows: list[int], prompts: list[Tokens], beginning: Tokens, prefix: DynamicCache
    ) -> list[Answer]:
        """Answer the prompts at `rows`, one batch; `prefix` is the cache of their common `beginning`."""
        prompts = [prompts[row] for row in rows]
        cache = copy.deepcopy(prefix)
        if beginning:
            cache.batch_repeat_interleave(len(rows))
        rest = [prompt[len(beginning) :] for prompt in prompts]
        width = max(map(len, rest))
        # Padded on the left, after the common beginning: the last position is each row's last token.
        ids = torch.tensor([[0] * (width - len(tokens)) + tokens for tokens in rest], device=self.device)
        present = torch.tensor(
            [[1] * len(beginning) + [0] * (width - len(tokens)) + [1] * len(tokens) for tokens in rest],
            device=self.device,
        )
        hidden = self._read(ids, present, cache)[:, -1].contiguous()
        first, scores = self._choose(hidden, prompts, [[label[0] for label in self.labels]] * len(rows))
        parts = [
            self._read_labels(self.labels[at : at + LABELS_AT_A_TIME], prompts, present, cache)
            for at in range(0, len(self.labels), LABELS_AT_A_TIME)
        ]
        scores = scores.double() + torch.cat([part for part, _ in parts], 1)
        choices: list[dict[tuple[int, ...], int]] = [{} for _ in rows]
        for _, found in parts:
            choices = [{**known, **new} for known, new in zip(choices, found, strict=True)]
        answers = [self._draft(token, choices[i]) for i, token in enumerate(first)]
        open_rows = [i for i, tokens in enumerate(answers) if not self._ended(tokens)]
        if open_rows:
            self._decode(open_rows, answers, prompts, present, cache)
        return [
            Answer(row, tokens, log) for row, tokens, log in zip(rows, answers, scores.tolist(), strict=True)
        ]

    def _ended(self, tokens: Tokens) -> bool:
        return tokens[-1] in self.greedy.end_tokens or len(tokens) >= MAX_NEW_TOKENS

    def _read(self, ids: torch.Tensor, present: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Hidden states of the tokens `ids`, (rows, tokens, size); `present` marks cached and new tokens."""
        positions = (present.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.body(
            input_ids=ids,
            attention_mask=present,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

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

    def _read_labels(
        self, labels: list[Tokens], prompts: list[Tokens], present: torch.Tensor, cache: DynamicCache
    ) -> tuple[torch.Tensor, list[dict[tuple[int, ...], int]]]:
        """Log probabilities of what follows each label's first token, (rows, labels), and for each row the
        token that greedy decoding writes after each beginning of a label's words.
        """
        words = [label[:-1] for label in labels]
        width, count = max(map(len, words)), len(words)
        filled = [tokens + [0] * (width - len(tokens)) for tokens in words]
        here = [[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in words]
        ids = torch.tensor(filled * len(prompts), device=self.device)
        marks = torch.tensor(here * len(prompts), device=self.device)
        copies = copy.deepcopy(cache)
        copies.batch_repeat_interleave(count)
        hidden = self._read(ids, torch.cat([present.repeat_interleave(count, 0), marks], 1), copies)
        places = [
            (row, index, length)
            for row in range(len(prompts))
            for index, tokens in enumerate(words)
            for length in range(1, len(tokens) + 1)
        ]
        at = torch.tensor([(row * count + index, length - 1) for row, index, length in places])
        needed = hidden[at[:, 0].to(self.device), at[:, 1].to(self.device)].contiguous()
        contexts = [prompts[row] + words[index][:length] for row, index, length in places]
        following = [[labels[index][length]] for _, index, length in places]
        chosen, logs = self._choose(needed, contexts, following)
        scores = torch.zeros(len(prompts), count, dtype=torch.double)
        choices: list[dict[tuple[int, ...], int]] = [{} for _ in prompts]
        for (row, index, length), log, token in zip(places, logs[:, 0].tolist(), chosen, strict=True):
            if self.ended or length < len(words[index]):
                scores[row, index] += log
            choices[row][tuple(words[index][:length])] = token
        return scores, choices

    def _draft(self, first: int, choices: dict[tuple[int, ...], int]) -> Tokens:
        """The greedy answer as far as it stays within the labels' words, which are known already."""
        tokens = [first]
        while not self._ended(tokens) and tuple(tokens) in choices:
            tokens.append(choices[tuple(tokens)])
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
        cache.batch_select_indices(torch.tensor(rows, device=self.device))
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
