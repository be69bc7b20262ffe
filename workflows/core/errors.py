"""The exception for what a user can mend, and the one of a training that was ended on purpose."""


class UserError(Exception):
    """Bad input: the message says in one line what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class TrainingStopped(UserError):
    """Whoever watched a training has ended it: its run goes on where it is asked again."""
