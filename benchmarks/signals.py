"""Write series that a Python package ships as a file, for the recipes of series.

    pip download --no-deps aeon==1.6.0
    python -m benchmarks.signals --output italy_power_demand.npz
    python train.py fit --config configs/gan/signal.yaml --data.path italy_power_demand.npz

aeon need not be installed: its wheel is read. The series are ItalyPowerDemand of the UCR archive (Dau et al. 2019):
the electrical power demand of Italy on 1,096 days, hourly, each day normalized to mean 0 and variance 1. Label 0 is
October to March, and label 1 April to September. aeon is under the BSD 3-Clause License; the archive, which is free
for research, names no licence of the series.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from datamodules.signal_files import SeriesReader

FOLDER = "aeon/datasets/data/ItalyPowerDemand"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="aeon's wheel; default: the newest in the working directory")
    parser.add_argument("--output", type=Path, default=Path("italy_power_demand.npz"))
    args = parser.parse_args()
    wheel = args.wheel or max(Path().glob("aeon-*.whl"), default=None)
    if wheel is None or not wheel.is_file():
        parser.error(f"{wheel or 'aeon-*.whl'} is missing. Download it with `pip download --no-deps aeon==1.6.0`.")
    reader = SeriesReader("data", "labels", columns=None, channels_last=False)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        files = [f"{FOLDER}/ItalyPowerDemand_{part}.ts" for part in ("TRAIN", "TEST")]
        archive.extractall(folder, files)
        series, labels = (
            torch.cat(parts) for parts in zip(*(reader.read_series(Path(folder, one)) for one in files), strict=True)
        )
    np.savez(args.output, data=series.float().numpy(), labels=labels.numpy())
    print(f"Wrote {len(series):,} series of shape {tuple(series.shape[1:])} to {args.output}.")


if __name__ == "__main__":
    main()
