"""No command that needs no hub reaches for another machine, none does with --offline, and no secret is kept.

All commands run in one process that refuses every connection but those to this machine, with a token in each
variable that hubs and trackers read.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from run_swift import main
from tests.conftest import TINY, free_port, read_demo_rows
from tests.fake_hub import FakeHub
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.secrets import hide

# Runs the command lines of its input; one that would never end is asked, then stopped. With --offline this
# machine must not be reached either: a hub is served on it.
RUN_ALL = """
import json, os, signal, sys, threading, traceback, urllib.request
tried, asked, offline = [], set(), False
def watch(event, given):
    serves = event == 'socket.bind' and arguments[0] in ('serve', 'app') and given[1][1] == int(arguments[-1])
    if serves and arguments[0] not in asked:
        asked.add(arguments[0])
        threading.Thread(target=ask, args=(arguments[-1],), daemon=True).start()
    if event in ('socket.connect', 'socket.sendto'):
        host = given[1][0] if isinstance(given[1], tuple) else None
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname', 'socket.gethostbyaddr'):
        host = given[0]
    else:
        return
    here = {None, '127.0.0.1', b'127.0.0.1', 'localhost', b'localhost', '::1'}
    if host not in here or (host is not None and offline):
        tried.append(f"{arguments}: {host}: {''.join(traceback.format_stack(limit=4))}")
        raise OSError('this test has no network')
sys.addaudithook(watch)
from modelscope import snapshot_download
from run_swift import main
snapshot_download(sys.argv[1])
def ask(port):
    review = json.dumps({'texts': ['房间很干净']}).encode()
    header = {'Content-Type': 'application/json', 'Authorization': 'Bearer ' + os.environ['REVIEW_API_KEY']}
    request = urllib.request.Request(f'http://127.0.0.1:{port}/v1/classify', review, header)
    while True:
        try:
            answer = urllib.request.urlopen(request, timeout=60).read()
            break
        except urllib.error.URLError:  # it is about to listen
            continue
    with open(f'outputs/{arguments[0]}.answer.json', 'wb') as file:
        file.write(answer)
    signal.raise_signal(signal.SIGINT)
for arguments in json.load(sys.stdin):
    offline = '--offline' in arguments
    print('@', main(arguments), flush=True)
print('tried', json.dumps(tried))
"""
VARIABLES = (
    *("MODELSCOPE_API_TOKEN", "MODELSCOPE_SDK_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"),
    *("SWANLAB_API_KEY", "REVIEW_API_KEY", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *(
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "COMET_API_KEY",
        "NEPTUNE_API_TOKEN",
        "CLEARML_API_SECRET_KEY",
    ),
)
SECRETS = {name: f"leaked-{name.lower()}" for name in VARIABLES}
SMALL = ("--train-samples", "64", "--test-samples", "20", "--set", "max_steps=2")
HUB_ID = "Qwen/Qwen2.5-0.5B-Instruct"
MODELS = "tiny,workflows/tiny/model"
STUDY = "question: {en: a, zh: b}\narms: {tfidf: {}}\noptions: {test_samples: 20}\nsizes: [64]\ndraws: 1\n"
A, B, C, D = (f"outputs/{name}" for name in "abcd")
COMMANDS: list[tuple[tuple[str, ...], int, str]] = [  # with its exit code, and what is said
    # What needs no hub, without --offline.
    (("list", "datasets"), 0, "demo"),
    (("run", *SMALL, "--run-folder", A), 0, "after tuning"),
    (("audit", A), 0, "audit: done before\n  "),  # and says again what it found
    (("report", A), 0, "done before"),
    (("plan", *SMALL), 0, "this machine: "),
    (("reproduce", A), 0, "equal"),
    (("select-model", "--models", MODELS, "--cases", "4", "--output", "outputs/s"), 0, "selection:"),
    (("study", "few.yaml", "--output", "outputs/study"), 0, "report: "),
    (("search", *SMALL, "--trials", "1", "--output", "outputs/search"), 0, "preset: "),
    (("benchmark", "inference", A, "--rows", "8", "--repeats", "1", "--output", "outputs/x"), 0, "ours"),
    (("compare", A, "{demo}", "--common", "--output", "outputs/compared"), 0, "report: "),
    (("predict", A, "--text", "房间很干净"), 0, "房间很干净"),
    (("explain", A, "--text", "房间很大，隔音太差"), 0, "隔音太差"),
    (("export", A), 0, "model: "),
    (("serve", A, "--port", "{port}"), 0, "serving at"),
    *([(("app", A, "--port", "{port}"), 0, "serving at")] if find_spec("gradio") else []),
    # A hub on this machine fills its caches; from then on --offline does with them.
    (("prepare", "--dataset", "waimai", "--run-folder", B), 0, "huggingface: XiangPan/waimai_10k"),
    (("prepare", "--dataset", "waimai", "--run-folder", C, "--offline"), 0, "huggingface: XiangPan/w"),
    (("prepare", "--offline", "--model", HUB_ID, *SMALL, "--run-folder", D), 0, "20 rows"),
    (("--offline", "infer", D), 0, "not trained yet"),
    (("doctor", "--offline"), 0, "self-test"),
    (("prepare", "--dataset", "jd", "--offline"), 2, "not in its cache, and --offline asks no hub"),
    (("run", "--model", "nobody/none-1b", "--offline", *SMALL), 2, "is set). To work offline, give"),
    (("export", A, "--push", "me/model", "--offline"), 2, "leave out --offline"),
    # Secrets in an address, and where none may be.
    (("export", A, "--push", "me/model"), 0, "pushed: "),
    (("run", "--model", "nobody/none-1b", "--set", "use_hf=true", *SMALL), 2, "could not be downloaded"),
    (("run", "--set", f"hub_token={SECRETS['HF_TOKEN']}", *SMALL), 2, "hub_token: is a secret"),
]  # fmt: skip


def test_no_other_machine_is_reached_and_no_secret_is_kept(
    project_copy: Path, hub: FakeHub, demo_run: tuple[RunFolder, str]
) -> None:
    port = free_port()
    hub.put_folder("models", HUB_ID, TINY)
    rows = "".join(f"{row['label']},{row['text']}\n" for row in read_demo_rows()[:400])
    hub.put("datasets", "XiangPan/waimai_10k", "waimai_10k.csv", f"label,review\n{rows}".encode())
    (project_copy / "few.yaml").write_text(STUDY, encoding="utf-8")
    before = {path for path in project_copy.rglob("*") if path.is_file()}
    addresses = {
        name: value.replace("http://", "http://someone:leaked-password@")
        for name, value in hub.env.items()
        if name.endswith("ENDPOINT")
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, HUB_ID],
        input=json.dumps(
            [[word.format(port=port, demo=demo_run[0].path) for word in words] for words, _, _ in COMMANDS]
        ),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=project_copy,
        env={**os.environ, **hub.env, **addresses, **SECRETS},
        check=False,
    )
    *said, tried = re.split(r"^(?:@ |tried )", done.stdout, flags=re.M)
    assert json.loads(tried) == [], done.stderr[-3000:]
    codes = [int(each.split()[0]) for each in said[1:]]
    assert codes == [code for _, code, _ in COMMANDS], done.stderr[-5000:]
    outputs = [said[0], *(each.partition("\n")[2] for each in said[1:])]
    errors = iter(re.findall("error: .*", done.stderr))  # a bar may stand before one
    for (words, code, message), output in zip(COMMANDS, outputs, strict=False):
        assert message in (next(errors) if code == 2 else output), words
    written = [path for path in project_copy.rglob("*") if path.is_file() and path not in before]
    assert project_copy / A / "export" / "README.md" in written
    for served in {words[0] for words, _, _ in COMMANDS} & {"serve", "app"}:
        assert '"label"' in (project_copy / "outputs" / f"{served}.answer.json").read_text(encoding="utf-8")
    assert [path for path in written if b"leaked-" in path.read_bytes()] == []
    assert "leaked-" not in done.stdout + done.stderr


def test_a_secret_is_hidden_in_lines_tracebacks_and_logs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert hide(" ".join(SECRETS.values())) == " ".join(["***"] * len(SECRETS))
    assert hide("at https://me:word@host/a, https://host/b@1") == "at https://***@host/a, https://host/b@1"
    secret = SECRETS["WANDB_API_KEY"]
    assert main(["prepare", "--run-folder", f"/proc/self/{secret}"]) in (1, 2)  # nobody can write there
    assert main(["prepare", "--dataset", secret]) == 2
    errors = capsys.readouterr().err
    assert secret not in errors
    assert errors.count("***") > 1
    with Screen().output_to(tmp_path / "log"):
        os.write(1, f"token: {secret}, 好\n".encode())
    assert (tmp_path / "log").read_text(encoding="utf-8") == "token: ***, 好\n"
