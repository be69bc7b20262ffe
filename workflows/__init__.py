"""The project in Python: `from workflows import run, load`."""

from typing import Any

__all__ = ["load", "run"]


def __getattr__(name: str) -> Any:
    """What `workflows.serving.api` has; SWIFT, which it needs, is imported only then."""
    if name in __all__:
        from workflows.serving import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
