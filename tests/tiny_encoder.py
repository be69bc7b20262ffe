"""A BERT with random weights that knows the characters of some texts, for tests without a network."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast


def build_encoder(folder: Path, texts: list[str], can_read: int = 512) -> Path:
    """Write tokenizer and weights into `folder`, and return it; `can_read`: tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *sorted(set("".join(texts)) - {"a"})]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=can_read,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder
