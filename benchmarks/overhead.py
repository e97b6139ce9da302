"""What the framework costs: iterations per second of the default recipes, over those of a plain PyTorch loop.

    python -m benchmarks.overhead

The two sides take turns; the command line's includes its callbacks and loggers. Without real MNIST it uses the digits.
"""

import argparse
import statistics
import tempfile

import torch

from benchmarks.bare import RECIPES, rate_of_command, rate_of_loop

ITERATIONS = {"gan/dcgan": 100, "vae/vae": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="digits")
    parser.add_argument("--root", default="data")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    data = [f"--data.source={args.source}", f"--data.root={args.root}", "--trainer.limit_val_batches=0"]
    lines = []
    for recipe, make_step in RECIPES.items():
        commands, loops = [], []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                root = f"--trainer.default_root_dir={folder}"
                commands.append(rate_of_command(recipe, ITERATIONS[recipe], "--trainer.accelerator=cpu", root, *data))
            loops.append(rate_of_loop(make_step, ITERATIONS[recipe], args.source, args.root, torch.device("cpu")))
        ratios = [command / loop for command, loop in zip(commands, loops, strict=True)]
        lines.append(
            f"{recipe:<12}{statistics.median(commands):>10.1f}{statistics.median(loops):>10.1f}"
            f"{statistics.median(ratios):>8.3f}   ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    print(f"\n{'recipe':<12}{'train.py':>10}{'bare':>10}{'ratio':>8}   iterations/s on {args.source}, batch 128")
    print("\n".join(lines))
    print(f"median of {args.repeats}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")


if __name__ == "__main__":
    main()
