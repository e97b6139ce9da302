"""Recipes: the configuration files that come with the package."""

from difflib import get_close_matches
from pathlib import Path

from gen_lightning.errors import UserError

RECIPES = Path(__file__).parents[1] / "configs"


def find_recipe(config: str) -> str:
    """Return the file of a `--config` argument.

    A file relative to the working directory comes first. Otherwise the argument names a recipe of the package, such as
    `vae/vae` or `configs/vae/vae.yaml`. YAML text is returned as it is.

    Raises:
        UserError: there is neither such a file nor such a recipe.
    """
    if "\n" in config or "{" in config or Path(config).is_file():
        return config
    name = config.removeprefix("configs/").removesuffix(".yaml")
    recipe = RECIPES / f"{name}.yaml"
    if recipe.is_file():
        return str(recipe)
    matches = get_close_matches(name, list_recipes(), n=1)
    hint = f"Did you mean {matches[0]}?" if matches else "Give a file, or a recipe such as vae/vae."
    raise UserError(f"There is no configuration {config}. {hint}")


def list_recipes() -> list[str]:
    """Return the names of all recipes, such as `vae/vae`, in order."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))
