"""Files of strangers: a command ends with one sentence that names the file or the option, and never runs their code."""

import copy
import csv
import io
import json
import os
import pickle
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from faults.processes import Run
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "sentinel"]}}
TINY = (
    "--config=vae/vae",
    "--data.source=digits",
    "--data.batch_size=256",
    "--model.latent_dim=2",
    "--model.encoder.hidden_dims=[4]",
    "--model.decoder.hidden_dims=[4]",
    "--trainer.logger=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.callbacks={class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {every_n_train_steps: 2,"
    " filename: '{step}', save_top_k: -1, enable_version_counter: false}}",
)


class Code:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch sentinel",)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run, runs/vae/v, that was trained and tested, and with its caches."""
    folder = tmp_path_factory.mktemp("example")
    environment = {"XDG_CACHE_HOME": str(folder / "cache")}
    assert Run("fit", *TINY, "--trainer.max_steps=3", folder=folder, **environment).wait() == 0
    (run,) = folder.glob("runs/vae/*")
    run = run.rename(run.with_name("v"))
    file = run / "checkpoints/last.ckpt"
    for latents in ("prior", "gmm"):
        test = Run(
            "test", f"--ckpt_path={file}", "--num_samples=100", f"--latents={latents}", folder=folder, **environment
        )
        assert test.wait() == 0, test.text
    return folder


@pytest.fixture
def attempt(example: Path, tmp_path: Path):
    """Returns a function that copies the example, lets `spoil` change the copy, and checks how a command ends."""

    def run(spoil, verbs: tuple[str, ...], chance: random.Random) -> None:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(example, folder)
        directory = folder / "runs/vae/v"
        spoil(directory, chance)
        verb = chance.choice(verbs)
        file = directory / "checkpoints/last.ckpt"
        arguments = {
            "fit": ("--resume=runs/vae/v", "--trainer.max_steps=5", "--trainer.max_epochs=9"),
            "test": (f"--ckpt_path={file}", "--num_samples=100"),
            "mixture": (f"--ckpt_path={file}", "--num_samples=4", "--latents=gmm", "--overwrite"),
            "validate": (f"--ckpt_path={file}",),
            "sample": (f"--ckpt_path={file}", "--num_samples=4", "--overwrite"),
            "compare": ("runs/vae/v",),
        }[verb]
        command = Run(
            "sample" if verb == "mixture" else verb, *arguments, folder=folder, XDG_CACHE_HOME=str(folder / "cache")
        )
        status = command.wait(60)
        check_end(status, command.text, verb)
        assert not (folder / "sentinel").exists(), command.text

    return run


def check_end(status: int, text: str, verb: str) -> None:
    """Assert that a command went on, or ended with one sentence."""
    assert "Traceback" not in text, f"{verb}: {text[-3000:]}"
    assert status in (0, 1, 2), f"{verb}: {status} {text[-1000:]}"
    if status == 0:
        return
    *_, last = text.rstrip().split("\n")
    assert last.startswith("train.py: "), f"{verb}: {text[-1000:]}"
    assert len(last) < 600, f"{verb}: {last}"
    named = re.search(r"last\.ckpt|metrics\.|safetensors|runs/vae/v|`?--\w|`[\w.]+` is|step=", last)
    # Features in a stranger's cache may be false, which no check of the file can tell.
    assert named or "diverged" in last or "features of the" in last, f"{verb}: {last}"


HOSTILE: tuple[Any, ...] = (
    None,
    [],
    {},
    "",
    "x",
    -1,
    0,
    2,
    10**30,
    True,
    float("nan"),
    float("inf"),
    [None],
    [[[[]]]],
    {"a": {}},
    {"class_path": 3},
    "os.system",
    POPEN,
    yaml.safe_dump(POPEN),
    "evil.yaml",
    "\x1b[31m\0",
    b"bytes",
)


def list_places(node: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) within nested containers."""
    if not isinstance(node, dict | list):
        return []
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    return [(node, key) for key in keys] + [place for key in keys for place in list_places(node[key])]


def spoil_value(content: Any, chance: random.Random, values: tuple[Any, ...] = HOSTILE) -> None:
    """Replace, remove or add a value anywhere in nested containers."""
    container, key = chance.choice(list_places(content))
    choice = chance.random()
    if choice < 0.7:
        container[key] = chance.choice(values)
    elif choice < 0.85:
        del container[key]
    elif isinstance(container, dict):
        container[chance.choice(["__path__", "x.y", "class_path", "init_args", 3, ""])] = chance.choice(values)
    else:
        container.append(chance.choice(values))


def edit_checkpoint(edit):
    """Return a function that spoils last.ckpt, the only checkpoint that is left, by a change of its content."""

    def spoil(directory: Path, chance: random.Random) -> None:
        file = directory / "checkpoints/last.ckpt"
        for other in set(directory.glob("checkpoints/*.ckpt")) - {file}:
            other.unlink()
        content = torch.load(file, weights_only=True)
        torch.save(edit(content, chance), file)

    return spoil


def edit_config(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    config = yaml.safe_load(content["config"])
    for _ in range(chance.randint(1, 3)):
        spoil_value(config, chance)
    return content | {"config": yaml.safe_dump(config)}


def edit_config_text(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    text = content["config"]
    start, length = chance.randrange(len(text)), chance.randint(1, 30)
    inserted = chance.choice(
        ["", "[" * 3000, "&a [*a]", "!!python/name:os.system", "\0", "\t", "]", "<<: *a", "- - -", "...\n---\n"]
    )
    texts = [text[:start] + inserted + text[start + length :], text[:start], inserted]
    return content | {"config": chance.choice(texts)}


def edit_state(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    state = {name: value for name, value in content.items() if name != "config"}
    state = copy.deepcopy(dict(state) | {"state_dict": dict(state["state_dict"])})
    values = (*HOSTILE, torch.zeros(2), torch.full((3, 3), torch.nan), torch.tensor(1), -(2**40))
    if chance.random() < 0.5:
        # Most places lie within the loops and the optimizer.
        name = chance.choice(sorted(state))
        state[name] = chance.choice(values)
    else:
        spoil_value(state, chance, values)
    return state | {"config": content["config"]}


def write_pickle(directory: Path, chance: random.Random) -> None:
    file = directory / "checkpoints/last.ckpt"
    content = {"global_step": 9, "config": "", "state_dict": Code(), "optimizer_states": [Code()]}
    shutil.rmtree(file.parent)
    file.parent.mkdir()
    if chance.random() < 0.5:
        torch.save(chance.choice([content, Code(), [Code()]]), file)
    else:
        file.write_bytes(pickle.dumps(chance.choice([content, Code()])))


def spoil_bytes(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    choice = chance.randrange(6)
    if choice == 0:
        content = content[: chance.randrange(len(content))]
    elif choice == 1:
        content = bytearray(chance.randbytes(chance.choice([0, 1, 100, 5000])))
    elif choice == 2:
        content *= 2
    elif choice == 3:
        content = bytearray(pickle.dumps(Code()))
    else:
        for _ in range(chance.choice([1, 50])):
            content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)


def spoil_metrics_json(directory: Path, chance: random.Random) -> None:
    path = directory / "metrics.json"
    if chance.random() < 0.3:
        texts = [
            "",
            "[]",
            "null",
            "3",
            '"x"',
            "{",
            "[" * 100_000,
            '{"test": {"metrics": 1}}',
            "9" * 10_000,
            "\0",
            "NaN",
        ]
        path.write_text(chance.choice(texts))
    elif chance.random() < 0.2:
        spoil_bytes(path, chance)
    else:
        metrics = json.loads(path.read_text())
        for _ in range(chance.randint(1, 3)):
            spoil_value(metrics, chance, HOSTILE[:-1])
        path.write_text(json.dumps(metrics))


def spoil_metrics_csv(directory: Path, chance: random.Random) -> None:
    path = directory / "metrics.csv"
    if chance.random() < 0.4:
        spoil_bytes(path, chance)
        return
    rows = list(csv.reader(path.read_text().splitlines()))
    values = ["", "-1", "nan", "x" * 200_000, "\0", '"', "1e400", "²", "9" * 5000, "a,b", "step", "val/x", "=1+1"]
    for _ in range(chance.randint(1, 4)):
        row = chance.choice(rows)
        row[chance.randrange(len(row))] = chance.choice(values)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())


def spoil_cache(directory: Path, chance: random.Random) -> None:
    caches = [*(directory.parents[2] / "cache").rglob("*.safetensors"), *directory.glob("checkpoints/*.safetensors")]
    assert caches
    for path in caches:
        if chance.random() < 0.5:
            tensors = load_file(path)
            name = chance.choice(sorted(tensors))
            shapes = [(), (0,), (3,), (2, 2), (5, 64), tuple(tensors[name].shape), tuple(tensors[name].shape)]
            tensors[name] = torch.full(chance.choice(shapes), chance.choice([0.0, -1.0, torch.nan, 1e30]))
            save_file(chance.choice([tensors, {"x": tensors[name]}, {}, tensors]), path)
        else:
            spoil_bytes(path, chance)


KINDS = {
    "stored configurations": (edit_checkpoint(edit_config), ("fit", "test", "validate", "sample"), 3, 80),
    "texts of stored configurations": (edit_checkpoint(edit_config_text), ("fit", "sample"), 2, 40),
    "states in checkpoints": (edit_checkpoint(edit_state), ("fit", "fit", "validate", "sample"), 3, 80),
    "pickles as checkpoints": (write_pickle, ("fit", "test", "validate", "sample"), 1, 20),
    "metrics.json": (spoil_metrics_json, ("fit", "test", "compare"), 3, 50),
    "metrics.csv": (spoil_metrics_csv, ("fit", "compare"), 2, 30),
    "caches": (spoil_cache, ("test", "mixture"), 2, 30),
}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files(kind, attempt, trials):
    spoil, verbs, short, whole = KINDS[kind]
    for trial in trials(f"hostile files: {kind}", short=short, whole=whole):
        with trial:
            attempt(spoil, verbs, trial.random)
