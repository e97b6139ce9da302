"""Measure the overhead of the framework: the speed of the default recipes relative to a plain PyTorch loop.

    python -m benchmarks.overhead

The run of the command line, with its callbacks and loggers, and the plain loop take turns of a few iterations. The
default data are 5,000 embedded images of MNIST; `--source mnist` uses all of it.
"""

import argparse
import tempfile

import torch

import train
from benchmarks.bare import RECIPES, WARMUP, SideBySide

# The number of iterations in all, during which pictures are drawn and checkpoints are written, and in each turn.
ITERATIONS = {"gan/dcgan": (500, 5), "vae/vae": (10_000, 50)}
PARTS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="mnist_5k")
    parser.add_argument("--root", default="data")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()
    lines = [format_line(recipe, f"--data.source={args.source}", f"--data.root={args.root}") for recipe in args.recipes]
    print(f"\n{'recipe':<12}{'train.py':>10}{'bare':>10}{'ratio':>8}   iterations/s on {args.source}, batch 128")
    print("\n".join(lines))
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    print(f"in brackets: the smallest and the largest ratio of {PARTS} parts; {versions}")


def format_line(recipe: str, *data: str) -> str:
    """Train a recipe in turns with the plain loop, and return a line with the speed of both."""
    iterations, turn = ITERATIONS[recipe]
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "trainer.accelerator": "cpu",
            "trainer.default_root_dir": folder,
            "trainer.limit_val_batches": 0,
            "trainer.max_epochs": -1,
            # The last turn ends when the iteration after it begins.
            "trainer.max_steps": WARMUP + iterations + 1,
            "trainer.callbacks+": "benchmarks.bare.SideBySide",
            "trainer.callbacks.recipe": recipe,
            "trainer.callbacks.iterations": turn,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        train.main(["fit", "--config", f"configs/{recipe}.yaml", *given, *data])
    # Sums, because medians would leave out the turns in which pictures are drawn and checkpoints are written.
    run, loop = add_up(SideBySide.seconds)
    ratios = [part_loop / part_run for part_run, part_loop in map(add_up, divide(SideBySide.seconds))]
    return (
        f"{recipe:<12}{iterations / run:>10.1f}{iterations / loop:>10.1f}{loop / run:>8.3f}"
        f"   ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def divide(turns: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Return the turns in consecutive parts of equal length."""
    length = len(turns) // PARTS
    return [turns[start : start + length] for start in range(0, PARTS * length, length)]


def add_up(turns: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the total seconds of the run and of the loop."""
    run, loop = zip(*turns, strict=True)
    return sum(run), sum(loop)


if __name__ == "__main__":
    main()
