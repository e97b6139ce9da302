"""The report of `test`: what it prints, logs and stores."""

import contextlib
import hashlib
import platform
import re
from dataclasses import asdict, astuple, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from callbacks import find_wandb_loggers
from cli.trainer import Trainer, find_evaluation
from gen_lightning.contracts import (
    IdentifiedData,
    LikelihoodModel,
    Measurement,
    get_settings,
    is_dequantized,
    offers,
)
from gen_lightning.evaluation import Row, format_table


def collect_rows(trainer: LightningTrainer) -> dict[str, Row]:
    """Return the rows that all callbacks have measured in `test`, by name; of two different rows, the first one."""
    rows: dict[str, Row] = {}
    for callback in get_settings(trainer).callbacks:
        if offers(callback, Measurement):
            for name, row in callback.rows.items():
                if rows.setdefault(name, row) != row:
                    rank_zero_warn(
                        f"{type(callback).__name__} writes the row {name} of another callback. It is left out."
                    )
    return rows


def build_report(
    rows: dict[str, Row], trainer: Trainer, model: LightningModule, datamodule: LightningDataModule
) -> dict[str, Any]:
    """Return the report of a test in JSON types: the rows, and what they were measured with."""
    evaluation = find_evaluation(trainer)
    return {
        "metrics": {name: asdict(row) for name, row in rows.items()},
        **describe_data(datamodule),
        **(evaluation.provenance() if evaluation else {}),
        "likelihood": describe_likelihood(model, datamodule),
        "seconds": round(trainer.test_seconds, 1),
        "versions": {name: version(name) for name in ("gen_lightning", "torch", "lightning", "torchmetrics")},
        "hardware": describe_hardware(trainer),
    }


def log_report(trainer: LightningTrainer, rows: dict[str, Row], iteration: int) -> None:
    """Log a report to W&B as a table."""
    columns = ["metric", *(field.name for field in fields(Row))]
    for logger in find_wandb_loggers(trainer):
        logger.log_table("test/report", columns, [[name, *astuple(row)] for name, row in rows.items()], step=iteration)


@rank_zero_only
def print_report(rows: dict[str, Row], seconds: float) -> None:
    """Print a report and its time, on rank 0."""
    print(f"\n{format_table(rows)}\n\n{seconds:.1f} s", flush=True)


def describe_data(datamodule: LightningDataModule) -> dict[str, str]:
    """Return a digest of the data's identity; empty if the data have none."""
    if not offers(datamodule, IdentifiedData):
        return {}
    return {"data": hashlib.sha256(datamodule.identity.encode()).hexdigest()}


def describe_likelihood(model: LightningModule, datamodule: LightningDataModule) -> str | None:
    """Return the kind of likelihood of a VAE's bounds, with "of dequantized images" where that applies."""
    if not offers(model, LikelihoodModel):
        return None
    kind = model.likelihood_kind
    return f"{kind}, of dequantized images" if is_dequantized(datamodule) else kind


def describe_hardware(trainer: LightningTrainer) -> str:
    """Return the devices of a run, or the CPU's model and its number of threads."""
    if trainer.strategy.root_device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = match[1] if match else model
    return f"{model}, {trainer.world_size * torch.get_num_threads()} CPU threads"


def last_metrics(trainer: LightningTrainer, iteration: int) -> dict[str, float]:
    """Return the last value of each logged metric, and the iteration."""
    values = {name: value.item() for name, value in trainer.callback_metrics.items() if name != "step"}
    return dict(sorted((values | {"iteration": iteration}).items()))
