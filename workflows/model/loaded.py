"""The base model, loaded once for all stages of a command."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from workflows.core.files import fingerprint


@dataclass
class LoadedModel:
    """The model that SWIFT loaded last, with its own weights; empty at first, and after `release`."""

    loaded_with: str = ""
    model: Any = None
    processor: Any = None
    generation_config: Any = None

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Within this, SWIFT gets the model kept here where it would load the same one again."""
        from swift.arguments.base_args import base_args

        from workflows.model.patches import (
            make_output_layer_input_contiguous,
            use_plain_attention_for_short_rows,
        )

        load = base_args.get_model_processor

        def get_model_processor(**arguments: Any) -> tuple[Any, Any]:
            if not arguments.get("load_model", True):
                return load(**arguments)
            wanted = fingerprint(arguments)
            if self.model is None or wanted != self.loaded_with:
                self.release()  # before the next one takes its memory
                self.model, self.processor = load(**arguments)
                make_output_layer_input_contiguous(self.model)
                use_plain_attention_for_short_rows(self.model)
                self.loaded_with = wanted
                self.generation_config = copy.deepcopy(self.model.generation_config)
            # SWIFT changes it: for training as for inference.
            self.model.generation_config = copy.deepcopy(self.generation_config)
            return self.model, self.processor

        base_args.get_model_processor = get_model_processor
        try:
            yield
        finally:
            base_args.get_model_processor = load

    def remove_adapter(self, tuned: Any) -> None:
        """Take a LoRA adapter off the model; forget it where tuning changed other weights too."""
        from peft import PeftModel

        # A layer trained whole (modules_to_save, biases) would stay: peft gives back the trained one.
        trained = [name for name, weight in tuned.named_parameters() if weight.requires_grad]
        is_lora = isinstance(tuned, PeftModel) and all("lora_" in name for name in trained)
        if not is_lora or not all(map(starts_beside, tuned.peft_config.values())):
            self.release()
        elif tuned.get_base_model() is self.model:
            self.model = tuned.unload()

    def release(self) -> None:
        """Let the model's memory go."""
        self.model = self.processor = self.generation_config = None
        self.loaded_with = ""


def starts_beside(config: Any) -> bool:
    """Whether an adapter of this peft config begins beside the base's weights; PiSSA, OLoRA and their like
    take what they begin with out of them.
    """
    return getattr(config, "init_lora_weights", True) in (True, False, "gaussian")


def changes_base(config: Any) -> bool:
    """Whether a base that wears an adapter of this peft config answers otherwise without it, too: PiSSA and
    its like, and biases that were trained.
    """
    return not starts_beside(config) or getattr(config, "bias", "none") != "none"


def body_of(model: Any) -> Any:
    """The layers that make hidden states of tokens, of a model with or without an adapter or a head; of one
    that sees pictures too, those that read text.
    """
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    body = getattr(base, base.base_model_prefix)
    return getattr(body, "language_model", body)


def class_for(config: Any) -> Any:
    """The class of transformers that makes a model of a config, with what sees pictures where it has that."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def carries_state(config: Any) -> bool:
    """Whether some layers of a body with this config read a prompt as a state that each token changes, as
    three of four in Qwen3.5 do: then no token can be hidden from those behind it, and padding is harmless
    only before a whole prompt or behind it.
    """
    return "linear_attention" in (getattr(config, "layer_types", None) or ())
