"""The command line of train.py, one subject a file."""

from cli.signals import exit_on_signals

# Before the other modules, whose libraries take seconds to import.
exit_on_signals()
