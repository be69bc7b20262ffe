"""Starts the server of finished runs."""

import os
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.screen import Screen, as_typed

KEY_VARIABLE = "REVIEW_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_runs(folders: tuple[Path, ...], host: str, port: int, screen: Screen) -> None:
    """Load the tuned model of each run, and serve them by their folders' names until the command is stopped.

    Adapters of one base share its weights.  Raises UserError where two runs have the same name, as
    `open_system` does, and where the port is taken.
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
