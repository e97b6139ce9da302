"""The command line of train.py, one subject a file."""
