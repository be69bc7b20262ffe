"""The one exception for what a user can mend."""

from workflows.core.secrets import hide


class UserError(Exception):
    """Bad input: the message says in one line what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.  Libraries' own messages are a part
    of many, and may hold a token, which is hidden.
    """

    def __str__(self) -> str:
        return hide(super().__str__())
