"""Do to plain Lightning what tests/faults does to train.py, and print the outcomes.

    PYTHONPATH=tests python -m benchmarks.reliability --trials 50

`make campaign` prints the same faults for train.py. The program is benchmarks/plain_lightning.py: LightningCLI with a
small VAE, ModelCheckpoint(save_last=True) every 10 steps, and CSVLogger.
"""

import argparse
import random
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from faults.processes import Run, start_ranks

from benchmarks.plain_lightning import main as plain_lightning

FIT = ("fit", "--model=PlainVAE", "--trainer.max_steps=60")
LAST = Path("checkpoints/last.ckpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, attempt in ATTEMPTS.items():
        outcomes: Counter[str] = Counter()
        for index in range(given.trials):
            with tempfile.TemporaryDirectory() as folder:
                outcomes[attempt(Path(folder), random.Random(f"{name} {index} {given.seed}"))] += 1
        print(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common())}", flush=True)


def fit(folder: Path, *args: str) -> Run:
    return Run(*FIT, *args, folder=folder, program=plain_lightning)


def kill_and_resume(folder: Path, draws: random.Random) -> str:
    """Kill a run at a random iteration, resume it, and compare it with the uninterrupted run."""
    expected = train_undisturbed()
    run = fit(folder)
    seconds = draws.uniform(0, 1)
    run.wait_until(lambda: (folder / LAST).exists())
    run.wait_until(lambda: False, timeout=seconds)
    run.send(signal.SIGKILL)
    run.wait()
    if not (folder / LAST).exists():
        return "without a checkpoint"
    run = fit(folder, f"--ckpt_path={folder / LAST}")
    if run.wait() != 0:
        return "not resumable"
    resumed = torch.load(folder / LAST, weights_only=True)["state_dict"]
    equal = all(torch.equal(value, resumed[name]) for name, value in expected.items())
    return "resumed to the weights of the uninterrupted run" if equal else "resumed to other weights"


@cache
def train_undisturbed() -> dict[str, torch.Tensor]:
    """Return the weights of a run without a fault."""
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(folder)).wait()
        return torch.load(folder / LAST, weights_only=True)["state_dict"]


def signal_two_ranks(folder: Path, draws: random.Random) -> str:
    """Send SIGTERM to one or both ranks at a random moment."""
    ranks = start_ranks(*FIT, folder=folder, program=plain_lightning)
    ranks[0].wait_until(lambda: (folder / LAST).exists())
    ranks[0].wait_until(lambda: False, timeout=draws.uniform(0, 1))
    targets = draws.choice([ranks, ranks[:1], ranks[1:]])
    if not any(rank.is_alive for rank in targets):
        return "ended before the signal"
    for rank in targets:
        rank.send(signal.SIGTERM)
    end = [wait_or_kill(rank) for rank in ranks]
    if None in end:
        return "still running after 30 s"
    return f"ended with status {' and '.join(map(str, sorted(set(end), key=str)))}"


def wait_or_kill(run: Run) -> int | None:
    try:
        return run.wait(30)
    except TimeoutError:
        return None


def flip_a_bit(folder: Path, draws: random.Random) -> str:
    """Flip a bit of a checkpoint and resume from it."""
    fit(folder, "--trainer.max_steps=30").wait()
    content = bytearray((folder / LAST).read_bytes())
    place = draws.randrange(len(content))
    content[place] ^= 1 << draws.randrange(8)
    original = torch.load(folder / LAST, weights_only=True)
    (folder / LAST).write_bytes(content)
    run = fit(folder, f"--ckpt_path={folder / LAST}")
    if run.wait() != 0:
        return "refused"
    try:
        damaged = torch.load(_write(folder / "damaged.ckpt", bytes(content)), weights_only=True)
    except Exception:
        return "refused"
    return "taken, with equal values" if encode(damaged) == encode(original) else "taken, with other values"


def encode(value: Any) -> str:
    """Return a text that is equal for equal nested values, tensors included."""
    if isinstance(value, torch.Tensor):
        return str(value.numpy().tobytes())
    if isinstance(value, dict):
        return str([(key, encode(member)) for key, member in value.items()])
    if isinstance(value, list | tuple):
        return str(list(map(encode, value)))
    return repr(value)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def limit_files(args: list[str]) -> None:
    """Run the program while no file may grow beyond the size in front of its arguments."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(args[0]), int(args[0])))
    plain_lightning(args[1:])


def fill_the_disk(folder: Path, draws: random.Random) -> str:
    """Resume from a good checkpoint while no file may become as large as a checkpoint."""
    fit(folder, "--trainer.max_steps=30").wait()
    limit = draws.randrange(1, (folder / LAST).stat().st_size)
    run = Run(str(limit), *FIT, f"--ckpt_path={folder / LAST}", folder=folder, program=limit_files)
    status = run.wait()
    try:
        torch.load(folder / LAST, weights_only=True)
        kept = "last.ckpt intact"
    except Exception:
        kept = "last.ckpt lost"
    return f"{kept}, status {status}{', traceback' if 'Traceback' in run.text else ''}"


def mutate_a_configuration(folder: Path, draws: random.Random) -> str:
    """Replace a value of the configuration by a wrong one, and train."""
    fit(folder, "--trainer.max_steps=1").wait()
    config = yaml.safe_load((folder / "logs/version_0/config.yaml").read_text())
    places = list(walk(config))
    node, key = draws.choice(places)
    node[key] = draws.choice([-1, 0, 1e38, "nonsense", None, [], {}, {"class_path": "torch.nn.ReLU"}, True, ""])
    (folder / "mutated.yaml").write_text(yaml.safe_dump(config))
    run = Run("fit", "--config=mutated.yaml", "--trainer.max_steps=1", folder=folder, program=plain_lightning)
    status = run.wait()
    if status == 0:
        return "trained"
    if "Traceback" in run.text:
        return "traceback"
    message = run.text.partition("error: ")[2].strip()
    return "a message of at most 200 characters" if len(message) <= 200 else "a longer message"


def walk(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from walk(value)


ATTEMPTS: dict[str, Callable[[Path, random.Random], str]] = {
    "SIGKILL, one process": kill_and_resume,
    "SIGTERM, two ranks": signal_two_ranks,
    "one bit of last.ckpt flipped": flip_a_bit,
    "disk full": fill_the_disk,
    "mutated configuration": mutate_a_configuration,
}


if __name__ == "__main__":
    main()
