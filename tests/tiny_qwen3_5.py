"""A Qwen3.5 with random weights and the embedded model's tokenizer, for tests without a network.

SWIFT loads Qwen3.5 with two packages for pictures, which no test shows it: where they are not installed,
empty ones stand in for them, and the folder names a processor that reads no videos.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from transformers.utils import is_torchvision_available

from tests.conftest import TINY

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<think>", "</think>")
PICTURES = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "LlavaProcessor"}
PICTURES |= {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"longest_edge": 4096, "shortest_edge": 1024},
}
# As the family's own: without thinking where that is said.
CHAT_TEMPLATE = (
    "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn.role + '\\n' + turn.content | trim + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}"
    "{% if enable_thinking is false %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)


def stand_in_for_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the packages importable that SWIFT asks for, those that are not installed as empty ones."""
    is_torchvision_available()  # transformers asks once, and must not take the empty one for the real one
    for name, version in (("qwen_vl_utils", "0.0.14"), ("torchvision", None)):
        if importlib.util.find_spec(name) is not None:
            continue
        (folder / name).mkdir(parents=True)
        for module in ("__init__", "vision_process"):
            (folder / name / f"{module}.py").touch()
        if version is not None:
            about = folder / f"{name}-{version}.dist-info"
            about.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (about / "METADATA").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


def build_qwen3_5(folder: Path, end: str = "<|im_end|>") -> Path:
    """Write tokenizer and weights into `folder`, and return it; `end`: the tokenizer's end token."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL]})
    tokenizer.eos_token, tokenizer.chat_template = end, CHAT_TEMPLATE
    start, stop, image, video = tokenizer.convert_tokens_to_ids([*SPECIAL[:4]])
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 8,  # three with a state, one with attention, and again
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),  # of base and chat alike
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    }
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    config = Qwen3_5Config(
        text_config=text,
        vision_config={**vision, "out_hidden_size": 64, "num_position_embeddings": 16},
        vision_start_token_id=start,
        vision_end_token_id=stop,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3_5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES), encoding="utf-8")
    return folder
