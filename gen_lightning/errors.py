"""The exceptions for what a user can mend: a mistake, and a file that cannot be read or written."""


class UserError(ValueError):
    """A mistake of the user. The message says what is wrong, with the value, and then what to do.

    The command line prints the message without a traceback and exits with status 2. Every other exception but
    StorageError is a fault in code and keeps its traceback.
    """


class StorageError(OSError):
    """A file that cannot be written, for a reason outside the program. The message names the file and the reason.

    The command line prints the message without a traceback and exits with status 1: the same command may work later,
    for example after other files have been deleted from a full disk.
    """
