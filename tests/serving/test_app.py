"""The page: what stands behind it on real reviews, who is let in, and a browser used as a person uses it."""

import base64
import csv
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import PATIENCE, Command, read_options, start_command
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.permissions import permitted
from workflows.core.run_folder import RunFolder, locked
from workflows.core.screen import Screen
from workflows.serving.start import serve_page

Demo = tuple[RunFolder, str]
KEY = "a key, 密钥"
EVIL = "<img src=x onerror='window.ran=1'>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_without_gradio_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs Gradio, .* pip install "gradio>=6"$'):
        serve_page((), "127.0.0.1", 0, Screen())


def test_whoever_could_start_runs_needs_a_key(command: Command) -> None:
    pytest.importorskip("gradio")
    done = command("app", "--host", "0.0.0.0", "--port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "set REVIEW_API_KEY" in done.stderr


@pytest.fixture(scope="module")
def desk(demo_run: Demo) -> Any:
    from workflows.serving.batcher import Batcher
    from workflows.serving.desk import Desk
    from workflows.serving.models import Models

    return Desk(Batcher({}), Models(), outputs=demo_run[0].path.parent)


def test_before_and_after_are_the_runs_own_answers(desk: Any, demo_run: Demo) -> None:
    from workflows.serving.shown import show_answers

    run, _ = demo_run
    rows = read_jsonl(run.predictions("tuned"))[:20]
    systems = [(name, desk.system(run.path.name, name)) for name in desk.systems_of(run.path.name)]
    assert [name for name, _ in systems] == ["zero_shot", "tuned"]
    said = [
        (name, system.experiment, system.answer([row["text"] for row in rows])) for name, system in systems
    ]
    for name, _, answers in said:
        own = [row["prediction"] for row in read_jsonl(run.predictions(name))[:20]]
        assert [answer["prediction"] for answer in answers] == own
    shown = show_answers([EVIL, *(row["text"] for row in rows[1:])], said, {}, "zh")
    assert "<img" not in shown
    assert shown.count('class="card"') == 20
    assert shown.count('class="bar"') == 20 * 2 * 2


def test_clauses_are_shown_with_the_weights_that_explain_gives(desk: Any, demo_run: Demo) -> None:
    from workflows.serving.desk import explain_clauses
    from workflows.serving.explain import explain
    from workflows.serving.shown import show_answers

    system = desk.system(demo_run[0].path.name, "tuned")
    texts = [f"房间很干净，早餐太难吃了！\u3000{EVIL}不会再来", "很好"]
    explained = explain_clauses(system, texts)
    assert [*explained] == texts[:1]
    (own,) = explain(system, texts[:1])
    assert explained[texts[0]].clauses == own.clauses
    shown = show_answers(texts, [("tuned", system.experiment, system.answer(texts))], explained, "zh")
    weights = [f"{clause.weight:+.2f}" for clause in own.clauses]
    assert re.findall(r"<sup>(.*?)</sup>", shown) == weights
    assert escape(texts[0]) in re.sub(r"</?mark.*?>|<sup>.*?</sup>", "", shown)


def test_a_table_is_answered_as_predict_answers_it(desk: Any, demo_run: Demo, tmp_path: Path) -> None:
    from workflows.serving.desk import PageScreen, columns_of

    run, _ = demo_run
    rows = read_jsonl(run.predictions("tuned"))
    upload = tmp_path / f"{'评' * 80}.csv"  # as long as a name may be, about
    _write(upload, [(str(at), row["text"], row["gold"]) for at, row in enumerate(rows)])
    found = columns_of(upload)
    assert (found.longest, found.few) == ("评论", {"标签": ["negative", "positive"]})
    told: list[tuple[str, int, int | None]] = []
    screen = PageScreen(lambda *said: told.append(said))
    output, counts = desk.answer_table(run.path.name, upload, "评论", tmp_path / "out", screen)
    with open(output, encoding="utf-8-sig", newline="") as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [row["prediction"] for row in rows]
    assert counts["rows"] == len(rows)
    assert ("answering", len(rows), len(rows)) in told


def test_a_plan_is_shown_in_the_pages_language() -> None:
    from workflows.serving.shown import show_plan

    there = {"name": EVIL, "bytes": 7e8, "bytes_there": 24e9, "seconds": [42, 90], "changes": []}
    small = {"name": "T4", "bytes": 3e10, "bytes_there": None, "seconds": [60, 60], "changes": ["--set a=1"]}
    here = {**there, "name": "this machine: Intel"}
    shown = show_plan({"machines": [there, {**small, "fits_with_changes": False}, here]}, EVIL, "zh")
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", shown)
    assert cells[:4] == ["机器", "用时（分钟，估算）", "内存或显存（GB）", "放得下"]
    assert cells[5:8] == ["0.7 – 1.5", "0.7 / 24", "是"]
    assert cells[8:12] == ["T4", "1.0", "30.0", "否"]
    assert cells[12] == "本机"
    assert "<img" not in shown


@pytest.mark.parametrize("name", ["../demo", "/etc", "", "no-such-run"])
def test_only_runs_that_are_listed_are_opened(desk: Any, name: str) -> None:
    for do in (desk.progress, desk.go_on, desk.stop, desk.systems_of):
        with pytest.raises(UserError, match="there is no run"):
            do(name)


def test_where_no_run_is_finished_the_page_says_where_one_is_started(tmp_path: Path) -> None:
    from workflows.serving.batcher import Batcher
    from workflows.serving.desk import Desk
    from workflows.serving.models import Models

    desk = Desk(Batcher({}), Models(), outputs=tmp_path)
    assert desk.answering() == []
    for do in (desk.progress, desk.go_on, desk.stop, desk.systems_of):
        with pytest.raises(UserError, match=r"start one on the tab 训练 \(Train\)\.$"):
            do(None)


@pytest.mark.parametrize(
    ("pasted", "message"),
    [(" \n", "每行一条"), ("好\n" * 65, "每行一条"), ("好" * 20_001, "最多 10,000 个字")],
)
def test_what_is_pasted_has_limits(pasted: str, message: str) -> None:
    from workflows.serving.desk import read_reviews

    assert read_reviews(" 好 \n\n\ud83d\u3000差", "en") == ["好", "?\u3000差"]
    with pytest.raises(UserError, match=message):
        read_reviews(pasted, "zh")


@pytest.mark.parametrize(
    ("cells", "suggested"),
    [
        (["1", "1.0", "-1"], "-1=,1="),
        (["true", "False"], "False=,true="),
        (["正面", "正面 ", "负面"], "正面,负面"),
        (["good", "bad", "3"], "3=,bad=,good="),
    ],
)
def test_labels_are_suggested_as_they_can_be_given(tmp_path: Path, cells: list[str], suggested: str) -> None:
    from workflows.serving.desk import columns_of, suggest_labels

    _write(tmp_path / "mine.csv", [(str(at), f"第{at}条", cells[at % len(cells)]) for at in range(12)])
    assert suggest_labels(columns_of(tmp_path / "mine.csv").few["标签"]) == suggested


@pytest.mark.slow
def test_a_run_that_refuses_to_start_says_why(desk: Any, tmp_path: Path) -> None:
    _write(tmp_path / "mine.csv", [("1", "很好", "good"), ("2", "很差", "bad")] * 20)
    options = read_options(
        *("--data-file", tmp_path / "mine.csv", "--text-column", "正文"),
        *("--label-column", "标签", "--labels", "bad,good"),
    )
    own = replace(desk, outputs=tmp_path / "outputs", started=set())
    name = own.start(options)
    with pytest.raises(UserError, match=f"{name} is at work"):
        own.start(options)
    from workflows.serving.desk import _at_work

    for process, _ in [*_at_work([tmp_path / "outputs" / name])]:
        process.wait()
    progress = own.progress(name)
    assert progress.state == "failed"
    assert "columns 正文, 标签 are wanted" in progress.last_lines[-1]
    assert own.runs() == {}


@pytest.mark.parametrize(
    ("last_lines", "state"),
    [
        ([], "stopped"),
        (["stopped; the same command goes on from here"], "stopped"),
        (["error: no space is left"], "failed"),
        (["RuntimeError: a fault of ours"], "failed"),
        (["  training: step 7/80"], "failed"),  # ended from outside, for want of memory, say
    ],
)
def test_a_run_that_was_not_stopped_has_failed(last_lines: list[str], state: str) -> None:
    from workflows.serving.desk import Progress

    assert Progress({"prepare": True, "train": False}, False, last_lines, []).state == state


def test_what_the_page_starts_may_run_what_the_page_may() -> None:
    from workflows.serving.desk import _ours

    assert _ours()[2:] == []
    with permitted(False, ["auto_map"]):
        assert _ours()[2:] == ["--trust-code=auto_map"]


def test_a_full_disk_is_said_on_the_page() -> None:
    gr = pytest.importorskip("gradio")
    from workflows.serving.page import _told

    with pytest.raises(gr.Error, match="no space is left"), _told():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ZeroDivisionError), _told():
        raise ZeroDivisionError


def test_an_upload_that_a_run_reads_is_not_written_over(desk: Any, tmp_path: Path) -> None:
    upload = tmp_path / "mine.csv"
    upload.write_text("评论,标签\n很好,good\n", encoding="utf-8")
    kept = desk.keep(upload)
    before = kept.stat()
    assert desk.keep(upload) == kept
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in kept.parent.iterdir()] == [upload.name]


@pytest.mark.slow
def test_who_works_on_a_run_is_found_once_whoever_started_it(tmp_path: Path) -> None:
    """Stop is one Ctrl-C: a second one would cut short what the first lets end well."""
    from workflows.serving.desk import _at_work

    run = RunFolder(tmp_path / "run")
    assert list(_at_work([run.path])) == []
    with locked(run):
        assert [(process.pid, folder) for process, folder in _at_work([run.path])] == [
            (os.getpid(), run.path)
        ]


@pytest.fixture(scope="module")
def client(desk: Any) -> Iterator[TestClient]:
    pytest.importorskip("gradio")
    from workflows.serving.page import with_page
    from workflows.serving.server import make_app

    with TestClient(with_page(make_app({}, KEY), desk, KEY)) as client:
        yield client


def test_the_page_and_the_api_ask_for_the_key(client: TestClient) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}
    bearer = {b"Authorization": f"Bearer {KEY}".encode()}
    for path in ("/", "/en/", "/report/x", "/config", "/gradio_api/info"):
        for wrong in ({}, {"Authorization": "Basic eA"}, {"Authorization": "Basic *"}, bearer):
            assert client.get(path, headers=wrong).status_code == 401, path
    assert client.get("/v1/models", headers=basic).status_code == 401
    assert client.get("/v1/models", headers=bearer).json() == {"object": "list", "data": []}
    asked = client.post("/v1/classify", headers=bearer, json={"texts": ["好"]})
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")
    assert client.get("/health").status_code == 200
    page = client.get("/", headers=basic)
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    another_site = {**basic, "Sec-Fetch-Site": "cross-site"}
    assert client.post("/gradio_api/upload", headers=another_site).status_code == 403
    too_long = {**basic, "Content-Length": "999999999"}
    assert client.post("/gradio_api/upload", headers=too_long).status_code == 413


def test_behind_a_proxy_the_page_calls_back_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on ModelScope's notebooks, which show a port under a path."""
    pytest.importorskip("gradio")
    from workflows.serving.batcher import Batcher
    from workflows.serving.desk import Desk
    from workflows.serving.models import Models
    from workflows.serving.page import with_page
    from workflows.serving.server import make_app
    from workflows.serving.start import path_behind_proxy

    assert path_behind_proxy(7860) == ""
    monkeypatch.setenv("JUPYTER_NAME", "dsw-123-abc")
    assert path_behind_proxy(7860) == "/dsw-123-abc/proxy/7860"
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/user/me/proxy/7860/")
    proxied = path_behind_proxy(7860)
    monkeypatch.setenv("GRADIO_ROOT_PATH", f"https://hub.example{proxied}")
    assert path_behind_proxy(7860) == proxied == "/user/me/proxy/7860"
    desk = Desk(Batcher({}), Models(), outputs=tmp_path)
    with TestClient(with_page(make_app({}, None), desk, None, proxied)) as client:
        for before in ("", proxied):  # most proxies cut it off
            for path in ("/", "/en/"):
                root = re.findall(r'"root":\s*"(.*?)"', client.get(before + path).text)
                assert root == [f"http://testserver{proxied}{path}".rstrip("/")]
                forwarded = client.get(before + path, headers={"X-Forwarded-Host": "there"}).text
                assert f'"root":"http://there{proxied}{path}'.rstrip("/") + '"' in forwarded
            assert client.get(f"{before}/health").status_code == 200


def test_reports_are_opened_by_name_alone(client: TestClient, demo_run: Demo) -> None:
    auth = ("me", KEY.encode())
    page = client.get(f"/report/{demo_run[0].path.name}", auth=auth)
    assert page.content == demo_run[0].report_page.read_bytes()
    assert "sandbox" in page.headers["content-security-policy"]
    for language in ("zh", "en"):  # whichever it was written to open in
        opened = client.get(f"/report/{demo_run[0].path.name}?lang={language}", auth=auth)
        assert f'<body class="language-{language}">' in opened.text
        assert "sandbox" in opened.headers["content-security-policy"]
    for name in ("..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", f"{demo_run[0].path.name}%2freport.html", ""):
        assert client.get(f"/report/{name}", auth=auth).status_code == 404


@pytest.fixture
def address(demo_run: Demo, project_copy: Path) -> Iterator[str]:
    pytest.importorskip("gradio")
    with start_command("app", demo_run[0].path, "--port", 0, cwd=project_copy) as server:
        assert server.stdout is not None
        said = next(line for line in server.stdout if line.startswith("serving at "))
        yield said.split()[2].rstrip(";")
        server.terminate()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_types_uploads_starts_a_run_and_reads_its_report(
    address: str, demo_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    _write(
        tmp_path / "mine.csv",
        [(str(at), row["text"], "" if at else EVIL) for at, row in enumerate(demo_rows[:30])],
    )
    asked: list[str] = []
    driver.expect.set_options(timeout=1000 * PATIENCE)
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        # The lists of runs come late: who asks before they are there is answered by the first run.
        held: list[Any] = []
        filled = False
        page.route("**/queue/join*", lambda route: route.continue_() if filled else held.append(route))
        page.goto(address)
        page.fill("#pasted textarea", f"{EVIL}房间很干净，服务也热情\n太差了")
        filled = True
        page.click("#ask")
        page.locator(".card").nth(1).wait_for()
        assert page.locator(".card").first.inner_text().startswith(EVIL)
        for route in held:
            route.continue_()

        page.get_by_role("tab", name="批量").click()
        page.set_input_files("#table input[type=file]", tmp_path / "mine.csv")
        page.locator("#column input").and_(page.get_by_label("评论所在列")).wait_for()
        driver.expect(page.locator("#column input")).to_have_value("评论")
        page.click("#answer-all")
        with page.expect_download() as download:
            page.locator("#answers a").first.click()
        download.value.save_as(tmp_path / "answers.csv")
        with open(tmp_path / "answers.csv", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["评论"] for row in rows] == [row["text"] for row in demo_rows[:30]]
        assert {row["prediction"] for row in rows} == {"negative", "positive"}

        page.get_by_role("tab", name="训练").click()
        page.get_by_label("训练行数").fill("160")
        page.get_by_label("测试行数").fill("20")
        page.click("#start")
        progress = page.locator("#progress")
        driver.expect(progress).to_contain_text("进行中")
        driver.expect(progress).to_contain_text("✓ 准备数据")
        page.click("#stop")
        driver.expect(progress).to_contain_text("已停止")
        page.reload()
        page.get_by_role("tab", name="训练").click()
        driver.expect(progress).to_contain_text("已停止")
        page.click("#go-on")
        driver.expect(progress).to_contain_text("已完成")
        driver.expect(progress).to_contain_text("损失 15 / 15")

        page.get_by_role("tab", name="报告").click()
        report = page.frame_locator("#report iframe")
        driver.expect(report.locator("h1")).to_contain_text("demo · tiny · lora")
        assert page.evaluate("window.ran") is None
        assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
        browser.close()


def _write(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("编号", "评论", "标签"), *rows])
