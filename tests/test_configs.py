"""Every recipe parses, is complete, and trains."""

import re

import pytest
import yaml
from helpers import CONFIGS

RECIPES = sorted(CONFIGS.rglob("*.yaml"))


def name(recipe):
    return str(recipe.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_runs_one_batch(fit, recipe):
    has_source = "source" in yaml.safe_load(recipe.read_text())["data"]["init_args"]
    folder = fit(
        "--config",
        str(recipe),
        *["--data.source=digits"] * has_source,
        "--data.batch_size=16",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.logger=false",
    )
    assert (folder / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("vae/**/*.yaml")), ids=name)
def test_the_best_checkpoint_of_a_vae_is_by_the_bound(recipe):
    callbacks = yaml.safe_load(recipe.read_text())["trainer"]["callbacks"]
    (best,) = [entry["init_args"] for entry in callbacks if entry["class_path"].endswith("ModelCheckpoint")]
    assert (best["monitor"], best["mode"]) == ("val/elbo", "max")


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_header_names_command_time_and_score_or_that_they_are_not_measured(recipe):
    header = recipe.read_text().split("\n\n")[0].splitlines()
    assert header[0] == f"# python train.py fit --config {recipe.relative_to(CONFIGS.parent)}"
    if not header[1].startswith("# Not measured yet"):
        assert re.search(r"\d (seconds|minutes?|hours)", header[1])
        assert re.search(r"(FID|reverse KL|NLL|accuracy|error) \d", header[2])
