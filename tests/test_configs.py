"""Every recipe parses, is complete, and trains; the recipes of a family differ only where they should."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import CONFIGS, write_images

RECIPES = sorted(CONFIGS.rglob("*.yaml"))
MIXTURE_METHODS = {"name", "model.init_args.discriminator", "model.init_args.loss", "model.init_args.regularizers"}
MIXTURES = {"name", "data.init_args.mixture"}
LAYERS = {"name", "model.init_args.latent_dim", "model.init_args.posterior", "model.init_args.prior"}
FAST = {
    "name",
    "float32_matmul_precision",
    "trainer.max_epochs",
    "trainer.check_val_every_n_epoch",
    "trainer.log_every_n_steps",
    "trainer.callbacks.0.init_args.every_n_iterations",
    "data.init_args.batch_size",
    "model.init_args.objective",
    "model.init_args.optimizer",
    "model.init_args.schedules",
}
# The patterns of a family's recipes, and the keys that may differ between them. All other keys are equal.
FAMILIES = {
    "losses": (["gan/losses/*"], {"name", "model.init_args.loss"}),
    "grid": (["gan/mixtures/grid_*"], MIXTURE_METHODS),
    "ring": (["gan/mixtures/ring_*"], MIXTURE_METHODS),
    "gan mixtures": (["gan/mixtures/*_gan"], MIXTURES),
    "pacgan2 mixtures": (["gan/mixtures/*_pacgan2"], MIXTURES),
    "wgan_gp mixtures": (["gan/mixtures/*_wgan_gp"], MIXTURES),
    "relativistic mixtures": (["gan/mixtures/*_relativistic"], {*MIXTURES, "model.init_args.regularizers"}),
    "burda": (["vae/burda/one_layer", "vae/burda/two_layers"], LAYERS),
    "fast burda": (["vae/burda/one_layer_fast", "vae/burda/two_layers_fast"], LAYERS),
    "one layer": (["vae/burda/one_layer", "vae/burda/one_layer_fast"], FAST),
    "two layers": (["vae/burda/two_layers", "vae/burda/two_layers_fast"], FAST),
    "image folders": (
        ["gan/image_folder", "gan/image_folder_r3gan"],
        {"name", "model.init_args.generator", "model.init_args.discriminator"},
    ),
    "image folders and SNGAN": (
        ["gan/image_folder", "gan/image_folder_sngan"],
        {
            "name",
            "model.init_args.generator",
            "model.init_args.discriminator",
            "model.init_args.loss",
            "model.init_args.regularizers",
            "model.init_args.generator_optimizer",
            "model.init_args.discriminator_optimizer",
        },
    ),
    "VAEs of image folders": (
        ["vae/image_folder", "vae/image_folder_autoregressive"],
        {"name", "model.init_args.likelihood.class_path"},
    ),
    "grey": (
        ["vae/grey", "vae/fashion"],
        {"name", "data.init_args.source", "trainer.callbacks.6.init_args.num_images"},
    ),
}


def name(recipe):
    return str(recipe.relative_to(CONFIGS).with_suffix(""))


def read_values(config, key=""):
    """Return the values of a configuration by dotted key; items of a list have their position as key."""
    items = enumerate(config) if isinstance(config, list) else config.items() if isinstance(config, dict) else None
    if not items:
        return {key: config}
    return {name: value for k, v in items for name, value in read_values(v, f"{key}.{k}".lstrip(".")).items()}


def write_data(path):
    if path.suffix == ".csv":
        path.write_text("height,city\n" + "1.5,Bern\n1.7,Tokyo\n1.9,Bern\n" * 20)
    elif path.suffix == ".txt":
        path.write_text("".join(f"line {number}\n" for number in range(100)))
    else:
        np.savez(path, data=np.random.default_rng(0).normal(size=(40, 8)))


def train_one_batch(fit, recipe, *options):
    data_options = yaml.safe_load(recipe.read_text())["data"]["init_args"]
    # The path of a file of the system is replaced.
    is_absolute = data_options.get("path", "").startswith("/")
    if "path" in data_options:
        write_data(Path("lines.txt" if is_absolute else data_options["path"]))
    if data_options.get("root") == "pictures":
        write_images(Path("pictures"), 20)
    if data_options.get("source") == "cifar10":
        pytest.skip("the files of CIFAR-10 are not at hand")
    folder = fit(
        "--config",
        str(recipe),
        *["--data.source=digits"] * ("source" in data_options),
        *["--data.path=lines.txt"] * is_absolute,
        "--data.batch_size=16",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.logger=false",
        *options,
    )
    return folder / "checkpoints/last.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_trains_one_batch(fit, recipe):
    assert train_one_batch(fit, recipe).is_file()


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["gan/dcgan", "vae/vae"])
def test_trains_one_batch_on_a_gpu(fit, recipe):
    options = ("--trainer.accelerator=gpu", "--trainer.devices=1")
    assert train_one_batch(fit, CONFIGS / f"{recipe}.yaml", *options).is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_of_a_family_differ_only_in_the_named_keys(family):
    patterns, keys = FAMILIES[family]
    paths = [path for pattern in patterns for path in sorted(CONFIGS.glob(f"{pattern}.yaml"))]
    assert len(paths) > 1
    first, *others = [read_values(yaml.safe_load(path.read_text())) for path in paths]
    absent = object()
    pairs = [(key, other) for other in others for key in {*first, *other}]
    different = {key for key, other in pairs if first.get(key, absent) != other.get(key, absent)}
    outside = {key for key in different if not any(f"{key}.".startswith(f"{allowed}.") for allowed in keys)}
    assert not outside
    # A key that no longer differs leaves the list.
    assert all(any(f"{key}.".startswith(f"{allowed}.") for key in different) for allowed in keys)


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
