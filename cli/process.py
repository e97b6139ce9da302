"""The process: its command, the allocator, the search for GPUs, warnings and progress bars."""

import contextlib
import ctypes
import logging
import os
import sys
import warnings
from pathlib import Path

import torch
from tqdm import tqdm


def find_command() -> str:
    """Return the command that started the program, for sentences that tell the user what to run next."""
    return "gen-lightning" if Path(sys.argv[0]).name == "gen-lightning" else "python train.py"


def silence_libraries() -> None:
    """Hide warnings that address a library's developers or report the run directory's own files."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    hidden = (
        ".*recommended to use `self.log.*sync_dist=True",
        ".*LeafSpec.* is deprecated",
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed",
    )
    for message in hidden:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning is not a tip to install another product."""
    return "try installing [lit" not in record.getMessage()


def skip_nvml_search() -> None:
    """Spare each optimizer step the search for NVIDIA's library on a machine without a GPU."""
    # At each step torch asks whether there is a GPU, and Lightning makes it answer by loading NVML, for the sake of
    # processes that are forked beside a GPU. Without a GPU that takes some tenths of a millisecond a step.
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors for the next ones instead of returning it to the system."""
    # Every iteration allocates the same megabytes again, and the system zeroes each page that it hands out. Keeping
    # them took an iteration of vae/autoregressive on two CPU cores from 366 ms to 207 ms. Other C libraries have no
    # mallopt.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3
        # glibc before 2.35 accepts at most 32 MiB. Setting the trim threshold alone would stop glibc from raising the
        # other threshold by itself.
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
            mallopt(trim_threshold, 2**30)


def close_progress_bars() -> None:
    """Close the progress bars of what failed, so that the next output begins on its own line."""
    # The garbage collector could otherwise close them within any allocation. W&B listens to what they print and would
    # set context variables while jsonargparse sets its own: CPython 3.11 then loses variables or crashes
    # (python/cpython#148891).
    for bar in list(tqdm._instances):
        bar.close()
