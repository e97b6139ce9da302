"""The exception for a user's mistake."""


class UserError(ValueError):
    """A mistake of the user. The message says what is wrong, with the value, and then what to do.

    The command line prints the message without a traceback and exits with status 2. Every other exception is a fault in
    code and keeps its traceback.
    """
