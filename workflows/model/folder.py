"""The model's files: fetched, and checked against the experiment and this machine before they are loaded.

Nothing here imports torch or SWIFT until a model is needed (`fetch_model`).
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.permissions import check_folder, is_offline
from workflows.experiment.cards import MAX_NEW_TOKENS, ROOT, Arguments, Label
from workflows.experiment.checks import check_environment, check_method
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import describe_folder, runs_own_code
from workflows.model.machine import find_machine, fit_to_machine, is_full

FLASH_ATTENTION = {"flash_attn", "flash_attention_2"}  # SWIFT's names for the package flash_attn


def check_machine(experiment: Experiment) -> None:
    """Raise UserError for what this machine cannot do (four bits without bitsandbytes and a GPU, flash
    attention that would stop the run), and for full tuning of fp16 weights, which none can.
    """
    arguments, method = experiment.arguments, experiment.tuning.method
    if arguments.get("quant_method") == "bnb" and (lacking := _lacking_for_four_bits()):
        raise UserError(
            f"method {method} loads the model in 4 bits, which needs {' and '.join(lacking)}; "
            "without them take --method lora."
        )
    if is_full(arguments) and "torch_dtype" in experiment.pinned and arguments["torch_dtype"] == "float16":
        raise UserError(
            f"method {method} trains all weights, which fp16 has too few digits for: leave out "
            "torch_dtype=float16; the weights are then fp32, and a GPU without bf16 computes in fp16."
        )
    if str(arguments.get("attn_impl")) in FLASH_ATTENTION and (why := _why_no_flash_attention(experiment)):
        raise UserError(
            f"--set attn_impl={arguments['attn_impl']}: {why}; leave it out, torch's own attention is used."
        )


def _lacking_for_four_bits() -> list[str]:
    import torch

    is_here = {
        "bitsandbytes (pip install bitsandbytes)": importlib.util.find_spec("bitsandbytes") is not None,
        "an NVIDIA GPU": torch.cuda.is_available(),
    }
    return [what for what, here in is_here.items() if not here]


def _why_no_flash_attention(experiment: Experiment) -> str | None:
    """Why the package flash_attn would stop this run here, or None where nothing speaks against it."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "it needs a GPU of Ampere or newer"
    fitted = fit_to_machine(experiment.arguments, experiment.pinned, find_machine())
    if fitted["torch_dtype"] == "float32":
        return "it refuses float32, which this run's weights are in"
    if not is_flash_attn_2_available():
        return "the package flash_attn is not installed here, or too old"
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        return f"the package flash_attn was built for another torch ({' '.join(str(error).split())[:100]})"
    return None


def fetch_model(arguments: Arguments, weights: bool = True) -> Path:
    """The local folder of the model that `arguments` name: of a hub id SWIFT's download, or what is in the
    hub's cache where the hub is not in reach; without `weights` only what describes the model: config,
    tokenizer, generation config.

    With --offline only the cache is looked at. Switches remote code off in SWIFT's loader, and refuses a
    folder that asks for it, unless --trust-code names it. Raises UserError where the model cannot be had,
    with what was tried.
    """
    from swift.model.register import ModelLoader
    from swift.utils import safe_snapshot_download

    model = str(arguments["model"])
    folder = ROOT / model  # `tiny` ships with the project; an absolute path stays as it is
    if not folder.is_dir():
        revision, use_hf = arguments.get("model_revision"), arguments.get("use_hf") in (True, "true")
        download = partial(safe_snapshot_download, model, revision, weights, use_hf)
        try:
            if is_offline():
                raise ConnectionError("--offline asks no hub, and its cache has not all of it")
            with without_login():
                folder = Path(download())
        except Exception as error:  # whatever a hub client raises, the user's way out is the same
            cached = _cached(download, weights)
            if cached is None:
                raise UserError(
                    f"model {model}: could not be downloaded ({type(error).__name__}: "
                    f"{' '.join(str(error).split())[:200]}). Give a local folder with --model DIR, or "
                    + (
                        "start once without --offline."
                        if is_offline()
                        else "take the other hub with --set use_hf=true."
                    )
                ) from error
            folder = cached
    check_folder(folder)
    ModelLoader.default_trust_remote_code = runs_own_code(folder)
    return folder


@contextmanager
def without_login() -> Iterator[None]:
    """Within this SWIFT does not log in to ModelScope, as it would where there is a token, even to look into
    the cache or to read any arguments: what is fetched from the hub brings the token itself.
    """
    from swift.hub import MSHub

    login = vars(MSHub)["try_login"]
    MSHub.try_login = classmethod(lambda cls, token=None: False)
    try:
        yield
    finally:
        MSHub.try_login = login


def _cached(download: Callable[..., str], weights: bool) -> Path | None:
    """What is in a hub's cache of the model that `download` fetches; None where that is not all of it."""
    try:
        with without_login():
            folder = Path(download(local_files_only=True))
    except Exception:  # each hub client has its own
        return None
    wanted = ("*.safetensors", "*.bin") if weights else ("config.json",)
    return folder if any(any(folder.glob(pattern)) for pattern in wanted) else None


def check_label_words(tokenizer: Any, labels: tuple[Label, ...]) -> None:
    """Raise UserError unless each label's words fit in MAX_NEW_TOKENS tokens and no two are the same.

    `tokenizer` is the model's own.
    """
    starts: dict[tuple[int, ...], Label] = {}
    for label in labels:
        words, ids = label.words, tokenizer.encode(label.words, add_special_tokens=False)
        if len(ids) > MAX_NEW_TOKENS:
            raise UserError(
                f"label words {words!r} are {len(ids)} tokens for this model, its answers are cut at "
                f"{MAX_NEW_TOKENS}: take shorter words (--labels value=words, or label_words in the prompt)."
            )
        twin = starts.setdefault(tuple(ids), label)
        if twin != label:
            raise UserError(
                f"labels {twin.name} and {label.name} have the same words for this model ({words!r}): "
                "take other words."
            )


def label_tokens(template: Any, labels: tuple[Label, ...]) -> list[list[int]]:
    """Each label's whole answer: the tokens of its words, then the mark that ends an answer in training."""
    end = template.template_meta.stop_token_id
    return [[*template.tokenizer.encode(label.words, add_special_tokens=False), end] for label in labels]


def with_local_model(experiment: Experiment) -> Experiment:
    """The experiment with its model as a local folder, after every check that can be made before loading it.

    What a hub id left open (model_type, template) is read from the folder's files.
    Raises UserError where the environment, the model or the label words do not fit.
    """
    from transformers import AutoTokenizer

    check_environment(experiment.model, experiment.tuning.engine)
    check_machine(experiment)
    folder = fetch_model(experiment.arguments)
    card = experiment.model
    ready = replace(card, arguments={**describe_folder(folder), **card.arguments, "model": str(folder)})
    readied = replace(experiment, model=ready)
    check_environment(ready, experiment.tuning.engine)  # the family of a hub id is known only now
    check_method(readied)
    if not experiment.has_head:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=runs_own_code(folder))
        check_label_words(tokenizer, experiment.labels)
    return readied
