"""Models by name, folder and hub id; what is refused before a model is loaded."""

import json
import re
import shutil
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError
from peft.import_utils import is_torchao_available
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import TINY, make_experiment
from tests.fake_hub import FakeHub
from workflows.core.errors import UserError, what_to_mend
from workflows.core.hubs import Hub
from workflows.core.told import listening
from workflows.experiment.cards import MODELS, Label, ModelCard, names_of
from workflows.experiment.checks import check_environment, check_method
from workflows.experiment.model_cards import describe_folder, load_model_card
from workflows.model.folder import check_label_words, check_machine, fetch_from_hubs, fetch_model


def _is_base(card: ModelCard) -> bool:
    return card.arguments.get("use_chat_template") is False


def _copy_tiny(folder: Path, **config: object) -> Path:
    shutil.copytree(TINY, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **config}), encoding="utf-8")
    return folder


def test_the_promised_models_have_cards() -> None:
    promised = {"tiny", "qwen-1.8b", "qwen-1.8b-chat"}
    promised |= {f"qwen1.5-{size}{kind}" for size in ("0.5b", "1.8b") for kind in ("", "-chat")}
    promised |= {
        f"{name}-{size}{kind}"
        for name in ("qwen2", "qwen2.5")
        for size in ("0.5b", "1.5b")
        for kind in ("", "-instruct")
    }
    promised |= {f"qwen3-{size}{kind}" for size in ("0.6b", "1.7b") for kind in ("", "-base")}
    pictures = {f"qwen3.5-0.8b{kind}" for kind in ("", "-base")}
    promised |= pictures
    encoders = {"bert-base-chinese", "chinese-roberta-wwm-ext", "structbert-base"}
    assert set(names_of(MODELS)) == promised | encoders
    for name in encoders:
        assert load_model_card(name).arguments["template"] == "dummy"
    for name in promised:
        card = load_model_card(name)
        chats = ("qwen3-0.6b", "qwen3-1.7b", "qwen3.5-0.8b")
        is_base = "chat" not in name and "instruct" not in name and name not in ("tiny", *chats)
        assert _is_base(card) == is_base, name
        assert (card.arguments.get("enable_thinking") is False) == (name in {*chats, *pictures}), name
        frozen = [card.arguments.get(part) for part in ("freeze_vit", "freeze_aligner")]
        assert frozen == ([True, True] if name in pictures else [None, None]), name


def test_a_hub_id_of_a_card_is_that_card_and_others_go_by_their_name() -> None:
    assert load_model_card("Qwen/Qwen2.5-0.5B-Instruct") == load_model_card("qwen2.5-0.5b-instruct")
    assert _is_base(load_model_card("someone/Qwen2.5-3B"))
    assert not _is_base(load_model_card("someone/Qwen2.5-3B-Instruct"))
    assert load_model_card("Qwen/Qwen3.5-0.8B-Base") == load_model_card("qwen3.5-0.8b-base")
    assert _is_base(load_model_card("Qwen/Qwen3.5-2B-Base"))
    assert not _is_base(load_model_card("Qwen/Qwen3.5-2B"))
    assert not _is_base(load_model_card("someone/qwen3.5-based-reviews"))
    with pytest.raises(UserError, match=r"Did you mean qwen2\.5-0\.5b"):
        load_model_card("qwen2.5-0.5")


def test_a_folder_that_was_not_copied_whole_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = _copy_tiny(tmp_path / "copied")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    said = str(what_to_mend(caught.value, []))
    assert f"found in directory {folder}" in said
    assert said.endswith("Copy the model again, whole.")
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: not readable as JSON: .*git lfs pull"):
        load_model_card(str(folder))
    (folder / "config.json").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json: not readable as JSON"):
        load_model_card(str(folder))


def test_a_folder_says_itself_whether_it_is_a_base_model(tmp_path: Path) -> None:
    chat = _copy_tiny(tmp_path / "chat")
    end_of_text = AutoTokenizer.from_pretrained(TINY).convert_tokens_to_ids("<|endoftext|>")
    base = _copy_tiny(tmp_path / "base", eos_token_id=end_of_text)
    assert describe_folder(chat) == {"model": str(chat), "model_type": "qwen2", "template": "qwen"}
    assert describe_folder(base)["use_chat_template"] is False
    system = "{{ 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}"
    (chat / "chat_template.jinja").write_text(system, encoding="utf-8")
    assert describe_folder(chat)["template"] == "qwen2_5"
    thinking = _copy_tiny(tmp_path / "thinking", model_type="qwen3")
    assert describe_folder(thinking)["enable_thinking"] is False
    (tmp_path / "no model").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model_card(str(tmp_path / "no model"))


def test_base_and_chat_of_qwen3_5_are_told_apart_by_tokenizer_or_name(tmp_path: Path) -> None:
    end_of_text = AutoTokenizer.from_pretrained(TINY).convert_tokens_to_ids("<|endoftext|>")
    # The configs of both end with <|endoftext|>.
    config = {"model_type": "qwen3_5", "text_config": {"eos_token_id": end_of_text}}
    chat = _copy_tiny(tmp_path / "Qwen3.5-0.8B", **config)
    for name in ("model", "model_type", "template", "enable_thinking", "freeze_vit", "freeze_aligner"):
        own, named = describe_folder(chat), load_model_card("qwen3.5-0.8b").arguments
        assert own.keys() == named.keys()
        assert name == "model" or own[name] == named[name]
    assert describe_folder(chat.rename(tmp_path / "Qwen3___5-0___8B-Base"))["use_chat_template"] is False
    base = _copy_tiny(tmp_path / "merged", **config)
    tokenizer = base / "tokenizer_config.json"
    known = json.loads(tokenizer.read_text(encoding="utf-8"))
    tokenizer.write_text(json.dumps({**known, "eos_token": "<|endoftext|>"}), encoding="utf-8")
    assert describe_folder(base)["use_chat_template"] is False


def test_code_of_a_model_repository_is_never_run(tmp_path: Path) -> None:
    folder = _copy_tiny(tmp_path / "hostile", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with pytest.raises(UserError, match="auto_map"):
        fetch_model(load_model_card(str(folder)).arguments)
    arguments = {
        **load_model_card(str(folder)).arguments,
        "model_type": "qwen",
    }  # as --set model_type=qwen would
    with pytest.raises(UserError, match="auto_map"):
        fetch_model(arguments)
    assert not (tmp_path / "ran").exists()


def test_a_model_folder_that_was_moved_is_not_looked_for_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"moved: there is no such folder\.$"):
        fetch_model({"model": str(tmp_path / "moved")})


def test_a_chat_template_runs_nothing(tmp_path: Path) -> None:
    folder = _copy_tiny(tmp_path / "hostile")
    system = f"{{{{ cycler.__init__.__globals__.os.system('touch {tmp_path / 'ran'}') }}}}"
    (folder / "chat_template.jinja").write_text(system, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises((SecurityError, AttributeError)):  # transformers renders it in jinja's sandbox
        tokenizer.apply_chat_template([{"role": "user", "content": "好"}])
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_the_first_qwen_is_known_by_its_config(tmp_path: Path) -> None:
    folder = _copy_tiny(tmp_path / "Qwen-1_8B", model_type="qwen", architectures=["QWenLMHeadModel"])
    card = load_model_card(str(folder))
    assert _is_base(card)
    assert card.arguments["model_type"] == "qwen"


def test_the_first_qwen_stops_with_the_command_that_makes_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = load_model_card("qwen-1.8b")
    monkeypatch.setattr(metadata, "version", lambda name: "4.50.0")
    with pytest.raises(UserError, match=r'pip install -r requirements\.txt "transformers<4\.50"'):
        check_environment(card, "fast")
    monkeypatch.setattr(metadata, "version", lambda name: "4.49.0")
    check_environment(card, "fast")


def test_a_torchao_that_peft_refuses_is_said_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "torchao-0.10.0.dist-info"
    for folder in (old, tmp_path / "torchao"):
        folder.mkdir()
    (tmp_path / "torchao" / "__init__.py").touch()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    is_torchao_available.cache_clear()
    with pytest.raises(UserError, match=r"torchao. Found version 0\.10\.0.* pip uninstall -y torchao"):
        check_machine(make_experiment())
    for method in ("full", "adalora"):
        check_machine(make_experiment("--method", method))
    monkeypatch.undo()
    is_torchao_available.cache_clear()
    check_machine(make_experiment())


def test_qwen3_5_asks_for_what_swift_loads_it_with_and_no_other_model_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {"qwen_vl_utils": False, "torchvision": False}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True if found.get(name, True) else None)
    monkeypatch.setattr(metadata, "version", lambda name: "5.2.0")  # transformers may be older
    card = load_model_card("qwen3.5-0.8b")
    with pytest.raises(UserError, match=r"pip install qwen_vl_utils torchvision \"torch==") as caught:
        check_environment(card, "fast")
    assert "\n" not in str(caught.value)
    check_environment(load_model_card("qwen3-0.6b"), "fast")
    found["qwen_vl_utils"] = True
    with pytest.raises(UserError, match=r"Qwen3\.5 with torchvision, not installed"):
        check_environment(card, "fast")
    found["torchvision"] = True
    check_environment(card, "fast")
    monkeypatch.setattr(metadata, "version", lambda name: "5.1.0")
    with pytest.raises(UserError, match=r"needs transformers>=5\.2, here is 5\.1\.0"):
        check_environment(card, "fast")


def test_label_words_must_fit_in_five_tokens_and_differ() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    check_label_words(tokenizer, (Label("a", "负面"), Label("b", "正面")))
    with pytest.raises(UserError, match=r"'非常非常不满意' are \d+ tokens.*cut at 5"):
        check_label_words(tokenizer, (Label("a", "非常非常不满意"), Label("b", "正面")))
    with pytest.raises(UserError, match="labels a and b have the same words"):
        check_label_words(tokenizer, (Label("a", "正面"), Label("b", "正面")))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_engine_that_is_not_installed_is_refused_with_the_way_to_it() -> None:
    way = r"vLLM is not installed here.*an environment of its own.*pip install vllm"
    with pytest.raises(UserError, match=way):
        check_environment(load_model_card("tiny"), "vllm")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--method", "dora"), "use_dora"),
        (("--method", "lora-embedding"), "modules_to_save"),
        (("--method", "qlora"), "quant_method"),
        (("--method", "adalora"), "AdaLoRA's ranks"),
        (("--method", "head"), "a head"),
    ],
)
def test_what_vllm_cannot_answer_with_is_refused(flags: tuple[str, ...], what: str) -> None:
    experiment = make_experiment(*flags)
    check_method(experiment)
    with pytest.raises(UserError, match=f"--engine vllm: takes no adapter with {what}"):
        check_method(replace(experiment, tuning=replace(experiment.tuning, engine="vllm")))


def test_vllm_takes_an_adapter_for_which_a_setting_is_off() -> None:
    off = make_experiment("--set", "use_dora=0")
    check_method(replace(off, tuning=replace(off.tuning, engine="vllm")))


def test_what_only_vllm_reads_is_refused_to_others() -> None:
    with pytest.raises(UserError, match="--set vllm_max_num_seqs: only --engine vllm reads it"):
        make_experiment("--set", "vllm_max_num_seqs=64")


def test_the_first_qwen_has_no_head() -> None:
    experiment = make_experiment("--method", "head")
    first = replace(experiment, model=ModelCard("qwen-1.8b", {"model": "x", "model_type": "qwen"}))
    with pytest.raises(UserError, match=r"--method head: .* first Qwen \(qwen-1.8b\); take --method lora"):
        check_method(first)


@pytest.mark.parametrize(
    ("first", "address", "named", "other"),
    [
        ("modelscope", "/api/v1/", "huggingface", "hf-home"),
        ("huggingface", "/api/models/", "modelscope", "modelscope-cache"),
    ],
)
def test_what_one_hub_does_not_give_comes_from_the_other(
    hub_here: FakeHub, first: Hub, address: str, named: str, other: str
) -> None:
    hub_here.put_folder("models", f"someone/{first}", TINY)
    hub_here.fail(address, 403)
    said: list[str] = []
    with listening(said.append) as told:
        folder = fetch_from_hubs(f"someone/{first}", None, first, True)
    assert other in folder.parts
    assert folder.parent.name == "snapshots"
    assert f"it is that of {named} by the same id, revision {folder.name}" in said[0]
    assert f"{first} 未能提供模型 someone/{first}" in told[0].zh
    assert (folder / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()
    # A revision is one hub's own.
    with pytest.raises(UserError) as error:
        fetch_from_hubs(f"someone/{first}", "v2", first, True)
    tried = str(error.value).split("Tried: ")[1]
    assert re.match(
        rf"{first}: [^;\n]*403[^;\n]*\. To work offline, give a local folder with --model DIR", tried
    )


def test_without_a_hub_its_cache_does_if_it_is_whole(
    hub_here: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_here.put_folder("models", "someone/cached", TINY)
    folder = fetch_from_hubs("someone/cached", None, "modelscope", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch_from_hubs.cache_clear()
    assert fetch_from_hubs("someone/cached", None, "modelscope", True) == folder
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    fetch_from_hubs.cache_clear()
    with pytest.raises(UserError) as error:
        fetch_from_hubs("someone/cached", None, "modelscope", True)
    asks_none = "not in its cache, and --offline asks no hub (HF_HUB_OFFLINE is set)"
    assert f"modelscope: {asks_none}; huggingface: {asks_none}. To work" in str(error.value)
