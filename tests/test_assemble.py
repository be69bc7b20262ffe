"""The command line that a report shows starts the very experiment that it belongs to."""

from pathlib import Path

import pytest

from workflows.experiment.cards import ROOT
from workflows.experiment.command_of import command_of
from workflows.experiment.options import build_parser
from workflows.experiment.resolve import assemble_experiment

MODEL = str(ROOT / "workflows" / "tiny" / "model")


OWN = ["--text-column", "文 本", "--label-column", "星"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dataset", "jd", "--model", "qwen2.5-0.5b-instruct", "--data-dir", "/data", "--seed", "3"],
        ["--data-file", "reviews.csv", *OWN, "--labels", "差评,好评"],
        ["--data-file", "a b.csv", *OWN, "--labels=-1=差评,3=,5=好评"],
        ["--dataset", "dianping", "--neutral", "negative", "--test-samples", "5", "--train-samples", "9"],
        ["--dataset", "dianping", *OWN, "--neutral", "negative"],
        ["--dataset", "dianping", "--text-column", "c", "--label-column", "rating", "--neutral", "positive"],
        ["--dataset", "dianping", "--labels", "1=negative,2=positive,3="],
        ["--data-file", "demo.csv", *OWN, "--labels", "0=negative,1=positive"],
        ["--data-file", "waimai.csv", *OWN, "--labels", "0=差评,1=好评"],
        ["--dataset", "waimai", "--text-column", "text", "--balance", "--keep-near-copies"],
        ["--dataset", "chnsenticorp", "--data-file", "x.csv", "--split", "course", "--data-seed", "1"],
        ["--model", MODEL, "--prompt", "zh-continue", "--method", "course-chnsenticorp", "--lang", "en"],
        ["--model", "Qwen/Qwen2.5-7B", "--set", "learning_rate=1e-3", "--set", "system=你好 世界"],
        ["--prompt", "mine.yaml", "--dataset", "jd", "--mix", "waimai=0.5", "--mix", "dianping=1"],
        ["--method", "head", "--dataset", "demo-aspects"],
        ["--method", "head", "--prompt", "zh-question"],
        ["--method", "encoder", "--model", "bert-base-chinese", "--window", "256"],
        ["--method", "label-loss", "--set", "recipe.beta=0.25", "--set", "recipe.class_weights=balanced"],
        [
            "--method",
            "cot",
            "--set",
            "recipe.samples=9",
            "--set",
            "recipe.prompt=评论: {review} 为何{label}？",
        ],
        ["--best-by", "macro_f1", "--engine", "swift", "--format", "query-response", "--apply", "a.csv"],
    ],
)
def test_the_command_of_an_experiment_assembles_it_again(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text('user: "{review}"', encoding="utf-8")
    experiment = assemble_experiment(build_parser().parse_args(["run", *arguments]))
    line = command_of(experiment)
    assert line[:3] == ["python", "run_swift.py", "run"]
    assert assemble_experiment(build_parser().parse_args(line[2:])) == experiment
