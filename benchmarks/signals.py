"""Write series that a Python package ships as a file, for the recipes of series.

    pip install --no-deps aeon==1.6.0
    python -m benchmarks.signals --output italy_power_demand.npz
    python train.py fit --config configs/gan/signal.yaml --data.path italy_power_demand.npz

The series are ItalyPowerDemand of the UCR archive (Dau et al. 2019): the electrical power demand of Italy on 1,096
days, hourly, each day normalized to mean 0 and variance 1. Label 0 is October to March, and label 1 April to September.
aeon, which is not imported, is under the BSD 3-Clause License; the archive names no licence of the series.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from datamodules.signal_files import SeriesReader


def find_folder() -> Path | None:
    """Return the folder of aeon's copy of ItalyPowerDemand; None if aeon is not installed."""
    spec = find_spec("aeon")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "datasets/data/ItalyPowerDemand"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("italy_power_demand.npz"))
    args = parser.parse_args()
    folder = find_folder()
    if folder is None:
        parser.error("aeon is not installed. Install it with `pip install --no-deps aeon==1.6.0`.")
    reader = SeriesReader("data", "labels", columns=None, channels_last=False)
    parts = [reader.read_series(folder / f"ItalyPowerDemand_{name}.ts") for name in ("TRAIN", "TEST")]
    series, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    np.savez(args.output, data=series.float().numpy(), labels=labels.numpy())
    print(f"Wrote {len(series):,} series of shape {tuple(series.shape[1:])} to {args.output}.")


if __name__ == "__main__":
    main()
