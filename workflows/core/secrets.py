"""Keeps tokens, keys and passwords out of what is said and written."""

import os
import re

# Of a variable of the environment.
SECRET_NAME = re.compile(r"(TOKEN|KEY|KEY_ID|SECRET|PASSWORD)$", re.IGNORECASE)
KEY_VARIABLE = "REVIEW_API_KEY"  # the key of our own server
SHORTEST = 8  # what is shorter might be a word of its own
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]+@")  # user:password@ of an address


class Unseen(str):
    """A secret that shows nothing where its holder is logged, as SWIFT logs its arguments."""

    def __repr__(self) -> str:
        return "'***'"


def hide(text: str) -> str:
    """The text without the secrets of the environment's variables, and without those inside addresses."""
    secrets = {
        each for name, each in os.environ.items() if SECRET_NAME.search(name) and len(each) >= SHORTEST
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return IN_ADDRESS.sub("***@", text)
