"""Every command of the README and of docs/ is run, on a copy of the project, against a hub on loopback.

Commands that would take long get the options in SHORT appended; models on the hub are the embedded weights.
The Chinese pages have the same commands and figures, and links lead somewhere.
"""

import csv
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from run_swift import app
from tests.conftest import TINY, run_commands
from tests.fake_hub import serve_hub
from tests.tiny_encoder import build_encoder
from workflows.core.files import read_json
from workflows.experiment.cards import ROOT

SHORT = {"--set": "max_steps=1", "--test-samples": "10", "--train-samples": "24"}
# The first of them make outputs/first and outputs/corrected, which commands of the others use.
FIRST = ["README.md", "docs/en/stages.md", "docs/en/results.md"]
TAKE_LONG = {"app", "serve", "search"}  # tests/serving and tests/search start and stop them
# tests/commands/test_benchmark.py runs these kinds, and looks at what they write
BENCHMARKS = {"inference", "training", "startup", "data"}
# tests/pipeline/test_spread.py has several processes, tests/pipeline/test_cluster.py a cluster
BY_MANY = {"--nproc", "--nnodes", "--ray"}
NEEDS_GPU = "docs/en/gpu.md"  # tests/commands/test_doctor.py parses its commands
ENGLISH = ["README.md", *sorted(f"docs/en/{path.name}" for path in (ROOT / "docs" / "en").iterdir())]
CHINESE = ["README_zh.md", *(page.replace("/en/", "/zh/") for page in ENGLISH[1:])]
WITH_LINKS = [*ENGLISH, *CHINESE, *(f"{folder}/README.md" for folder in ("datasets", "outputs", "sft_args"))]


def read_page(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands_of(page: str) -> list[str]:
    """The lines of a page's bash blocks."""
    return [
        line
        for block in re.findall(r"```bash\n(.*?)```", read_page(page), re.S)
        for line in block.splitlines()
    ]


def figures_of(page: str) -> list[str]:
    """Every number of a page, sorted, since languages differ in their order of words."""
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", read_page(page)))


RUN = [*FIRST, *(page for page in ENGLISH if page not in (*FIRST, NEEDS_GPU))]
COMMANDS = list(dict.fromkeys(line for page in RUN for line in commands_of(page)))
OURS = [
    line.split()[2:]
    for line in COMMANDS
    if line.startswith("python run_swift.py ")
    and line.split()[2] not in TAKE_LONG
    and not BY_MANY.intersection(line.split())
    and not (line.split()[2] == "benchmark" and line.split()[3] in BENCHMARKS)
]
NOT_RUN = [
    line for line in COMMANDS if line.startswith("python run_swift.py ") and line.split()[2:] not in OURS
]


def test_each_page_is_there_in_both_languages() -> None:
    assert sorted(f"docs/zh/{path.name}" for path in (ROOT / "docs" / "zh").iterdir()) == CHINESE[1:] != []


@pytest.mark.parametrize(("english", "chinese"), zip(ENGLISH, CHINESE, strict=True))
def test_both_languages_have_the_same_commands_and_figures(english: str, chinese: str) -> None:
    assert commands_of(chinese) == commands_of(english)
    assert figures_of(chinese) == figures_of(english)


@pytest.mark.parametrize("page", ["README.md", "README_zh.md"])
def test_the_first_page_is_short(page: str) -> None:
    assert len(read_page(page).splitlines()) <= 150


@pytest.mark.parametrize("page", WITH_LINKS)
def test_links_and_named_files_exist(page: str) -> None:
    text = read_page(page)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named = re.findall(r"`((?:datasets|docs|sft_args|tests|workflows|\.ci)/[\w./-]*)`", text)
    folder = (ROOT / page).parent
    assert [link for link in links if not (folder / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_command_is_left_out_of_these_tests() -> None:
    elsewhere = [
        "pip install -r requirements.txt",
        'pip install "gradio>=6"',
        'pip install "optuna>=5"',
        'pip install "ray[data]>=2.60"',
        "python run_swift.py",  # the fixture demo_run
        "pip install -r tests/requirements.txt && python -m pytest",  # this, now; .ci/run installs by it
    ]
    rest = [
        line
        for line in COMMANDS
        if line not in elsewhere and not line.startswith(("python run_swift.py ", "python docs/simulate_"))
    ]
    assert {line.split()[2] for line in NOT_RUN} >= {*TAKE_LONG, "benchmark"}
    assert [line.split()[:3] for line in rest] == [
        ["swift", "sft", "sft_args/lora.yaml"],
        ["python", "datasets/demo/generate.py"],
        ["python", "-m", "workflows.tiny.build"],
        ["swift", "sft", "sft_args/lora.yaml"],  # with the plugin: tests/serving/test_swift_datasets.py
    ]


@pytest.mark.parametrize("line", [line for line in COMMANDS if BY_MANY.intersection(line.split())])
def test_commands_for_several_processes_are_understood(line: str) -> None:
    _, bound, *_ = app.parse_args(line.split()[2:], exit_on_error=False, print_error=False)
    assert bound.arguments.get("ray") or bound.arguments["processes"].total > 1


@pytest.mark.parametrize("line", NOT_RUN)
def test_commands_that_are_not_run_here_are_understood(line: str) -> None:
    _, bound, *_ = app.parse_args(line.split()[2:], exit_on_error=False, print_error=False)
    assert bound.arguments


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", ["608 reviews a second", "18,519 reviews a second: 31 GPUs"]),
        ("--utilisation 0.1", ["243 reviews a second", ": 77 GPUs"]),
        ("--utilisation 0.4", ["972 reviews a second", ": 20 GPUs"]),
        ("--gpus 32", ["price of the day 773", "price of 1,000,000 0.77"]),
        ("--gpus 28", ["longest 1,079 s", "waiting at the end 0 "]),
        ("--gpus 25", ["longest 4,034 s", "waiting at the end 0 "]),
        ("--gpus 36 --hours-between-failures 100", ["6, 150,000 reviews answered twice"]),
    ],
)
def test_the_simulation_says_what_its_page_says(flags: str, said: list[str]) -> None:
    command = [sys.executable, "docs/simulate_scale.py", *flags.split()]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [each for each in said if each not in " ".join(shown.split())] == []


@pytest.fixture(scope="module")
def finished(project_copy: Path, demo_rows: list[dict[str, str]]) -> dict[str, tuple[int, str]]:
    """Exit code and error output of each command, run in the order of RUN."""
    _write(
        project_copy / "ChnSentiCorp_htl_all.csv",
        "label,review",
        [(row["label"], row["text"]) for row in demo_rows],
    )
    names = {"0": "差评", "1": "好评"}
    _write(
        project_copy / "reviews.csv", "text,label", [(row["text"], names[row["label"]]) for row in demo_rows]
    )
    stars = {"0": "12", "1": "45"}
    rows = [
        (row["text"], "3" if i % 9 == 0 else stars[row["label"]][i % 2]) for i, row in enumerate(demo_rows)
    ]
    _write(project_copy / "stars.csv", "评论,星级", rows)
    rated = [(row["text"], str(1 + 3 * int(row["label"]) + i % 2)) for i, row in enumerate(demo_rows)]
    _write(project_copy / "ratings.csv", "comment,rating", rated)
    bert = build_encoder(project_copy / "bert", [row["text"] for row in demo_rows])
    with serve_hub(project_copy / "hub") as hub:
        hub.put_folder("models", "google-bert/bert-base-chinese", bert)
        for repository in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen1.5-0.5B-Chat"):
            hub.put_folder("models", repository, TINY)
        jd = "sentence,label,dataset\n" + "".join(f"{row['text']},{row['label']}.0,jd\n" for row in demo_rows)
        hub.put("datasets", "DAMO_NLP/jd", "train.csv", jd.encode())
        hub.put(
            "datasets",
            "DAMO_NLP/jd",
            "dev.csv",
            b"sentence,label\n" + b"".join(f"{n},{n % 2}\n".encode() for n in range(40)),
        )
        waimai = "label,review\n" + "".join(f"{row['label']},{row['text']}\n" for row in demo_rows)
        hub.put("datasets", "XiangPan/waimai_10k", "waimai_10k.csv", waimai.encode())
        shortened = [_shortened(arguments) for arguments in OURS]
        exits, done = run_commands(shortened, cwd=project_copy, env=hub.env)
        assert len(exits) == len(OURS), done.stderr[-3000:]
        codes = {
            json.dumps(arguments): (code, done.stderr) for arguments, code in zip(OURS, exits, strict=True)
        }
        swift = next(line for line in COMMANDS if line.startswith("swift sft")).split()
        plain = subprocess.run(
            [
                str(Path(sys.executable).parent / "swift"),
                *swift[1:],
                *("--max_steps", "1", "--use_cpu", "true", "--output_dir", "plain-swift"),
            ],
            capture_output=True,
            text=True,
            cwd=project_copy,
            env={**os.environ, **hub.env},
            check=False,
        )
        codes["swift"] = (plain.returncode, plain.stderr[-3000:])
    return codes


@pytest.mark.slow
@pytest.mark.parametrize("arguments", OURS, ids=" ".join)
def test_command(finished: dict[str, tuple[int, str]], arguments: list[str]) -> None:
    code, errors = finished[json.dumps(arguments)]
    if "qwen-1.8b" in arguments:  # methods.md says that it stops where transformers is too new
        assert code == 2
        assert 'pip install -r requirements.txt "transformers<4.50"' in errors
    else:
        assert code == 0, errors[-3000:]


@pytest.mark.slow
def test_plain_swift_takes_the_files_and_the_presets(
    finished: dict[str, tuple[int, str]], project_copy: Path
) -> None:
    code, errors = finished["swift"]
    assert code == 0, errors
    assert list(project_copy.glob("plain-swift/*/checkpoint-1/adapter_model.safetensors"))


@pytest.mark.parametrize("name", ["demo", "demo-aspects"])
def test_the_generator_writes_the_shipped_reviews(project_copy: Path, name: str) -> None:
    shipped = (ROOT / "datasets" / name / f"{name}.csv").read_bytes()
    (project_copy / "datasets" / name / f"{name}.csv").unlink()
    subprocess.run([sys.executable, f"datasets/{name}/generate.py"], cwd=project_copy, check=True)
    assert (project_copy / "datasets" / name / f"{name}.csv").read_bytes() == shipped


@pytest.mark.slow
def test_the_builder_makes_the_shipped_tokenizer_and_config(project_copy: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "workflows.tiny.build", "my-tiny", "--steps", "1"],
        cwd=project_copy,
        check=True,
    )
    made = project_copy / "my-tiny"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made / name).read_bytes() == (TINY / name).read_bytes()
    configs = [read_json(folder / "config.json") for folder in (made, TINY)]
    for config in configs:
        config.pop("transformers_version")
    assert configs[0] == configs[1]
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 8 * 2**20


def _short(arguments: list[str]) -> list[str]:
    if arguments[0] == "benchmark" and "--repeats" not in arguments:
        return ["--repeats", "1"]
    if arguments[:2] == ["study", "learning-curve"]:
        return ["--draws", "1"]
    if arguments[0] not in ("run", "prepare") or "qwen-1.8b" in arguments:
        return []
    return [
        part
        for flag, value in SHORT.items()
        if flag == "--set" or flag not in arguments
        for part in (flag, value)
    ]


def _shortened(arguments: list[str]) -> list[str]:
    """A command of a page as it is run here: with few rows and steps."""
    words = [*arguments, *_short(arguments)]
    if arguments[0] == "run":
        few = ("--train-samples", "--test-samples")
        words = [SHORT[flag] if flag in few else word for flag, word in pairwise(["", *words])]
    return words


def _write(path: Path, header: str, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
