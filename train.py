"""Train, validate, test, sample from and compare GANs and VAEs: `python train.py --help` shows how."""

import sys

from cli.command_line import run_command
from cli.exit import exit_on_mistake
from cli.process import keep_freed_memory, silence_libraries, skip_nvml_search
from gen_lightning.stopping import answering_signals


def main(args: list[str] | None = None) -> None:
    """Run a command.

    A user's mistake ends it with one sentence and status 2, a diverged training or a file that cannot be written with
    status 1, SIGTERM with status 143, Ctrl-C with status 130. Any other error keeps its traceback. JSONARGPARSE_DEBUG=1
    shows every traceback.

    Args:
        args: the command line; default: that of the process
    """
    silence_libraries()
    skip_nvml_search()
    keep_freed_memory()
    with answering_signals(), exit_on_mistake():
        run_command(sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
