"""The exception that stands for a user's mistake."""


class UserError(ValueError):
    """A mistake of the user: one sentence that says what is wrong, and what to do.

    The command line prints the sentence without a traceback and exits with status 2. Every other exception is a fault
    in code, and keeps its traceback.
    """
