"""The page in Gradio, in Chinese at / and in English at /en, beside the server's API on the same port."""

import os
import secrets
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from html import escape
from pathlib import Path
from tempfile import gettempdir
from typing import Any

# Before the import: nothing is told to anybody, and the browser keeps no history.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workflows.core.errors import GOES_ON, UserError, what_to_mend
from workflows.core.tables import FORMATS, open_table, read_chunks
from workflows.core.texts import in_language, texts
from workflows.experiment.cards import DATASETS, METHODS, MODELS, load_preset, names_of
from workflows.experiment.options import DataOptions, Language, RunOptions, TuningOptions
from workflows.experiment.recipes import FROM_RUN
from workflows.serving.batcher import Full
from workflows.serving.desk import (
    NO_COLUMNS,
    Desk,
    PageScreen,
    columns_of,
    explain_clauses,
    read_reviews,
    suggest_labels,
)
from workflows.serving.server import PATHS
from workflows.serving.shown import (
    STYLE,
    in_its_language,
    show_answers,
    show_counts,
    show_page,
    show_plan,
    show_progress,
    show_table,
)

MOST_UPLOAD = 200_000_000  # bytes
PREVIEW_ROWS = 20
EVERY_SECONDS = 3.0  # the progress of a run is looked at
FONT = ("system-ui", "-apple-system", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
# Whatever Gradio's own page names, the browser asks nobody but this server.
ONLY_HERE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
A_REPORT = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; sandbox "
)
PROGRESS = gr.Progress()
EVENT: dict[str, Any] = {"api_visibility": "private"}


def with_page(api: FastAPI, desk: Desk, key: str | None, proxied: str = "") -> ASGIApp:
    """The server with its page; `key`: the password of the page, whatever the name (None: it has none);
    `proxied`: the path under which a proxy shows it.
    """
    app = FastAPI(lifespan=api.router.lifespan_context, openapi_url=None)

    @app.get("/report/{name:path}")
    def report(name: str, lang: Language | None = None) -> Response:
        path = desk.reports().get(name)
        if path is None:
            return PlainTextResponse("no such report", 404)
        return FileResponse(path) if lang is None else HTMLResponse(in_its_language(path, lang))

    pages: tuple[tuple[Language, str], ...] = (("en", "/en"), ("zh", "/"))
    for language, path in pages:
        gr.mount_gradio_app(
            app,
            _build(desk, language),
            path=path,
            root_path=proxied + path.rstrip("/"),
            footer_links=[],
            show_error=False,
            max_file_size=MOST_UPLOAD,
            ssr_mode=False,
            theme=gr.themes.Default(font=FONT, font_mono=("ui-monospace", "monospace")),
            css=STYLE,
        )
    return _Guard(app, api, key, proxied)


class _Guard:
    """Sends the API's requests to the API, and lets those of the page in: with the key, from this page."""

    def __init__(self, page: ASGIApp, api: ASGIApp, key: str | None, proxied: str) -> None:
        self.page, self.api, self.key, self.proxied = page, api, key, proxied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "path" not in scope:  # the server starts or stops
            await self.page(scope, receive, send)
            return
        path = scope["path"].removeprefix(self.proxied)  # most proxies have cut it off
        scope = {**scope, "path": path}
        if path in PATHS or path.startswith("/v1/"):
            await self.api(scope, receive, send)
            return
        if scope["type"] == "http" and (refused := self._refuse(scope)) is not None:
            await refused(scope, receive, send)
            return

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = (
                    A_REPORT + "allow-scripts" if path.startswith("/report/") else ONLY_HERE
                )
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        there = {"path": self.proxied + path, "root_path": self.proxied}  # Gradio makes its addresses of them
        await self.page({**scope, **there}, receive, send_safe)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
            return PlainTextResponse("another site may not ask", 403)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MOST_UPLOAD + 100_000:
            return PlainTextResponse(f"{MOST_UPLOAD:,} bytes at most", 413)
        if self.key is None or secrets.compare_digest(_password(headers), self.key.encode()):
            return None
        asks = {"WWW-Authenticate": 'Basic realm="key as the password", charset="UTF-8"'}
        return PlainTextResponse("the password is the server's key", 401, asks)


def _password(headers: Headers) -> bytes:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    try:
        return b64decode(given).partition(b":")[2] if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


@contextmanager
def _told(upload: str | None = None) -> Iterator[None]:
    """What the user can mend is shown, as text; an upload by its own name."""
    try:
        yield
    except Exception as error:
        found = str(error) if isinstance(error, Full) else what_to_mend(error, [gettempdir()])
        if found is None:
            raise
        found = found.replace(f"; {GOES_ON}", "")  # there is no command here
        said = found.replace(f"{Path(upload).parent}/", "") if upload else found
        raise gr.Error(escape(said), duration=None, print_exception=False) from error


def _build(desk: Desk, language: Language) -> gr.Blocks:
    words = {name: in_language(each, language) for name, each in texts("page").items()}
    here = "" if language == "zh" else "../"  # whatever path a proxy puts before it
    with gr.Blocks(title=words["title"], analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        other = '<a href="en/">English</a>' if language == "zh" else '<a href="../">中文</a>'
        gr.HTML(f'<div style="float: right">{other}</div><h2>{words["title"]}</h2>')
        with gr.Tab(words["try"]) as tab:
            _build_try(desk, language, words, (page.load, tab.select))
        with gr.Tab(words["table"]) as tab:
            _build_table(desk, language, words, page, tab)
        with gr.Tab(words["reports"]) as tab:
            _build_reports(desk, language, words, here, tab)
        with gr.Tab(words["train"]) as tab:
            _build_train(desk, language, words, (page.load, tab.select))
    return page


def _first(names: Sequence[str]) -> str | None:
    return next(iter(names), None)


def _choice(label: str, names: Callable[[], list[str]], events: Sequence[Any]) -> gr.Dropdown:
    """A list to choose from that is up to date whenever one of the events has come."""

    def renewed(chosen: str | None) -> Any:
        found = names()
        return gr.update(choices=found, value=chosen if chosen in found else _first(found))

    box = gr.Dropdown(names(), value=None, label=label)
    for event in events:
        event(renewed, box, box, show_progress="hidden", **EVENT)
    return box


def _build_try(desk: Desk, language: Language, words: dict[str, str], events: Sequence[Any]) -> None:
    run = _choice(words["run"], desk.answering, events)
    pasted = gr.Textbox(label=words["paste"], lines=4, placeholder=words["example"], elem_id="pasted")
    button, shown = gr.Button(words["ask"], variant="primary", elem_id="ask"), gr.HTML()

    def ask(run: str | None, pasted: str) -> str:
        run = run or _first(desk.answering())  # who is quick asks before the list has been filled
        with _told():
            reviews = read_reviews(pasted, language)
            systems = [(name, desk.system(run, name)) for name in desk.systems_of(run)]
            said = [(name, system.experiment, system.answer(reviews)) for name, system in systems]
            explained = explain_clauses(systems[-1][1], reviews)
        note = f'<p class="note">{words["clauses"]}</p>' if explained else ""
        return show_answers(reviews, said, explained, language) + note

    button.click(ask, [run, pasted], shown, concurrency_limit=8, **EVENT)


def _build_table(desk: Desk, language: str, words: dict[str, str], page: gr.Blocks, tab: gr.Tab) -> None:
    run = _choice(words["run"], desk.answering, (tab.select,))
    upload = gr.File(label=words["upload"], file_types=[*FORMATS], elem_id="table")
    column = gr.Dropdown([], label=words["text_column"], elem_id="column")
    with gr.Row():
        button = gr.Button(words["answer_all"], variant="primary", elem_id="answer-all")
        halt = gr.Button(words["stop"])
    shown = gr.HTML()
    result = gr.File(label=words["download"], interactive=False, visible=False, elem_id="answers")
    wanted: set[str] = set()  # sessions whose table is still wanted

    def look(upload: str | None) -> Any:
        with _told(upload):
            found = columns_of(Path(upload)) if upload else NO_COLUMNS
        return gr.update(choices=found.names, value=found.longest)

    def answer(
        run: str, upload: str | None, column: str, request: gr.Request, progress: Any = PROGRESS
    ) -> tuple[str, Any]:
        titles, session = {name: words[name] for name in ("answering", "writing")}, str(request.session_hash)

        def tell(title: str, done: int, total: int | None) -> None:
            if session not in wanted:
                raise UserError(words["halted"])
            progress((done, total), desc=titles.get(title, words["counting"]), unit=words["rows"])

        wanted.add(session)
        with _told(upload):
            if not upload:
                raise UserError(words["no_file"])
            folder = Path(upload).parent / session  # another page may have the same file
            output, counts = desk.answer_table(run, Path(upload), column, folder, PageScreen(tell))
        first = next(read_chunks(open_table(output))).head(PREVIEW_ROWS)
        preview = show_table(first.columns, first.values.tolist())
        return show_counts(counts, language) + preview, gr.update(value=str(output), visible=True)

    def forget(request: gr.Request) -> None:
        wanted.discard(str(request.session_hash))

    upload.change(look, upload, column, **EVENT)
    button.click(answer, [run, upload, column], [shown, result], concurrency_limit=2, **EVENT)
    halt.click(forget, **EVENT)
    page.unload(forget)


def _build_reports(desk: Desk, language: Language, words: dict[str, str], here: str, tab: gr.Tab) -> None:
    name = _choice(words["report"], lambda: [*desk.reports()], (tab.select,))
    shown = gr.HTML(elem_id="report")

    def show(name: str | None) -> str:
        return show_page(f"{here}report/{name}", name, language) if name in desk.reports() and name else ""

    name.change(show, name, shown, **EVENT)
    tab.select(show, name, shown, **EVENT)


def _startable() -> list[str]:
    """The methods that need neither another run nor other files."""
    recipes = {name: load_preset(name)[1] for name in names_of(METHODS)}
    return [name for name, recipe in recipes.items() if recipe is None or recipe.kind not in FROM_RUN]


def _build_train(desk: Desk, language: Language, words: dict[str, str], events: Sequence[Any]) -> None:
    with gr.Row():
        dataset = gr.Dropdown(names_of(DATASETS), value="demo", label=words["dataset"])
        model = gr.Dropdown(names_of(MODELS), value="tiny", label=words["model"], info=words["model_info"])
        method = gr.Dropdown(_startable(), value="lora", label=words["method"])
    with gr.Accordion(words["own_data"], open=False):
        upload = gr.File(label=words["upload_data"], file_types=[*FORMATS])
        with gr.Row():
            review = gr.Dropdown([], label=words["text_column"])
            label = gr.Dropdown([], label=words["label_column"])
        meaning = gr.Textbox(label=words["labels"], info=words["labels_info"])
    with gr.Row():
        train_rows = gr.Number(label=words["train_samples"], precision=0, minimum=0, value=0)
        test_rows = gr.Number(label=words["test_samples"], precision=0, minimum=0, value=0)
    with gr.Row():
        plan, start = gr.Button(words["plan"]), gr.Button(words["start"], variant="primary", elem_id="start")
    planned = gr.HTML()
    run = _choice(words["watched"], desk.watched, events)
    shown = gr.HTML(elem_id="progress")
    with gr.Row():
        stop, go_on = gr.Button(words["stop"], elem_id="stop"), gr.Button(words["go_on"], elem_id="go-on")
    asked = [dataset, model, method, upload, review, label, meaning, train_rows, test_rows]

    def look(upload: str | None) -> tuple[Any, Any]:
        with _told(upload):
            found = columns_of(Path(upload)) if upload else NO_COLUMNS
        coarse = next((name for name in found.few if name != found.longest), None)
        return gr.update(choices=found.names, value=found.longest), gr.update(
            choices=found.names, value=coarse
        )

    def ask_meaning(upload: str | None, label: str | None) -> str:
        return suggest_labels(columns_of(Path(upload)).few.get(label or "", [])) if upload else ""

    def options(*asked: Any) -> RunOptions:
        dataset, model, method, upload, review, label, meaning, train_rows, test_rows = asked
        source = {"dataset": dataset}
        if upload:
            names = {"text_column": review, "label_column": label, "labels": meaning or None}
            source = {"data_file": str(desk.keep(Path(upload)).resolve()), **names}
        data = DataOptions(**source, train_samples=train_rows or None, test_samples=test_rows or None)
        return RunOptions(data, TuningOptions(model=model, method=method), language)

    def reckon(*asked: Any) -> str:
        with _told():
            return show_plan(*desk.plan(options(*asked)), language)

    def begin(*asked: Any) -> Any:
        with _told():
            name = desk.start(options(*asked))
        return gr.update(choices=[name, *desk.runs()], value=name)

    def show(run: str | None) -> str:
        try:
            progress = desk.progress(run)
        except UserError as error:  # asked for every few seconds: no place for messages that stay
            return f'<p class="note">{escape(str(error))}</p>'
        return show_progress(progress, words[progress.state], language)

    def work(do: Callable[[str | None], None], run: str | None) -> str:
        with _told():
            do(run)
        return show(run)

    upload.change(look, upload, [review, label], **EVENT)
    label.change(ask_meaning, [upload, label], meaning, **EVENT)
    plan.click(reckon, asked, planned, **EVENT)
    start.click(begin, asked, run, **EVENT)
    run.change(show, run, shown, show_progress="hidden", **EVENT)
    stop.click(partial(work, desk.stop), run, shown, **EVENT)
    go_on.click(partial(work, desk.go_on), run, shown, **EVENT)
    gr.Timer(EVERY_SECONDS).tick(
        lambda run: show(run) if run else "", run, shown, show_progress="hidden", **EVENT
    )
