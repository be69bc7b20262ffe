"""How fast a finished run answers over HTTP and from a table, against its scorer alone.

python run_swift.py benchmark serving outputs/first

The server and `predict` are processes of their own, as users start them.  Each client keeps its
connection and asks one text a request; all run on this machine and take their share of it.
"""

import csv
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from swift.pipelines.utils import prepare_model_template

from workflows.commands.benchmark.benchmark import about, experiment_in_words
from workflows.commands.benchmark.without_model import OURS, in_turn, run_command
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen
from workflows.core.secrets import KEY_VARIABLE
from workflows.core.statistics import ratio
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.inference.infer import answer_batches, merge_adapter
from workflows.inference.scorer import prompt_tokens
from workflows.model.arguments import build_infer_arguments
from workflows.model.machine import find_machine, now

CLIENTS = 64
ALONE = 50  # texts that one client asks, one after the other


def benchmark_serving(run: RunFolder, rows: int, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds that `rows` reviews take: by the scorer, by `predict`, and by the server for
    64 clients that ask one text at a time; and those of one text for a client alone, as a median.

    The reviews are the run's test rows, numbered where more are asked than there are.
    """
    experiment, machine = experiment_in_words(run), find_machine()
    if experiment.prompt.shots:
        raise UserError(f"{run.path}: its prompt shows training rows; benchmark a run whose prompt has none.")
    test = read_jsonl(run.split("test"))
    texts = [f"{at}：{test[at % len(test)]['review']}" for at in range(rows)]  # no two are the same
    asked = [
        write_row(Review(str(at), text, 0), experiment.prompt, experiment.labels, "messages", answered=False)
        for at, text in enumerate(texts)
    ]
    arguments = build_infer_arguments(
        experiment, machine, run.split("test"), run.path / "none", checkpoint_of(run)
    )
    model, template = prepare_model_template(arguments)
    merged, request = merge_adapter(model), arguments.get_request_config()
    alone: list[float] = []
    answering: list[float] = []

    def score() -> None:
        for _ in answer_batches(merged, template, asked, experiment.labels, request):
            pass

    with TemporaryDirectory() as folder, _server(run, Path(folder, "server.log")) as address:

        def predict() -> None:
            table, output = Path(folder, "texts.csv"), Path(folder, "answers.csv")
            with open(table, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["review"], *([text] for text in texts)])
            output.unlink(missing_ok=True)
            files = ["--input", str(table), "--output", str(output)]
            said = run_command([*OURS, "predict", str(run.path), *files])
            answering.append(float(said.partition("answered in ")[2].split()[0]))

        works = {
            "scorer": score,
            f"{CLIENTS} clients": lambda: _ask_by_many(address, texts),
            "one client": lambda: alone.extend(_ask(address, texts[:ALONE])),
            "predict": predict,
        }
        _ask(address, texts[:ALONE])  # the first requests are slower: they are no part of it
        seconds = in_turn(works, repeats, screen)
    return {
        **about(experiment, machine, {"rows": rows}, sum(len(prompt_tokens(template, row)) for row in asked)),
        "seconds": seconds,
        "ratios": {
            f"throughput of {CLIENTS} clients / scorer": ratio(
                seconds["scorer"], seconds[f"{CLIENTS} clients"]
            ),
            "predict without loading / scorer": ratio(answering, seconds["scorer"]),
        },
        "milliseconds_of_one_text": 1000 * median(alone),
    }


@contextmanager
def _server(run: RunFolder, log: Path) -> Iterator[str]:
    """Host and port of `serve` in a process of its own."""
    command = [*OURS, "serve", str(run.path), "--port", "0"]
    without_key = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    with (
        open(log, "wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", env=without_key
        ) as server,
    ):
        try:
            assert server.stdout is not None
            said = next((line for line in server.stdout if line.startswith("serving at ")), None)
            if said is None:
                raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
            yield urlsplit(said.split()[2].rstrip(";")).netloc
        finally:
            server.terminate()


def _ask_by_many(address: str, texts: list[str]) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda client: _ask(address, texts[client::CLIENTS]), range(CLIENTS)))


def _ask(address: str, texts: list[str]) -> list[float]:
    """Seconds of each request of one client, one text after the other."""
    seconds = []
    with closing(HTTPConnection(address)) as connection:
        for text in texts:
            start = now()
            body = json.dumps({"texts": [text]})
            connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the server answered {answer.status}: {said!r}")
            seconds.append(now() - start)
    return seconds
