"""The one exception for what a user can mend."""


class UserError(Exception):
    """Bad input: the message says in one line what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
