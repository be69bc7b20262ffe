"""Makes `tiny`, the embedded stand-in for a Qwen: a real Qwen2 of about 1 M parameters that knows no
sentiment.

    python -m workflows.tiny.build OUT_DIR      (about 4 minutes on 2 cores)

The shipped folder `workflows/tiny/model` is what this script made.  Tokenizer: byte-level BPE as Qwen's,
trained on generated reviews and the 3,755 commonest Chinese characters.  Weights: language modelling on
reviews from the demo generator (another seed; no text of demo.csv) in Qwen's chat form, where the answer is
drawn at random.  So the model learns the form of a review and of an answer, and nothing of which answer
belongs to which review: no label, of training or test rows, is ever read.

Not covered: any ability beyond that.  On real reviews `tiny` shows that the pipeline runs, not what a Qwen
can do.
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from workflows.experiment.cards import DATASETS

sys.path.insert(0, str(DATASETS / "demo"))
import generate as demo  # the generator beside demo.csv

SEED = 7
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # Qwen's, in Qwen's order
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SYSTEM = "You are a helpful assistant."
QUESTION = "评论内容: {review} 这条评论是正面还是负面？"
ANSWERS = ("正面", "负面")
CORPUS_ROWS = 20_000
BATCH = 32
LEARNING_RATE = 2e-3


def common_characters() -> str:
    """The 3,755 first-level characters of GB 2312, by the code page's own order."""
    rows = (bytes([0xB0 + row, 0xA1 + cell]) for row in range(40) for cell in range(94))
    return "".join(code.decode("gb2312", errors="ignore") for code in rows)


def chat(review: str, answer: str) -> str:
    """One conversation in Qwen's chat form, answer included."""
    turns = (("system", SYSTEM), ("user", QUESTION.format(review=review)), ("assistant", answer))
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def build_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every common Chinese character is one token or two."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Chinese runs are cut into single characters: merges then build characters, not phrases of
            # the demo.
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=5_000,
        min_frequency=1,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus, *common_characters(), *common_characters()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=8192,
    )


def train(
    model: Qwen2ForCausalLM, sequences: list[list[int]], pad: int, steps: int, rng: random.Random
) -> None:
    """Plain language modelling over whole conversations, cosine learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    model.train()
    start = time.time()
    for step in range(steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rng.sample(sequences, BATCH)
        width = max(map(len, batch))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch])
        loss = model(
            input_ids=ids, attention_mask=(ids != pad).long(), labels=ids.masked_fill(ids == pad, -100)
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.time() - start:.0f} s", flush=True)


def main() -> None:
    """Build tokenizer and weights into OUT_DIR."""
    parser = argparse.ArgumentParser(description="Make the embedded stand-in model.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()

    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    shipped = {row["text"] for row in demo.generate()}
    texts = [row["text"] for row in demo.generate(CORPUS_ROWS, seed=SEED) if row["text"] not in shipped]
    conversations = [chat(text, rng.choice(ANSWERS)) for text in texts]
    tokenizer = build_tokenizer(conversations)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    print(
        f"{len(texts)} reviews, {len(tokenizer)} tokens, {model.num_parameters() / 1e6:.2f} M parameters",
        flush=True,
    )
    train(model, tokenizer(conversations)["input_ids"], tokenizer.pad_token_id, arguments.steps, rng)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.to(torch.bfloat16).save_pretrained(arguments.out_dir)
    tokenizer.save_pretrained(arguments.out_dir)
    # What transformers 4 needs too: a name that it knows, and no token types, which `generate` would refuse.
    path = arguments.out_dir / "tokenizer_config.json"
    named = json.loads(path.read_text(encoding="utf-8")) | {
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    path.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({path.name: path.stat().st_size for path in sorted(arguments.out_dir.iterdir())}))


if __name__ == "__main__":
    main()
