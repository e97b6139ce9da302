"""Recipes with one mistake each: a run, or one error message of at most 200 characters that a user can read."""

import re

import pytest
import yaml
from faults.mutations import mutate
from faults.processes import Run
from helpers import CONFIGS

pytestmark = pytest.mark.slow

# Recipes that take seconds for one iteration and its validation take too long for hundreds of trials.
SLOW = ("autoregressive", "image_folder", "stacked_mnist")
RECIPES = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.stem not in SLOW]

# Words of messages that were written for the author of a Python class.
PYTHON_WORDS = re.compile(
    r"<class|NoneType|Namespace|NestedArg|typing\.|__init__|positional argument|keyword argument|object is not|Errno"
)


def test_a_mutated_recipe_trains_or_ends_with_one_readable_error_message(trials, tmp_path):
    for trial in trials("mutated recipes", 10, 300):
        with trial:
            recipe = trial.random.choice(RECIPES)
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            (folder / "mutated.yaml").write_text(mutate(yaml.safe_load(recipe.read_text()), trial.random))
            digits = [] if "mixtures" in recipe.parts else ["--data.source=digits"]
            small = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.logger=false"]
            run = Run("fit", "--config=mutated.yaml", *digits, *small, folder=folder)
            check_end(run.wait(timeout=120), run.text)


def check_end(status: int, output: str) -> None:
    """Check that a run has ended well, or with one readable error message."""
    message = (output.strip().splitlines() or [""])[-1]
    assert status in (0, 2), output[-3000:]
    assert "Traceback" not in output
    if status == 2:
        assert message.startswith("train.py: ")
        assert len(message) <= 200, message
        assert not PYTHON_WORDS.search(message), message
