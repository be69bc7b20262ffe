"""Starts the server of finished runs."""

import importlib.util
import os
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen, as_typed
from workflows.experiment.experiment import load_experiment

KEY_VARIABLE = "REVIEW_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_runs(folders: tuple[Path, ...], engine: str, host: str, port: int, screen: Screen) -> None:
    """Load the tuned model of each run, and serve them by their folders' names until the command is stopped.

    Adapters of one base share its weights.  `engine`: fast, or vllm for SWIFT's own server.  Raises UserError
    where two runs have the same name, as `open_system` does, and where the port is taken.
    """
    names = [folder.resolve().name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"serve: two runs are called {name}; rename a folder.")
    key = os.environ.get(KEY_VARIABLE) or None
    if host not in LOOPBACK and key is None:
        screen.say(f"anybody who reaches {host} may ask: set {KEY_VARIABLE} to a key that they must bring")
    for folder in folders:
        screen.say(f"loading {as_typed(folder)} …")
    if engine == "vllm":
        _serve_by_vllm(dict(zip(names, folders, strict=True)), host, port)
        return
    with screen.output_to(folders[0] / "logs" / "serve.log"):
        from workflows.serving.server import make_app, serve
        from workflows.serving.systems import Models, open_system

        models = Models() if len(folders) > 1 else None
        systems = {
            name: open_system(folder, "tuned", models) for name, folder in zip(names, folders, strict=True)
        }
        for system in systems.values():
            system.answer(["好"])  # the first answer of a process takes longer
        serve(make_app(systems, key), host, port, screen)


def _serve_by_vllm(folders: dict[str, Path], host: str, port: int) -> None:
    """SWIFT's own server: OpenAI's dialect alone, and requests bring the whole prompt.

    Not run yet: it needs a GPU.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "serve --engine vllm: vLLM is not installed (pip install vllm); without it leave this out."
        )
    from swift import deploy_main

    from workflows.model.arguments import build_deploy_arguments
    from workflows.model.folder import with_local_model
    from workflows.model.machine import find_machine

    adapters = {name: checkpoint_of(RunFolder(folder)) for name, folder in folders.items()}
    experiments = [
        with_local_model(load_experiment(RunFolder(folder).experiment)) for folder in folders.values()
    ]
    bases = {str(each.model.arguments["model"]) for each in experiments}
    if len(bases) > 1:
        raise UserError(f"serve --engine vllm: the runs have {len(bases)} base models; name runs of one.")
    deploy_main(build_deploy_arguments(experiments[0], find_machine(), adapters, host, port))
