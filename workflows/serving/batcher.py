"""Requests that come together are answered together, by one thread that owns the models.

While a batch is read, the next requests wait in a bounded queue; those that ask the same system make the next
batch.  A single text on an idle server is answered at once; only right after a batch of several requests the
next one waits for a moment, because clients that ask again at once would else make two half batches in turn.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from workflows.serving.systems import Answer

MOST_WAITING = 4096  # texts in the queue; beyond it a request is refused
MOST_AT_ONCE = 512  # texts of a batch
MOST_CHARACTERS_AT_ONCE = 50_000  # of a batch: long texts must not hold up everybody
GATHER_SECONDS = 0.05  # at most, after a batch, for as many requests as it had
GATHER_SHARE = 0.3  # of the time that the batch took


class Full(Exception):
    """The queue takes no more; `seconds`: how long it will take until it does, about."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many texts are waiting; try again in {seconds:.0f} s")
        self.seconds = seconds


@dataclass
class _Request:
    system: str
    texts: list[str]
    answers: "Future[list[Answer]]" = field(default_factory=Future)


class Answering(Protocol):
    """What answers texts: a System, or one that is opened when it is first asked."""

    def answer(self, texts: list[str]) -> list[Answer]:
        """The answer to each text, in their order."""


class Batcher:
    """The queue and its thread; `systems` by the name that requests have for them."""

    def __init__(self, systems: Mapping[str, Answering], most_waiting: int = MOST_WAITING) -> None:
        self.systems, self.most_waiting = dict(systems), most_waiting
        self.waiting = 0  # texts
        self.seconds_a_text = 0.01  # of the last batches
        self._requests: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._expected, self._gather_until = 0, 0.0  # requests; on the monotonic clock
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._closed

    def ask(self, system: str, texts: list[str]) -> "Future[list[Answer]]":
        """The answers to come; cancel them where nobody waits for them any more.

        Raises Full where the queue takes no more, KeyError where there is no such system.
        """
        request = _Request(system, texts)
        self.systems[system]
        with self._changed:
            if self._closed or self.waiting + len(texts) > self.most_waiting:
                raise Full(max(1.0, self.waiting * self.seconds_a_text))
            self.waiting += len(texts)
            self._requests.append(request)
            self._changed.notify()
        return request.answers

    def close(self, seconds: float | None = None) -> None:
        """Take no more; return when what is waiting is answered, or after `seconds`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            start, texts = time.monotonic(), sum(len(request.texts) for request in batch)
            try:
                self._answer(batch)
            except Exception:  # the text of one must not fail the others'
                for request in batch:
                    try:
                        self._answer([request])
                    except Exception as error:  # whatever it is, who waits must hear of it
                        request.answers.set_exception(error)
            end = time.monotonic()
            if texts:  # who asks for none waits for a model to be read
                self.seconds_a_text += 0.3 * ((end - start) / texts - self.seconds_a_text)
            self._expected = len(batch)
            self._gather_until = end + min(GATHER_SECONDS, GATHER_SHARE * (end - start))

    def _answer(self, batch: list[_Request]) -> None:
        texts = [text for request in batch for text in request.texts]
        answers = iter(self.systems[batch[0].system].answer(texts))
        for request in batch:
            request.answers.set_result([next(answers) for _ in request.texts])

    def _next(self) -> list[_Request] | None:
        """The requests of the next batch: the first that waits, and later ones of the same system; None
        where no more will come.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._requests or self._closed)
                self._changed.wait_for(
                    lambda: len(self._requests) >= self._expected or self._closed,
                    max(0.0, self._gather_until - time.monotonic()),
                )
                if not self._requests:
                    return None
                batch: list[_Request] = []
                others, texts, characters = deque[_Request](), 0, 0
                system = self._requests[0].system
                for request in self._requests:
                    more = sum(map(len, request.texts))
                    fits = (
                        texts + len(request.texts) <= MOST_AT_ONCE
                        and characters + more <= MOST_CHARACTERS_AT_ONCE
                    )
                    if request.system != system or (batch and not fits):
                        others.append(request)
                        continue
                    self.waiting -= len(request.texts)
                    if request.answers.set_running_or_notify_cancel():
                        batch.append(request)
                        texts, characters = texts + len(request.texts), characters + more
                self._requests = others
                if batch:
                    return batch
