"""Measure speed, exact resumption and the FID of both default recipes on a GPU.

    python -m benchmarks.gpu --root data

- Speed: iterations per second under bf16-mixed with the data on the device, eager and compiled, of train.py and of a
  plain loop.
- Resumption: whether the weights of a resumed run equal those of an uninterrupted run, with deterministic algorithms.
- FID: the test FID of one checkpoint on the GPU and on the CPU.

It takes about 10 minutes.
"""

import argparse
import contextlib
import io
import os
import tempfile
import warnings

# Before CUDA starts, because cuBLAS is deterministic only with this workspace setting.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

import train
from benchmarks.bare import RECIPES, measure_command, measure_loop
from cli.runs import RunFolder

NETWORKS = {"gan/dcgan": "[generator,discriminator]", "vae/vae": "[encoder,decoder]"}


def measure_speed(recipe: str, args: argparse.Namespace, folder: str) -> list[str]:
    """Return one line each of eager and compiled networks: iterations per second of train.py and of the plain loop."""
    device = torch.device("cuda" if args.accelerator == "gpu" else args.accelerator)
    options = [*list_common_options(args, folder), "--trainer.precision=bf16-mixed", "--trainer.limit_val_batches=0"]
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


def check_resumption(recipe: str, args: argparse.Namespace, folder: str) -> str:
    """Return a line that says whether a resumed run has the weights of an uninterrupted run."""
    options = [*list_common_options(args, folder), "--trainer.deterministic=true", "--trainer.logger=false"]
    weights = []
    for stops in (["40"], ["15", "40"]):
        run = fit(recipe, f"--trainer.max_steps={stops[0]}", *options)
        for stop in stops[1:]:
            run_quietly(["fit", "--resume", str(run.path), f"--trainer.max_steps={stop}"])
        weights.append(load_weights(run))
    equal = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    return f"{recipe:<12}resumed weights {'bit-equal' if equal else 'DIFFERENT'}"


def compare_fid(recipe: str, args: argparse.Namespace, folder: str) -> str:
    """Return a line with the test FID of one checkpoint on the accelerator and on the CPU."""
    run = fit(
        recipe, f"--trainer.max_epochs={args.epochs}", *list_common_options(args, folder), "--trainer.logger=false"
    )
    values = []
    for accelerator in (args.accelerator, "cpu"):
        options = [f"--trainer.accelerator={accelerator}", f"--data.root={args.root}"]
        run_quietly(["test", "--ckpt_path", str(run.last_checkpoint), *options])
        values.append(run.read_metrics()["test"]["metrics"]["fid/mnist_cnn"]["value"])
    return f"{recipe:<12}test FID of one checkpoint: {values[0]:.4f} on {args.accelerator}, {values[1]:.4f} on cpu"


def list_common_options(args: argparse.Namespace, folder: str) -> list[str]:
    """Return the options of every run: its data, its device and its directory."""
    data = [f"--data.source={args.source}", f"--data.root={args.root}", "--data.device_resident=true"]
    return [
        *data,
        f"--trainer.accelerator={args.accelerator}",
        "--trainer.devices=1",
        f"--trainer.default_root_dir={folder}",
    ]


def fit(recipe: str, *options: str) -> RunFolder:
    """Fit a recipe and return its run."""
    output = run_quietly(["fit", "--config", f"configs/{recipe}.yaml", *options])
    (line,) = [line for line in output.splitlines() if line.startswith("Run:")]
    return RunFolder(line.split()[1])


def load_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return the weights of a run's last checkpoint, on the CPU."""
    return torch.load(run.last_checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def run_quietly(command: list[str]) -> str:
    """Run a command and return its output."""
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
        raise SystemExit("There is no GPU. Try the benchmark with --accelerator cpu.")
    with tempfile.TemporaryDirectory() as folder:
        lines = [line for recipe in RECIPES for line in measure_speed(recipe, args, folder)]
        lines += [check_resumption(recipe, args, folder) for recipe in RECIPES]
        lines += [compare_fid(recipe, args, folder) for recipe in RECIPES]
    device = torch.cuda.get_device_name() if args.accelerator == "gpu" else args.accelerator
    print(f"\n{device}, torch {torch.__version__}, bf16-mixed, batch 128, {args.source}; iterations/s:")
    print(f"{'recipe':<22}{'train.py':>10}{'bare':>10}{'ratio':>8}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
