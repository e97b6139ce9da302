"""Recipes are found by their names from any directory."""

import pytest

from cli.recipes import RECIPES, find_recipe, list_recipes
from gen_lightning.errors import UserError


@pytest.mark.parametrize("name", ["vae/vae", "configs/vae/vae.yaml", "vae/vae.yaml"])
def test_a_recipe_is_found_from_another_directory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == str(RECIPES / "vae/vae.yaml")


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/vae").write_text("{}")
    assert find_recipe("vae/vae") == "vae/vae"


def test_yaml_text_is_not_taken_for_a_name():
    assert find_recipe("name: mine\n") == "name: mine\n"


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"There is no configuration vae/va\. Did you mean vae/vae\?"):
        find_recipe("vae/va")


def test_all_recipes_are_listed():
    assert {f"{name}.yaml" for name in list_recipes()} == {
        path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.yaml")
    }
