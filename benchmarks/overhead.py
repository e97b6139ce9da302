"""What the framework costs: iterations per second of the default recipes, over those of a plain PyTorch loop.

    python -m benchmarks.overhead

The two sides take turns of a few iterations; the command line's includes its callbacks and loggers. Without real MNIST
it uses the digits.
"""

import argparse
import tempfile

import torch

import train
from benchmarks.bare import RECIPES, WARMUP, SideBySide

# In all, with pictures and checkpoints among them, and in each turn.
ITERATIONS = {"gan/dcgan": (500, 5), "vae/vae": (10_000, 50)}
PARTS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="digits")
    parser.add_argument("--root", default="data")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()
    lines = [format_line(recipe, f"--data.source={args.source}", f"--data.root={args.root}") for recipe in args.recipes]
    print(f"\n{'recipe':<12}{'train.py':>10}{'bare':>10}{'ratio':>8}   iterations/s on {args.source}, batch 128")
    print("\n".join(lines))
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    print(f"in brackets: the least and the greatest of {PARTS} parts; {versions}")


def format_line(recipe: str, *data: str) -> str:
    """Trains a recipe beside the plain loop, and says how quick both were."""
    iterations, turn = ITERATIONS[recipe]
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "trainer.accelerator": "cpu",
            "trainer.default_root_dir": folder,
            "trainer.limit_val_batches": 0,
            "trainer.max_epochs": -1,
            # The last turn is over when the iteration behind it begins.
            "trainer.max_steps": WARMUP + iterations + 1,
            "trainer.callbacks+": "benchmarks.bare.SideBySide",
            "trainer.callbacks.recipe": recipe,
            "trainer.callbacks.iterations": turn,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        train.main(["fit", "--config", f"configs/{recipe}.yaml", *given, *data])
    # Sums, not medians, which would leave out the turns in which pictures are drawn and checkpoints written.
    run, loop = totals(SideBySide.seconds)
    ratios = [loop_of_part / run_of_part for run_of_part, loop_of_part in map(totals, in_parts(SideBySide.seconds))]
    return (
        f"{recipe:<12}{iterations / run:>10.1f}{iterations / loop:>10.1f}{loop / run:>8.3f}"
        f"   ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def in_parts(turns: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The turns in parts that are as long and follow on each other."""
    length = len(turns) // PARTS
    return [turns[start : start + length] for start in range(0, PARTS * length, length)]


def totals(turns: list[tuple[float, float]]) -> tuple[float, float]:
    """The seconds of the run, and those of the loop."""
    run, loop = zip(*turns, strict=True)
    return sum(run), sum(loop)


if __name__ == "__main__":
    main()
