"""Somebody else's run folder, card or model runs nothing here: each payload would leave a file behind."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from run_swift import main
from tests.conftest import TINY, Command, make_experiment
from workflows.core.errors import UserError
from workflows.core.files import read_json, write_json, write_jsonl
from workflows.core.permissions import RUNS_CODE, RUNS_CODE_BY_PATH, check_arguments, permitted
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.experiment.checks import check_experiment
from workflows.experiment.experiment import load_experiment, save_experiment
from workflows.model.arguments import build_sft_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine

Change = Callable[[RunFolder, Path], None]  # of a run folder, whose payload would write the path
YAML_TAG = '!!python/object/apply:os.system ["touch {}"]'


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """What a payload would leave behind."""
    return tmp_path / "ran"


def _plugin(folder: Path, ran: Path) -> str:
    path = folder / "plugin.py"
    path.write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    return str(path)


def _change_experiment(run: RunFolder, *keys: str, **arguments: Any) -> None:
    content = yaml.safe_load(run.experiment.read_text(encoding="utf-8"))
    place = content
    for key in keys:
        place = place.setdefault(key, {})
    place |= arguments
    run.experiment.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def test_no_command_takes_code_from_a_run_folder(
    command: Command, own_run: RunFolder, demo_run: tuple[RunFolder, str], ran: Path, tmp_path: Path
) -> None:
    _change_experiment(own_run, "resolved", "preset", external_plugins=[_plugin(own_run.path, ran)])
    folder, own = str(own_run.path), tmp_path / "own.yaml"
    own.write_text(
        "question: {en: a, zh: b}\narms: {lora: {}}\nsizes: [64]\ndraws: 1\n"
        f"options: {{set: [external_plugins={own_run.path / 'plugin.py'}]}}\n",
        encoding="utf-8",
    )
    commands = [
        *([name, folder] for name in ("run", "train", "infer", "report", "reproduce", "export", "audit")),
        *(["predict", folder, "--text", "好"], ["explain", folder, "--text", "好"], ["serve", folder]),
        *(["compare", folder, str(demo_run[0].path)], ["run", "--from-run", folder, "--method", "dpo"]),
        *(["study", str(own), "--plan"], ["run", "--set", f"external_plugins={folder}/plugin.py"]),
    ]
    for words in commands:
        done = command(*words)
        assert done.returncode == 2, words
        (said,) = done.stderr.splitlines()
        assert "external_plugins" in said, words
        assert said.endswith("if you trust it add --trust-code external_plugins."), words
    assert not ran.exists()
    compared = ["compare", folder, demo_run[0].path, "--output", tmp_path / "compared"]
    assert command("--trust-code", "external_plugins", *compared).returncode == 0
    unknown = command("list", "datasets", "--trust-code", "lora_rank")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "--trust-code lora_rank: runs no code" in unknown.stderr


def test_a_plugin_that_the_command_line_trusts_runs(command: Command, own_run: RunFolder, ran: Path) -> None:
    plugin = _plugin(own_run.path, ran)
    options = ["--train-samples", "32", "--test-samples", "5", "--set", "max_steps=1"]
    flags = [*options, "--set", f"external_plugins={plugin}", "--run-folder", own_run.path / "new"]
    for words in (["prepare", *flags], ["train", own_run.path / "new"]):
        done = command(*words, "--trust-code", "external_plugins")
        assert done.returncode == 0, done.stderr
    assert ran.exists()


@pytest.mark.parametrize("name", sorted({*RUNS_CODE, *RUNS_CODE_BY_PATH}))
def test_every_argument_that_can_run_code_is_refused_in_presets_model_cards_and_run_folders(
    name: str, tmp_path: Path
) -> None:
    value = {"a": "/somebody's/file.py"}
    experiment = make_experiment()
    model = replace(experiment.model, arguments={**experiment.model.arguments, name: value})
    for hostile, where in (
        (replace(experiment, preset={**experiment.preset, name: value}), "method lora: "),
        (replace(experiment, model=model), "model tiny: "),
    ):
        with pytest.raises(UserError, match=f"^{where}{name}="):
            check_experiment(hostile, None)
        path = tmp_path / "experiment.yaml"
        path.write_text(save_experiment(hostile), encoding="utf-8")
        with pytest.raises(UserError, match=f"experiment.yaml: {name}=.* --trust-code {name}"):
            load_experiment(path)
        with permitted(offline=False, trusted=[name]):
            load_experiment(path)


def test_what_only_names_a_thing_of_swifts_own_is_no_code() -> None:
    harmless = {
        "deepspeed": "zero2",
        "attn_impl": "flash_attention_2",
        "load_args": False,
        "model_kwargs": None,
    }
    check_arguments(harmless, "here:")
    with pytest.raises(UserError, match="attn_impl=somebody/kernel"):
        check_arguments({"attn_impl": "somebody/kernel"}, "here:")
    with pytest.raises(UserError, match=r"hub_token: is a secret.*MODELSCOPE_API_TOKEN") as caught:
        check_arguments({"hub_token": "ms-123"}, "here:")
    assert "ms-123" not in str(caught.value)


@pytest.mark.parametrize("value", [True, "true", "Yes", "t", 1])
def test_no_training_uploads(value: object) -> None:
    with pytest.raises(UserError, match="push_to_hub: a training uploads nothing; use `export --push`"):
        check_arguments({"push_to_hub": value, "hub_model_id": "somebody/model"}, "here:")
    check_arguments({"push_to_hub": False}, "here:")


def test_a_training_tells_no_hub_of_itself_unless_it_is_asked_to(tmp_path: Path) -> None:
    """By SWIFT's default it asks the hub for a newer model, and says what it trains."""
    preset, run = tmp_path / "own.yaml", RunFolder(tmp_path / "run")
    preset.write_text("tuner_type: lora\n", encoding="utf-8")
    row = {"messages": [{"role": "user", "content": "好"}, {"role": "assistant", "content": "正面"}]}
    for split in ("train", "val"):
        write_jsonl(run.split(split), [row])
    for told, flags in ((False, ()), (True, ("--set", "check_model=true"))):
        experiment = with_local_model(make_experiment("--method", str(preset), *flags))
        assert build_sft_arguments(run, experiment, Machine("cpu", "CPU", "float32", "")).check_model is told


def test_a_tag_of_python_in_yaml_is_refused(
    own_run: RunFolder, ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(f"user: {YAML_TAG.format(ran)}", encoding="utf-8")
    own_run.experiment.write_text(f"format: {YAML_TAG.format(ran)}", encoding="utf-8")
    for words in (
        ["study", hostile],
        ["run", "--prompt", hostile],
        ["predict", own_run.path, "--text", "好"],
    ):
        assert main([*map(str, words)]) == 2
        assert "could not determine a constructor for the tag" in capsys.readouterr().err
    assert not ran.exists()


def test_a_checkpoint_lies_in_its_run_folder(own_run: RunFolder, tmp_path: Path) -> None:
    for elsewhere in (str(tmp_path), "../../model", ".."):
        write_json(own_run.training, {**read_json(own_run.training), "checkpoint": elsewhere})
        with pytest.raises(UserError, match="is no folder of"):
            checkpoint_of(own_run)


def test_a_link_in_a_run_folder_leads_to_no_file_of_ours(
    own_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "ours.txt"
    ours.write_text("ours", encoding="utf-8")
    own_run.scores.unlink()
    for path in (own_run.path / ".lock", own_run.log("score")):
        path.unlink(missing_ok=True)
        path.symlink_to(ours)
        assert main(["score", str(own_run.path)]) == 2
        assert f"{path}: is a link or the like" in capsys.readouterr().err
        path.unlink()
    assert ours.read_text(encoding="utf-8") == "ours"
    assert main(["score", str(own_run.path)]) == 0


class _Payload:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def _checkpoints(run: RunFolder) -> list[Path]:
    return [path for path in run.sft.glob("*checkpoint*") if path.is_dir()]


def _pickled_adapter(run: RunFolder, ran: Path) -> None:
    import torch

    for folder in _checkpoints(run):
        (folder / "adapter_model.safetensors").unlink()
        torch.save(_Payload(ran), folder / "adapter_model.bin")


def _pickled_training(run: RunFolder, ran: Path) -> None:
    """A training that was stopped after its last checkpoint."""
    import torch

    for folder in _checkpoints(run):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            torch.save(_Payload(ran), folder / name)
    run.training.unlink()
    write_json(run.stages, {name: done for name, done in read_json(run.stages).items() if name != "train"})


def _pickled_model(run: RunFolder, ran: Path) -> None:
    import torch

    folder = _own_model(run)
    (folder / "model.safetensors").unlink()
    torch.save(_Payload(ran), folder / "pytorch_model.bin")


def _own_model(run: RunFolder) -> Path:
    """A model inside of the run folder, which the experiment names."""
    folder = shutil.copytree(TINY, run.path / "model")
    _change_experiment(run, "resolved", "model", "arguments", model=str(folder))
    return folder


def _code_of_the_model(run: RunFolder, ran: Path, file: str, **keys: Any) -> None:
    folder = _own_model(run)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nConfig = Tokenizer = None", encoding="utf-8")
    write_json(folder / file, {**read_json(folder / file), **keys})


def _code_of_a_config(run: RunFolder, ran: Path) -> None:
    """It calls itself the first Qwen, which may run code."""
    auto_map = {"AutoConfig": "evil.Config"}
    _code_of_the_model(run, ran, "config.json", architectures=["QWenLMHeadModel"], auto_map=auto_map)


def _code_of_a_tokenizer(run: RunFolder, ran: Path) -> None:
    auto_map = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    _code_of_the_model(run, ran, "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Tokenizer")


def _code_of_an_adapter(run: RunFolder, ran: Path) -> None:
    """Older versions of peft import the module, and the project's folder is where Python looks first."""
    _plugin(run.path, ran)
    for folder in _checkpoints(run):
        path = folder / "adapter_config.json"
        write_json(path, {**read_json(path), "megatron_config": {"a": 1}, "megatron_core": "plugin"})


def _arguments_beside_the_weights(run: RunFolder, ran: Path) -> None:
    """SWIFT reads them of a checkpoint by default, external_plugins too."""
    for folder in (*_checkpoints(run), _own_model(run)):
        path = folder / "args.json"
        known = read_json(path) if path.exists() else {"swift_version": "4.6.0"}
        write_json(path, {**known, "external_plugins": [_plugin(run.path, ran)]})


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        (_pickled_adapter, "predict {} --text 好", 2),
        (_pickled_training, "train {}", 2),
        (_pickled_model, "predict {} --text 好", 2),
        (_code_of_a_config, "predict {} --text 好", 2),
        (_code_of_a_tokenizer, "predict {} --text 好", 2),
        (_code_of_an_adapter, "predict {} --text 好", 2),
        (_arguments_beside_the_weights, "predict {} --text 好", 0),  # they are not read
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else None,
)
def test_nothing_of_a_strangers_folder_is_run(
    command: Command, own_run: RunFolder, ran: Path, change: Change, words: str, code: int
) -> None:
    change(own_run, ran)
    done = command(*words.format(own_run.path).split())
    assert not ran.exists()
    assert done.returncode == code, done.stderr
    if code == 2:
        assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
