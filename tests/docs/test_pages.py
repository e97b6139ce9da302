"""The pages: their Python runs, their commands and names exist, their links lead somewhere, and their tables fit."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import callbacks
import datamodules
import gen_lightning
from benchmarks.report import OPENING, renew_tables
from benchmarks.run import read_results
from cli.command_line import CommandLine
from cli.recipes import list_recipes
from cli.trainer import Trainer
from gen_lightning import GANModule, VAEModule, contracts, errors, gan, metrics, networks, optimizers, schedules, vae

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = [gen_lightning, gan, vae, networks, metrics, datamodules, callbacks]
MODULES = [*PACKAGES, schedules, optimizers, contracts, errors]
PATHS = r"`((?:benchmarks|cli|configs|docs|tests|gen_lightning|datamodules|callbacks)/[\w./*-]*|[A-Z]+\.md)`"

PLACEHOLDERS = {"configs/RECIPE.yaml", "configs/vae/burda/RECIPE"}
PROGRAMS = (".venv/bin/", "python train.py", "srun .venv/bin/", "WANDB_MODE=")
# Their Python trains for 20 epochs.
SLOW = {README, ROOT / "docs" / "getting_started.md"}
# Names in CamelCase of other libraries, of the pages' own examples, and the beginnings and ends of families of names.
FOREIGN = {"LightningDataModule", "Encoder", "Decoder", "Generator", "Discriminator"}


def blocks(page, language):
    """Return the code blocks of a page in one language, in order; "" is a block without a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def tables(page):
    """Return the rows of all tables of a page."""
    return [line for line in page.read_text().splitlines() if line.startswith("|")]


def commands(page):
    """Return the arguments of each train.py command of a page, without comments."""
    text = "\n".join(blocks(page, "")).replace("\\\n", " ")
    lines = [line.partition(" #")[0] for line in text.splitlines() if line.startswith(PROGRAMS)]
    return [line.partition("train.py ")[2].split() for line in lines if "train.py " in line]


def identify(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [], id=identify(page))
        for page in PAGES
        if blocks(page, "python")
    ],
)
@pytest.mark.usefixtures("empty_directory")
def test_python_of_a_page_runs_in_order(page):
    namespace = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{identify(page)}, block {number}", "exec"), namespace)


def test_readme_is_short():
    assert len(README.read_text().split()) <= 1500
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_tables_have_at_most_100_columns(page):
    assert [row for row in tables(page) if len(row) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)\s]+)\)|^\[\w+\]: (\S+)$", page.read_text(), re.MULTILINE)
    paths = [(target or reference).partition("#")[0] for target, reference in targets]
    missing = [path for path in paths if path and "://" not in path and not (page.parent / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_named_files_exist(page):
    names = set(re.findall(PATHS, page.read_text())) - PLACEHOLDERS
    assert [name for name in names if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_named_recipes_exist(page):
    names = set(re.findall(r"`((?:gan|vae)/[\w/]+)`", page.read_text()))
    assert names <= set(list_recipes())


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_dotted_names_exist(page):
    names = re.findall(
        r"(?<![\w.])(?:gen_lightning|callbacks|datamodules|benchmarks)(?:\.[A-Za-z_]\w*)+", page.read_text()
    )
    assert [name for name in set(names) if not resolves(name)] == []


def resolves(name):
    """Return whether a dotted name is a module of the project, or an attribute of one."""
    if Path(ROOT, *name.split(".")).with_suffix(".py").exists():
        return True
    module, _, attribute = name.rpartition(".")
    return name.endswith((".py", ".md", ".jsonl")) or hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("page", [page for page in PAGES if "components" in page.parts], ids=identify)
def test_class_names_of_components_exist(page):
    own = set(re.findall(r"^class (\w+)", page.read_text(), re.MULTILINE))
    names = set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", page.read_text())) - own - FOREIGN
    assert [name for name in names if not any(hasattr(module, name) for module in MODULES)] == []


def test_every_public_name_is_in_the_api_reference():
    text = "".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    documented = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    assert all(resolves(name) for name in documented)
    names = {name.rpartition(".")[2] for name in documented}
    public = {name for module in PACKAGES for name in module.__all__ if not name.startswith("_")}
    assert public - names == set()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=identify)
def test_commands_have_known_verbs_options_and_recipes(page):
    for verb, *arguments in commands(page):
        assert verb in {*CommandLine.subcommands(), "compare"}
        options = [one.partition("=")[0].rstrip("+") for one in arguments if one.startswith("--")]
        assert [name for name in options if not is_option(name)] == []
        recipes = {one for one in arguments if one.startswith("configs/")} - PLACEHOLDERS
        assert [recipe for recipe in recipes if not (ROOT / recipe).is_file()] == []


def is_option(option):
    """Return whether an option of the command line exists; names after the second dot are not looked at."""
    group, _, name = option.removeprefix("--").partition(".")
    name = name.partition(".")[0]
    groups = {
        "trainer": [Trainer],
        "model": [GANModule, VAEModule],
        "data": [getattr(datamodules, name) for name in datamodules.__all__ if name.endswith("DataModule")],
        "checkpoint": [callbacks.LastCheckpoint],
        "extractor": [metrics.ClassifierFeatures, metrics.InceptionFeatures],
    }
    if name:
        return any(name in inspect.signature(one).parameters for one in groups[group])
    methods = (Trainer.test, Trainer.sample, Trainer.train_extractor)
    verbs = {name for method in methods for name in inspect.signature(method).parameters}
    return group in verbs | {"config", "resume", "data", "float32_matmul_precision", "seed_everything", "help", "trust"}


@pytest.mark.parametrize("page", [page for page in PAGES if OPENING.search(page.read_text())], ids=identify)
def test_tables_of_results_are_those_of_the_results_file(page):
    assert renew_tables(page, read_results(ROOT / "benchmarks" / "results.jsonl")) == page.read_text()
