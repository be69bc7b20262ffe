"""The model's files: fetched, and checked against the experiment and this machine before they are loaded.

Nothing here imports torch or SWIFT until a model is needed (`fetch_model`).
"""

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from workflows.core.errors import MomentaryError, UserError
from workflows.core.files import read_json
from workflows.core.hubs import HUBS, Hub, HubError, Repository, fetch, find_cached
from workflows.core.permissions import check_folder, is_off
from workflows.core.texts import text
from workflows.core.told import tell
from workflows.experiment.cards import MAX_NEW_TOKENS, ROOT, Arguments, Label
from workflows.experiment.checks import check_environment, check_method
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import describe_folder, runs_own_code
from workflows.model.machine import find_machine, fit_to_machine, is_adalora, is_full

WEIGHTS = ("*.safetensors", "*.bin")
# As SWIFT leaves them out: the same weights in other forms.
NOT_WANTED = (
    *("*.zip", "*.gguf", "*.pth", "*.pt", "consolidated*", "onnx/*", "*.safetensors.md", "*.msgpack"),
    *("*.onnx", "*.ot", "*.h5"),
)
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
    if experiment.tunes and not is_full(arguments) and not is_adalora(arguments):
        _check_torchao()


def _check_torchao() -> None:
    """Raise UserError where peft would refuse LoRA's adapters for the torchao that is installed."""
    if importlib.util.find_spec("torchao") is None:
        return
    from peft.import_utils import is_torchao_available

    try:
        is_torchao_available()
    except ImportError as error:
        raise UserError(
            f"{error}; peft makes no LoRA beside it: pip uninstall -y torchao, or pip install -U torchao"
        ) from error


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
    """The local folder of the model that `arguments` name; of a hub id what `fetch_from_hubs` gives;
    without `weights` only what describes the model: config, tokenizer, generation config.

    With --offline only the cache is looked at. Switches remote code off in SWIFT's loader, and refuses a
    folder that asks for it, unless --trust-code names it. Raises UserError where the model cannot be had,
    with what was tried.
    """
    from swift.model.register import ModelLoader

    model = str(arguments["model"])
    folder = ROOT / model  # `tiny` ships with the project; an absolute path stays as it is
    if not folder.is_dir():
        if Path(model).is_absolute():  # no hub has such an id
            raise UserError(f"model {model}: there is no such folder.")
        first: Hub = "modelscope" if is_off(arguments.get("use_hf")) else "huggingface"
        folder = fetch_from_hubs(model, arguments.get("model_revision"), first, weights)
    check_folder(folder)
    ModelLoader.default_trust_remote_code = runs_own_code(folder)
    return folder


@cache  # the stages of a run ask one after another, and a hub out of reach takes its time
def fetch_from_hubs(model: str, revision: str | None, first: Hub, weights: bool) -> Path:
    """The folder of a hub id, from `first` or its cache, else from the other hub or its cache.

    What comes from the other is told. A `revision` is a hub's own, so the other is not asked for it. Raises
    UserError where no hub gives it.
    """
    tried = []
    for hub in (first,) if revision else (first, *(other for other in HUBS if other != first)):
        repository = Repository(
            hub, "model", model, revision, unwanted=NOT_WANTED if weights else (*NOT_WANTED, *WEIGHTS)
        )
        try:
            folder = fetch(repository)
        except HubError as error:
            tried.append(f"{hub}: {error}")
            cached = find_cached(repository)
            if cached is None or not _is_whole(cached, weights):
                continue
            folder = cached
        if tried:
            print(f"model {model}: taken from {folder}; {'; '.join(tried)}", file=sys.stderr)
        if hub != first:  # by the same id, but perhaps by another owner
            revised = folder.name  # as both clients name the folder of a snapshot
            tell(text("model_of_the_other_hub", first=first, model=model, hub=hub, revision=revised))
        return folder
    raise MomentaryError(
        f"model {model}: could not be downloaded. Tried: {'; '.join(tried)}. To work offline, give a local "
        "folder with --model DIR, or take the embedded model: --model tiny."
    )


def _is_whole(folder: Path, weights: bool) -> bool:
    """Whether a hub's cache has all of a model: ModelScope's does not say."""
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index)["weight_map"].values()) if weights and index.is_file() else set()
    needed = [
        ("config.json",),
        ("*token*", "vocab*"),
        *([WEIGHTS] if weights else []),
        *((each,) for each in shards),
    ]
    has_all = all(any(any(folder.glob(name)) for name in names) for names in needed)
    return has_all and not any(folder.glob("*.incomplete"))


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


def check_words(experiment: Experiment, folder: Path) -> None:
    """As `check_label_words`, where the model's files are in `folder`; a head writes no words."""
    from transformers import AutoTokenizer

    if not experiment.has_head:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=runs_own_code(folder))
        check_label_words(tokenizer, experiment.labels)


def label_tokens(template: Any, labels: tuple[Label, ...]) -> list[list[int]]:
    """Each label's whole answer: the tokens of its words, then the mark that ends an answer in training."""
    end = template.template_meta.stop_token_id
    return [[*template.tokenizer.encode(label.words, add_special_tokens=False), end] for label in labels]


def with_local_model(experiment: Experiment) -> Experiment:
    """The experiment with its model as a local folder, after every check that can be made before loading it.

    What a hub id left open (model_type, template) is read from the folder's files.
    Raises UserError where the environment, the model or the label words do not fit.
    """
    check_environment(experiment.model, experiment.tuning.engine)
    check_machine(experiment)
    folder = fetch_model(experiment.arguments)
    card = experiment.model
    ready = replace(card, arguments={**describe_folder(folder), **card.arguments, "model": str(folder)})
    readied = replace(experiment, model=ready)
    check_environment(ready, experiment.tuning.engine)  # the family of a hub id is known only now
    check_method(readied)
    check_words(experiment, folder)
    return readied
