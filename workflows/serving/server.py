"""A server of finished runs: POST /v1/classify, and OpenAI's dialect, for its clients as they are.

python run_swift.py serve outputs/RUN --port 8000

The last message of a chat is the review; the answer is the label in words, as the model writes it.
Errors have OpenAI's shape.

Not covered: sampling, tools, more than one choice: they are refused or have no effect on one greedy label.
"""

import asyncio
import json
import math
import secrets
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workflows.core.errors import UserError
from workflows.core.screen import Screen
from workflows.data.reviews import strip_text
from workflows.serving.batcher import Batcher, Full
from workflows.serving.systems import Answer, System

MOST_BYTES = 1_000_000  # of a request
MOST_TEXTS = 256  # of a request
MOST_CHARACTERS = 10_000  # of a text
BODY_SECONDS = 30.0  # in which it must have come
GRACE_SECONDS = 30  # for what is in flight when the server is stopped
LAST_SECONDS = 1.0  # and then for answers that nobody waits for any more
NO_JSON = "send a JSON object in UTF-8, with the header `Content-Type: application/json`"
OPEN = ("/health", "/ready")  # without a key
PATHS = (*OPEN, "/metrics", "/v1/classify", "/v1/models", "/v1/chat/completions")

Review = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]


class Classify(BaseModel):
    """What /v1/classify is asked."""

    model_config = ConfigDict(extra="forbid")
    texts: Annotated[list[Review], Field(min_length=1, max_length=MOST_TEXTS)]
    model: str | None = None  # default: the first one


class Turn(BaseModel):
    """A turn of a chat; content in parts is joined."""

    role: str
    content: Review | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """What was said; raises Refused where a part is an image or the like."""
        if not isinstance(self.content, list):
            return self.content or ""
        texts = [text for part in self.content if isinstance(text := part.get("text"), str)]
        if len(texts) < len(self.content):
            raise Refused(400, "invalid_request", "messages: a part is no text, and nothing else is read")
        return "".join(texts)


class Chat(BaseModel):
    """What /v1/chat/completions is asked; what steers sampling has no effect."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_TEXTS)]
    stream: bool = False
    n: Literal[1] | None = None


class Refused(Exception):
    """A request that is answered with an error of OpenAI's shape."""

    def __init__(self, status: int, code: str, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.seconds = status, code, seconds


def make_app(systems: dict[str, System], key: str | None = None) -> FastAPI:
    """The server of `systems`, by the names that requests have for them; the first is the default.

    `key`: what requests must bring as `Authorization: Bearer KEY`; None: nothing.
    """
    batcher, started = Batcher(systems), int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        # Nobody waits any more: requests are answered by now, or were given up when their time was over.
        await asyncio.to_thread(batcher.close, LAST_SECONDS)

    app = FastAPI(title="Chinese review sentiment", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.batcher = batcher  # for who asks beside the API
    count = _Metrics(batcher)

    app.add_middleware(_Door, key=key, count=count)

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Refused) -> Response:
        return _error(refused)

    @app.exception_handler(RequestValidationError)
    async def refuse_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = f"{where}: {first['msg']}" if where else NO_JSON
        if first["type"] == "json_invalid":
            said = f"{NO_JSON}; at character {where}: {first['ctx']['error']}"
        return _error(Refused(400, "invalid_request", said))

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:  # its traceback goes to the log
        return _error(Refused(500, "internal_error", "the server failed; its log says why"))

    @app.exception_handler(HTTPException)
    async def refuse_http(request: Request, error: HTTPException) -> Response:
        code = "not_found" if error.status_code == 404 else "invalid_request"
        said = NO_JSON if error.status_code == 400 else f"{request.url.path}: {error.detail}"
        return _error(Refused(error.status_code, code, said))

    def check_model(name: str) -> None:
        if not systems:  # of a page
            raise Refused(404, "model_not_found", "no run was named when this was started; name it: app RUN")
        if name not in systems:
            raise Refused(404, "model_not_found", f"model {name!r} is none of {', '.join(systems)}")

    def describe(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "local"}

    async def ask(model: str | None, texts: list[str]) -> tuple[str, list[Answer]]:
        name = model or next(iter(systems), "")
        check_model(name)
        for at, text in enumerate(texts):
            _check_text(at, text)
        try:
            answers = await asyncio.wrap_future(batcher.ask(name, texts))
        except Full as full:
            raise Refused(429, "rate_limit_exceeded", str(full), full.seconds) from full
        count.texts.labels(name).inc(len(texts))
        return name, answers

    @app.post("/v1/classify")
    async def classify(asked: Classify) -> Response:
        name, answers = await ask(asked.model, asked.texts)
        results = [
            {"label": said["prediction"], "probabilities": said["probabilities"], "model": name}
            for said in answers
        ]
        return JSONResponse({"model": name, "results": results})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(name) for name in systems]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        check_model(name)
        return describe(name)

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat) -> Response:
        name, (said,) = await ask(asked.model, [asked.messages[-1].text])
        written = systems[name].words(said)
        return _as_stream(name, written) if asked.stream else JSONResponse(_as_completion(name, written))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        return JSONResponse({"ready": batcher.is_open}, 200 if batcher.is_open else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(count.registry).decode("utf-8"))

    return app


def address_of(host: str, port: int) -> str:
    """Where a server answers, as a browser takes it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: ASGIApp, grace: int) -> uvicorn.Server:
    """A server that, once stopped, finishes what is in flight, for `grace` seconds at most."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=grace))


def serve(
    app: ASGIApp, host: str, port: int, screen: Screen, path: str = "/v1", grace: int = GRACE_SECONDS
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is in flight, for `grace` seconds at most; `path` is
    said.  Raises UserError where the port is taken.
    """
    server = make_server(app, grace)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(server.config.backlog)  # before it is said: who reads the line can connect
        except OSError as error:
            raise UserError(
                f"--host {host} --port {port}: {error.strerror or error}; take another."
            ) from error
        address = address_of(host, listening.getsockname()[1])
        screen.say(f"serving at {address}{path}; stop with Ctrl-C")
        # uvicorn finishes at SIGTERM and Ctrl-C, then raises them again: what is around this ends, too.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # under nohup it stays ignored
            signal.signal(signal.SIGHUP, lambda number, frame: signal.raise_signal(signal.SIGTERM))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _check_key(path: str, authorization: bytes, key: str | None) -> None:
    if key is None or path in OPEN:
        return
    scheme, _, given = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or not secrets.compare_digest(given.strip(), key.encode()):
        raise Refused(401, "invalid_api_key", "bring the server's key as `Authorization: Bearer KEY`")


def _check_text(at: int, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise Refused(
            400, "text_too_long", f"text {at} has {len(text):,} characters, at most {MOST_CHARACTERS:,}"
        )
    if not strip_text(text):
        raise Refused(400, "empty_text", f"text {at} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Refused(400, "invalid_text", f"text {at} holds half of a surrogate pair, which is no character")


def _error(refused: Refused) -> Response:
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    body = {"message": str(refused), "type": kind, "param": None, "code": refused.code}
    headers = {} if refused.seconds is None else {"Retry-After": f"{math.ceil(refused.seconds)}"}
    return JSONResponse({"error": body}, refused.status, headers)


def _as_completion(model: str, written: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": written}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**_named("chat.completion", model), "choices": [choice]}


def _as_stream(model: str, written: str) -> Response:
    """The same in OpenAI's events: the words, the end, [DONE]."""
    named = _named("chat.completion.chunk", model)
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": written}, None),
        ({}, "stop"),
    ]
    events = [
        {**named, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    lines = [*(json.dumps(event, ensure_ascii=False) for event in events), "[DONE]"]
    return StreamingResponse((f"data: {line}\n\n" for line in lines), media_type="text/event-stream")


def _named(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


class _Door:
    """What each request passes: its key, its body's size (it is taken whole), the count of how it went.

    Plain ASGI: FastAPI's own kind of middleware costs as much as all else of a request.
    """

    def __init__(self, app: ASGIApp, key: str | None, count: "_Metrics") -> None:
        self.app, self.key, self.count = app, key, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(scope["headers"])
            _check_key(scope["path"], headers.get(b"authorization", b""), self.key)
            named = headers.get(b"content-length", b"0")
            body = await asyncio.wait_for(
                self._read(int(named) if named.isdigit() else 0, receive), BODY_SECONDS
            )
        except Refused as refused:
            await _error(refused)(scope, receive, counted)
        except asyncio.TimeoutError:
            await _error(Refused(408, "timeout", "the request's body did not come"))(scope, receive, counted)
        else:
            bodies = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def replay() -> Message:
                return next(bodies, None) or await receive()

            await self.app(scope, replay, counted)
        finally:
            self.count.request(scope["path"], status, time.monotonic() - start)

    async def _read(self, named: int, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            if max(len(body), named) > MOST_BYTES:
                raise Refused(413, "too_large", f"a request has {MOST_BYTES:,} bytes at most")
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise Refused(413, "too_large", f"a request has {MOST_BYTES:,} bytes at most")
        return bytes(body)


class _Metrics:
    """What /metrics says."""

    def __init__(self, batcher: Batcher) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("requests", "Requests that were answered", ["path", "status"], **named)
        self.seconds = Histogram("request_seconds", "Time of a request", ["path"], **named)
        self.texts = Counter("texts", "Texts that were answered", ["model"], **named)
        Gauge("texts_waiting", "Texts in the queue", **named).set_function(lambda: batcher.waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; paths that are not served are one."""
        path = path if path in PATHS else "other"
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)
