"""Every recipe parses, is complete, and trains."""

import re

import pytest
from helpers import CONFIGS

RECIPES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_runs_one_batch(fit, recipe):
    folder = fit(
        "--config",
        str(recipe),
        "--data.source=digits",
        "--data.batch_size=16",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.logger=false",
    )
    assert (folder / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_header_names_command_time_and_score(recipe):
    header = recipe.read_text().split("\n\n")[0].splitlines()
    assert header[0] == f"# python train.py fit --config {recipe.relative_to(CONFIGS.parent)}"
    assert re.search(r"(\d+|TODO) minutes", header[1])
    assert re.search(r"FID (\d|TODO)", header[2])
