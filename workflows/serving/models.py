"""The models of systems: loaded, with or without others beside them, and what answers by them."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftConfig, PeftModel
from safetensors.numpy import load_file
from swift.infer_engine import RequestConfig
from swift.pipelines.utils import prepare_model_template

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.experiment.experiment import Experiment
from workflows.inference.features import Frame, read_features
from workflows.inference.infer import as_predictions, ask_model, merge_adapter
from workflows.inference.predictions import join_scores
from workflows.inference.regressions import outputs_of
from workflows.inference.scorer import prompt_tokens
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.loaded import LoadedModel, changes_base
from workflows.model.machine import find_machine
from workflows.serving.systems import Batches

Worn = Callable[[], AbstractContextManager[Any]]  # a context that gives the model, ready to answer


@dataclass
class Models:
    """Models in memory.  Adapters of one base share its weights, so none is merged into them, and one that
    changes them has a base of its own.
    """

    bases: dict[str, LoadedModel] = field(default_factory=dict)
    adapted: dict[str, PeftModel] = field(default_factory=dict)

    def load(self, arguments: Any, adapter: Path | None) -> tuple[Any, Any, Worn]:
        """Model, template, and what makes the model wear the adapter for a while (None: none of its own)."""
        # peft puts adapters of unlike kinds on one model only if they are all LoRA's.
        config = None if adapter is None else PeftConfig.from_pretrained(str(adapter))
        kind = "LORA" if config is None else config.peft_type.value
        alone = config is not None and changes_base(config)
        base = fingerprint([kind, str(adapter) if alone else None, arguments.get_model_kwargs()])
        name = fingerprint(str(adapter))  # torch takes no name of a module with a dot, as paths have
        with self.bases.setdefault(base, LoadedModel()).reused():
            model, template = prepare_model_template(arguments)
        if adapter is not None and base not in self.adapted:
            self.adapted[base] = PeftModel.from_pretrained(model, adapter, adapter_name=name)
        elif adapter is not None:
            self.adapted[base].load_adapter(adapter, name)

        @contextmanager
        def worn() -> Iterator[Any]:
            adapted = self.adapted.get(base)  # asked late: another run may have put an adapter on the model
            if adapted is None:
                yield model
            elif adapter is None:
                with adapted.disable_adapter():
                    yield adapted
            else:
                adapted.set_adapter(name)
                yield adapted

        return model, template, worn


def load_model(
    experiment: Experiment, checkpoint: Path | None, models: Models | None
) -> tuple[Any, Any, Worn]:
    """Model, template, and a context in which the model is ready to answer.

    With what answers everywhere: the engine and the attention that a run asked for may not be here.
    """
    of_this_machine = re.compile("attn_impl|vllm_.*")
    overrides = {
        name: value for name, value in experiment.overrides.items() if not of_this_machine.fullmatch(name)
    }
    experiment = replace(experiment, overrides=overrides, tuning=replace(experiment.tuning, engine="fast"))
    ready, machine, nowhere = with_local_model(experiment), find_machine(), Path(os.devnull)
    is_adapter = checkpoint is not None and (checkpoint / "adapter_config.json").exists()
    beside = models is not None and is_adapter  # the model wears it beside others
    arguments = build_infer_arguments(ready, machine, nowhere, nowhere, None if beside else checkpoint)
    if models is not None:
        return models.load(arguments, checkpoint if is_adapter else None)
    with LoadedModel().reused():  # as a run loads it
        model, template = prepare_model_template(arguments)
    merged = merge_adapter(model)
    return merged, template, lambda: nullcontext(merged)


def by_model(experiment: Experiment) -> Callable[[Any, Any, Rows], Batches]:
    """What the model says, in words or by its head."""
    request = RequestConfig(max_tokens=MAX_NEW_TOKENS, temperature=0)

    def answer(model: Any, template: Any, rows: Rows) -> Batches:
        by_id = {row["id"]: row for row in rows}
        for batch in ask_model(model, template, rows, experiment, request):
            yield as_predictions([by_id[each["id"]] for each in batch], batch, experiment)

    return answer


def by_probe(run: RunFolder, experiment: Experiment) -> Callable[[Any, Any, Rows], Batches]:
    """What the probe says; a UserError where it was not fitted."""
    fitted = read_json(run.probe)
    if fitted["missing"] is not None:
        raise UserError(f"{run.path}: has no probe: {fitted['missing']['en']}")
    weights, frame = load_file(run.probe_weights), Frame(**fitted["frame"])

    def answer(model: Any, template: Any, rows: Rows) -> Batches:
        prompts = [prompt_tokens(template, row) for row in rows]
        for batch in read_features(model, prompts, frame):
            outputs = outputs_of(weights, np.array([features for _, features in batch])).tolist()
            asked = [rows[at] for at, _ in batch]
            said = [
                {"id": row["id"], "answer": None, "scores": [output]}
                for row, output in zip(asked, outputs, strict=True)
            ]
            yield [{**row, "output": None} for row in join_scores(asked, said, experiment)]

    return answer
