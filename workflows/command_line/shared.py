"""What several commands take and do."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from workflows.core.screen import Screen
from workflows.experiment.options import Flag, Language

FinishedRun = Annotated[Path, Parameter(help="a finished run")]
Output = Annotated[Path | None, Parameter(help="where to write (default: a new folder in outputs/)")]
Opens = Annotated[Language, Parameter(help="language that the report opens in")]
Push = Annotated[str | None, Parameter(help="OWNER/NAME on the hub; needs MODELSCOPE_API_TOKEN")]
Ray = Annotated[
    str | None, Parameter(help="share the work by Ray: local, or the HOST:PORT of a cluster")
]  # docs/en/scale.md
Verbose = Annotated[Flag, Parameter(help="show SWIFT's own log on the screen too")]

Words = Annotated[tuple[str, ...], Parameter(parse=False)]  # the command line: which options it names


def use_one_gpu(says: bool = True) -> None:
    """Settle on the GPU that is used, where there is one, before anything else asks for it."""
    from workflows.model.gpu import settle_gpu

    if (said := settle_gpu()) is not None and says:
        Screen().beside.say(said)
