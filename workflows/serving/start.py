"""Starts the server of finished runs, and the page beside it."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen, as_typed
from workflows.core.secrets import KEY_VARIABLE
from workflows.experiment.checks import check_environment, check_method
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.pipeline.run import OUTPUTS, open_finished

PAGE_GRACE_SECONDS = 3  # an open page keeps a connection as long as it is open
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_runs(folders: tuple[Path, ...], engine: str, host: str, port: int, screen: Screen) -> None:
    """Load what each run made, its tuned model or its probe, and serve it by its folder's name until the
    command is stopped.

    Adapters of one base share its weights.  `engine`: fast, or vllm for SWIFT's own server.  Raises UserError
    where two runs have the same name, as `open_system` does, and where the port is taken.
    """
    named = _by_name(folders)
    key = os.environ.get(KEY_VARIABLE) or None
    if host not in LOOPBACK and key is None:
        screen.say(f"anybody who reaches {host} may ask: set {KEY_VARIABLE} to a key that they must bring")
    for folder in folders:
        load_experiment(RunFolder(folder).experiment)  # no log is begun where there is no run
        screen.say(f"loading {as_typed(folder)} …")
    with screen.output_to(folders[0] / "logs" / "serve.log"):
        if engine == "vllm":
            _serve_by_vllm(named, host, port, key, screen)
            return
        from workflows.serving.models import Models
        from workflows.serving.server import make_app, serve
        from workflows.serving.systems import open_made

        models = Models() if len(folders) > 1 else None
        systems = {name: open_made(folder, models) for name, folder in named.items()}
        for system in systems.values():
            system.answer(["好"])  # the first answer of a process takes longer
        serve(make_app(systems, key), host, port, screen)


def _serve_by_vllm(folders: dict[str, Path], host: str, port: int, key: str | None, screen: Screen) -> None:
    """SWIFT's own server: OpenAI's dialect alone, and requests bring the whole prompt.

    Not run yet: it needs a GPU.  Raises UserError for what vLLM cannot answer with.
    """
    experiments = [_check_for_vllm(folder) for folder in folders.values()]
    for each in experiments:
        check_environment(each.model, "vllm")
    from swift import deploy_main

    from workflows.model.arguments import build_deploy_arguments
    from workflows.model.folder import with_local_model
    from workflows.model.machine import find_machine
    from workflows.serving.server import address_of

    adapters = {name: checkpoint_of(RunFolder(folder)) for name, folder in folders.items()}
    experiments = [*map(with_local_model, experiments)]
    bases = {str(each.model.arguments["model"]) for each in experiments}
    if len(bases) > 1:
        raise UserError(f"serve --engine vllm: the runs have {len(bases)} base models; name runs of one.")
    arguments = build_deploy_arguments(experiments, find_machine(), adapters, host, port, key)
    screen.say(f"SWIFT's own server on vLLM: {address_of(host, arguments.port)}/v1")
    deploy_main(arguments)


def _check_for_vllm(folder: Path) -> Experiment:
    """The experiment of a finished run whose adapter vLLM takes; a UserError where it is none."""
    if RunFolder(folder).exported.exists():
        raise UserError(f"{folder}: was written by `export`; with --engine vllm name the run itself.")
    run = open_finished(folder)
    experiment = load_experiment(run.experiment)
    check_method(replace(experiment, tuning=replace(experiment.tuning, engine="vllm")))
    checkpoint = checkpoint_of(run)
    if not (checkpoint / "adapter_config.json").exists():
        raise UserError(f"{folder}: its checkpoint is no adapter; leave out --engine vllm.")
    return experiment


def serve_page(folders: tuple[Path, ...], host: str, port: int, screen: Screen) -> None:
    """Serve the page and the API of the named runs, until the command is stopped.

    Raises UserError where Gradio is not installed, or everybody could start runs here, and as `serve_runs`.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError('app: needs Gradio, which is not installed: pip install "gradio>=6"')
    named, key = _by_name(folders), os.environ.get(KEY_VARIABLE) or None
    if host not in LOOPBACK and key is None:
        raise UserError(
            f"app --host {host}: whoever reaches it could start runs; set {KEY_VARIABLE}, "
            "the password that the page asks for."
        )
    screen.say("loading SWIFT …")
    with (
        TemporaryDirectory(prefix="app-") as uploads,
        screen.output_to(OUTPUTS / "app" / "app.log"),
    ):
        os.environ["GRADIO_TEMP_DIR"] = uploads
        from workflows.serving.desk import Desk
        from workflows.serving.models import Models
        from workflows.serving.page import with_page
        from workflows.serving.server import make_app, serve
        from workflows.serving.systems import open_made

        models = Models()
        api = make_app({name: open_made(folder, models) for name, folder in named.items()}, key)
        desk = Desk(api.state.batcher, models, named)
        proxied = path_behind_proxy(port)
        if proxied:
            screen.say(f"through the proxy of this notebook: {proxied}/")
        serve(with_page(api, desk, key, proxied), host, port, screen, "/", PAGE_GRACE_SECONDS)


def path_behind_proxy(port: int) -> str:
    """The path under which a notebook's proxy shows a port, from GRADIO_ROOT_PATH, or as ModelScope's
    instances have it (after SWIFT's own pages, swift/pipelines/base.py); empty where there is none.
    """
    notebook = os.environ.get("JUPYTER_NAME", "")
    there = f"/{notebook}/proxy/{port}" if "dsw-" in notebook else ""
    return urlsplit(os.environ.get("GRADIO_ROOT_PATH", there)).path.rstrip("/")  # it may be a whole address


def _by_name(folders: tuple[Path, ...]) -> dict[str, Path]:
    """Runs by their folders' names; a UserError where two have the same."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in named:
            raise UserError(f"two runs are called {name}; rename a folder.")
        named[name] = folder
    return named
