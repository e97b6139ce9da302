"""The rows that need a GPU, in one call: speed, exact resumption, and FID beside the CPU's.

    python -m benchmarks.gpu --root data

Both default recipes under bf16-mixed with the data on the device, eager and compiled, through train.py and in a plain
loop; a run stopped and resumed with deterministic algorithms; one checkpoint's FID on both devices. About 10 minutes.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import warnings
from pathlib import Path

# Before CUDA starts: the only workspace setting under which cuBLAS is deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

import train
from benchmarks.bare import RECIPES, measure_command, measure_loop

NETWORKS = {"gan/dcgan": "[generator,discriminator]", "vae/vae": "[encoder,decoder]"}


def speed(recipe: str, args: argparse.Namespace, folder: str) -> list[str]:
    device = torch.device("cuda" if args.accelerator == "gpu" else args.accelerator)
    options = [*common_options(args, folder), "--trainer.precision=bf16-mixed", "--trainer.limit_val_batches=0"]
    lines = []
    for compiled in (False, True):
        compile_networks = [
            "--trainer.callbacks+=callbacks.Compile",
            f"--trainer.callbacks.networks={NETWORKS[recipe]}",
        ]
        command = measure_command(recipe, args.iterations, *options, *(compile_networks if compiled else []))
        loop = measure_loop(
            RECIPES[recipe], args.iterations, args.source, args.root, device, "bf16-mixed", compiled=compiled
        )
        mode = "compiled" if compiled else "eager"
        lines.append(f"{recipe:<12}{mode:<10}{command:>10.1f}{loop:>10.1f}{command / loop:>8.3f}")
    return lines


def resumption(recipe: str, args: argparse.Namespace, folder: str) -> str:
    options = [*common_options(args, folder), "--trainer.deterministic=true", "--trainer.logger=false"]
    weights = []
    for stops in (["40"], ["15", "40"]):
        run = fit(recipe, f"--trainer.max_steps={stops[0]}", *options)
        for stop in stops[1:]:
            quietly(["fit", "--resume", str(run), f"--trainer.max_steps={stop}"])
        weights.append(torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)["state_dict"])
    equal = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    return f"{recipe:<12}resumed weights {'bit-equal' if equal else 'DIFFERENT'}"


def fid(recipe: str, args: argparse.Namespace, folder: str) -> str:
    run = fit(recipe, f"--trainer.max_epochs={args.epochs}", *common_options(args, folder), "--trainer.logger=false")
    values = []
    for accelerator in (args.accelerator, "cpu"):
        checkpoint = str(run / "checkpoints/last.ckpt")
        quietly(["test", "--ckpt_path", checkpoint, f"--trainer.accelerator={accelerator}", f"--data.root={args.root}"])
        values.append(json.loads((run / "metrics.json").read_text())["test"]["metrics"]["fid/mnist_cnn"]["value"])
    return f"{recipe:<12}test FID of one checkpoint: {values[0]:.4f} on {args.accelerator}, {values[1]:.4f} on cpu"


def common_options(args: argparse.Namespace, folder: str) -> list[str]:
    data = [f"--data.source={args.source}", f"--data.root={args.root}", "--data.device_resident=true"]
    return [
        *data,
        f"--trainer.accelerator={args.accelerator}",
        "--trainer.devices=1",
        f"--trainer.default_root_dir={folder}",
    ]


def fit(recipe: str, *options: str) -> Path:
    """Runs a recipe, and returns its folder."""
    output = quietly(["fit", "--config", f"configs/{recipe}.yaml", *options])
    (line,) = [line for line in output.splitlines() if line.startswith("Run:")]
    return Path(line.split()[1])


def quietly(command: list[str]) -> str:
    """Runs a command, and returns what it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), warnings.catch_warnings(action="ignore"):
        train.main([*command, "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"])
    return output.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="mnist")
    parser.add_argument("--root", default="data")
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU: the rows can be tried with --accelerator cpu.")
    with tempfile.TemporaryDirectory() as folder:
        lines = [line for recipe in RECIPES for line in speed(recipe, args, folder)]
        lines += [resumption(recipe, args, folder) for recipe in RECIPES]
        lines += [fid(recipe, args, folder) for recipe in RECIPES]
    device = torch.cuda.get_device_name() if args.accelerator == "gpu" else args.accelerator
    print(f"\n{device}, torch {torch.__version__}, bf16-mixed, batch 128, {args.source}; iterations/s:")
    print(f"{'recipe':<22}{'train.py':>10}{'bare':>10}{'ratio':>8}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
