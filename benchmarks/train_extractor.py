"""Train the extractor that the package ships, on the whole official training split, and write its weights.

    python -m benchmarks.train_extractor --source mnist --root data           # the package's extractor
    python -m benchmarks.train_extractor --source fashion_mnist --root data   # writes fashion_mnist_cnn.safetensors
    python -m benchmarks.train_extractor --source digits --epochs 150

For other data, use `python train.py train_extractor`.

It prints the accuracy on the official test split, the SHA-256 of the weights, and the command that evaluates a run with
the extractor. The test split is used once, after the last epoch. `gen_lightning/metrics/extractor.py` checks the
SHA-256 of the package's own weights. 15 epochs of MNIST take 4 minutes on two CPU cores.
"""

import argparse
import hashlib
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import save_file

from cli.extractor import fit_classifier, measure_accuracy
from datamodules.sources import Source, download, load
from gen_lightning.metrics.extractor import DigitClassifier

EXTRACTOR = "gen_lightning.metrics.ClassifierFeatures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=get_args(Source), default="mnist")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output",
        type=Path,
        help="safetensors file, whose name becomes the extractor's; default: SOURCE_cnn.safetensors",
    )
    args = parser.parse_args()
    output = args.output or Path(f"{args.source}_cnn.safetensors")

    torch.manual_seed(args.seed)
    download(args.source, args.root)
    train_split, test_split = load(args.source, args.root)
    classifier = DigitClassifier()
    fit_classifier(classifier, train_split, args.epochs)
    classifier.eval()
    save_file(classifier.state_dict(), output)
    print(f"test accuracy {measure_accuracy(classifier, test_split):.4f} ({len(test_split.labels):,} images)")
    print(f"SHA-256 {hashlib.sha256(output.read_bytes()).hexdigest()}, {output.stat().st_size:,} bytes: {output}")
    options = f"--extractor {EXTRACTOR} --extractor.weights {output}"
    print(f"evaluate a run with it: python train.py test --ckpt_path FILE {options}")


if __name__ == "__main__":
    main()
