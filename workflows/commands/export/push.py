"""Uploads an exported model, or a study's card, to the ModelScope hub by its own client.

The token is never written down.
"""

import os
import re
from pathlib import Path

from modelscope_hub import HubApi, HubError, get_default_config

from workflows.core.errors import UserError
from workflows.core.permissions import is_offline
from workflows.core.secrets import hide

TOKEN = "MODELSCOPE_API_TOKEN"


def check_push(repository: str) -> None:
    """Raise UserError where nothing could be pushed: `repository` is no OWNER/NAME, there is no token,
    or --offline forbids it.

    The token comes from the environment alone, where the hub's client finds it too.
    """
    if not re.fullmatch("[^/]+/[^/]+", repository):
        raise UserError(f"--push {repository}: write OWNER/NAME, the model's place on the ModelScope hub.")
    if is_offline():
        raise UserError(f"--push {repository}: needs the hub; leave out --offline, or --push.")
    if not os.environ.get(TOKEN):
        raise UserError(
            f"--push {repository}: needs a token of the ModelScope hub in the environment variable {TOKEN}; "
            "nothing was done."
        )


def push(folder: Path, repository: str, only: list[str] | None = None) -> str:
    """Upload the folder, or `only` what fits one of these patterns, to the ModelScope hub, as a private model
    where there is none; return its address.

    Raises UserError for whatever the hub refuses.
    """
    hub = HubApi()
    try:
        if not hub.repo_exists(repository, "model"):
            hub.create_repo(repository, "model", visibility="private", license="other")
        hub.upload_folder(
            repository,
            "model",
            folder,
            commit_message=f"Export {folder.name}",
            allow_patterns=only,
            ignore_patterns=["logs/*", ".*"],  # what came after the export: it names places of this machine
            use_cache=False,
        )
    except (HubError, OSError) as error:
        raise UserError(
            f"--push {repository}: {type(error).__name__}: {' '.join(str(error).split())[:300]} The folder "
            f"{folder} is whole; the same command pushes it again."
        ) from error
    return hide(f"{get_default_config().endpoint}/models/{repository}")
