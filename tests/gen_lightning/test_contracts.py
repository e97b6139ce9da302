"""Contracts: which objects fulfil them, and how each callback refuses a model or a data module that lacks a member."""

import inspect
import re
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import gan, vae
from lightning.pytorch import Trainer
from torch import nn
from torch.distributions import Normal

import callbacks
from datamodules import (
    ArrayDataModule,
    GaussianMixtureDataModule,
    MNISTDataModule,
    Ring,
    SignalDataModule,
    StackedMNISTDataModule,
    TableDataModule,
    TextDataModule,
)
from gen_lightning import contracts
from gen_lightning.errors import UserError
from gen_lightning.gan import LatentCodes
from gen_lightning.networks import MLPEncoder
from gen_lightning.vae import BottomUp, Gaussian, TopDown

MODEL = {
    "data_shape": (1, 28, 28),
    "num_classes": None,
    "latent_dim": 2,
    "levels": None,
    "likelihood_kind": "a density",
    "discriminator": nn.Identity(),
    "codes": None,
}
MODEL |= dict.fromkeys(
    ("sample", "evaluating", "get_condition", "get_inputs", "sample_latents", "encode", "reconstruct", "log_weights")
)
DATA = {
    "images": lambda *_: iter([torch.rand(200, 1, 28, 28)]),
    "examples": None,
    "points": None,
    "mixture": Ring(),
    "columns": [],
    "target": None,
    "signals": None,
}
CODES = {"codes": SimpleNamespace(categories=(10,), classify=None, traverse=None)}

# What a callback needs of a model and of a data module, as in the sentences, and the members that offer it.
GENERATIVE = ("model", "a generative model", ("data_shape", "num_classes", "sample", "evaluating", "get_inputs"))
LATENT = ("model", "a model that generates data from latent variables", ("latent_dim", "sample_latents"))
POSTERIOR = ("model", "a model that infers latent variables from data", ("encode",))
EXAMPLES = ("data", "a data module with whole splits of labelled examples", ("examples",))
# A data module lacks a member that its author can add.
SIGNATURES = {
    "columns": "columns",
    "target": "target",
    "images": "images(self, split)",
    "examples": "examples(self, split, n=None)",
    "points": "points(self, split)",
    "signals": "signals(self, split)",
}
TABLE = ("data", "a data module with the encoded rows of a table", ("columns", "target"))
IMAGES = ("data", "a data module with whole splits of images", ("images",))
SIGNALS = ("data", "a data module with whole splits of one-dimensional series", ("signals",))
NEEDS = {
    "CodeClasses": [("model", "a model with latent codes", ("codes",)), EXAMPLES],
    "CollapseMonitor": [("model", "a model with a discriminator", ("discriminator", "sample"))],
    "ConditionalAccuracy": [GENERATIVE, IMAGES, EXAMPLES],
    "Evaluation": [GENERATIVE, IMAGES],
    "ImportanceSampledLikelihood": [
        (
            "model",
            "a model with a likelihood that importance sampling can estimate",
            ("log_weights", "levels", "likelihood_kind", "get_inputs"),
        ),
        EXAMPLES,
    ],
    "LatentCodeGrid": [GENERATIVE, ("model", "a model with latent codes", ("codes",)), LATENT],
    "LatentInterpolations": [GENERATIVE, LATENT],
    "LatentManifold": [GENERATIVE, LATENT],
    "LatentMetrics": [POSTERIOR, EXAMPLES],
    "LatentTraversals": [GENERATIVE, LATENT, POSTERIOR, EXAMPLES],
    "ModeCoverage": [GENERATIVE],
    "Reconstructions": [GENERATIVE, ("model", "a model that reconstructs data", ("reconstruct",))],
    "SampleGrid": [GENERATIVE],
    "SignalEvaluation": [GENERATIVE, SIGNALS, EXAMPLES],
    "SignalPlot": [GENERATIVE, SIGNALS],
    "SignalReconstructions": [GENERATIVE, ("model", "a model that reconstructs data", ("reconstruct",))],
    "ScatterPlot": [GENERATIVE, ("data", "a data module with whole splits of points", ("points",))],
    "TableEvaluation": [GENERATIVE, TABLE],
}
CASES = [
    (name, owner, kind, member) for name, needs in NEEDS.items() for owner, kind, members in needs for member in members
]
# Values of members that a callback needs.
VALUES = {
    "CodeClasses": CODES,
    "ConditionalAccuracy": {"num_classes": 10},
    "LatentCodeGrid": CODES,
    "ScatterPlot": {"data_shape": (2,)},
    "SignalPlot": {"data_shape": (1, 8)},
    "SignalReconstructions": {"data_shape": (1, 8)},
}


def set_up(name: str, model: dict, data: dict | None) -> None:
    """Call `setup` of a callback for a model and a data module with these members."""
    trainer = SimpleNamespace(
        datamodule=None if data is None else type("Data", (), data)(),
        log_dir="unused",
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    getattr(callbacks, name)().setup(trainer, type("Model", (), model | VALUES.get(name, {}))(), "test")


def drop(members: dict, name: str) -> dict:
    return {other: value for other, value in members.items() if other != name}


@pytest.mark.parametrize("name", NEEDS)
def test_a_callback_accepts_a_model_and_a_data_module_with_all_members(name):
    set_up(name, MODEL, DATA)


@pytest.mark.parametrize(("name", "owner", "kind", "member"), CASES)
def test_a_callback_refuses_a_missing_member_in_one_sentence(name, owner, kind, member, monkeypatch):
    monkeypatch.setitem(VALUES, name, drop(VALUES.get(name, {}), member))
    members = {"model": (drop(MODEL, member), DATA), "data": (MODEL, drop(DATA, member))}[owner]
    advice = f"Define `{SIGNATURES[member]}` in it" if owner == "data" else "Choose another one"
    sentence = f"{name} needs {kind}, but {owner.title()} has no `{member}`. {advice}, or do without {name}."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        set_up(name, *members)


@pytest.mark.parametrize("name", [name for name, needs in NEEDS.items() if IMAGES in needs or EXAMPLES in needs])
def test_a_callback_refuses_loaders_without_a_data_module(name):
    kind, (member,) = next((kind, members) for owner, kind, members in NEEDS[name] if owner == "data")
    advice = f"Give a LightningDataModule with `{SIGNATURES[member]}`, or do without {name}."
    with pytest.raises(UserError, match=f"^{re.escape(f'{name} needs {kind}, but there is none. {advice}')}$"):
        set_up(name, MODEL, None)


def test_mode_coverage_refuses_data_without_known_modes():
    with pytest.raises(UserError, match="ModeCoverage needs data with known modes, but Data has no `mixture` and no"):
        set_up("ModeCoverage", MODEL, drop(DATA, "mixture"))


def test_mode_coverage_refuses_loaders_without_a_data_module():
    with pytest.raises(UserError, match=r"ModeCoverage needs data with known modes, but there are none\. Choose"):
        set_up("ModeCoverage", MODEL, None)


def test_the_advice_for_a_property_or_an_attribute_is_its_name():
    for contract, name in ((contracts.ShapedData, "shape"), (contracts.MixtureData, "mixture")):
        with pytest.raises(UserError, match=f"but object has no `{name}`. Define `{name}` in it, or do without"):
            contracts.require(object(), contract, "Anything")


def test_several_missing_members_are_enumerated():
    with pytest.raises(UserError, match=r"but Model has no `data_shape`, `num_classes` or `sample`\. Choose"):
        set_up("Evaluation", drop(drop(drop(MODEL, "data_shape"), "num_classes"), "sample"), DATA)


def layered_vae():
    layers = {"layer_dims": [3, 1]}
    return vae(posterior=partial(BottomUp, **layers), prior=partial(TopDown, **layers), latent_dim=4)


def infogan():
    return gan(codes=partial(LatentCodes, encoder=MLPEncoder, categories=(4,)))


def stacks():
    data = StackedMNISTDataModule("digits")
    data.setup("fit")
    return data


def table():
    path = Path(tempfile.mkdtemp(), "table.npy")
    np.save(path, np.zeros((9, 2)))
    return ArrayDataModule(str(path))


def csv_table():
    path = Path(tempfile.mkdtemp(), "table.csv")
    path.write_text("a,b\n" + "1,x\n2,y\n" * 20)
    return TableDataModule(str(path))


def series():
    path = Path(tempfile.mkdtemp(), "series.npy")
    np.save(path, np.zeros((9, 8)))
    return SignalDataModule(str(path))


def text():
    path = Path(tempfile.mkdtemp(), "text.txt")
    path.write_text("".join(f"line {number}\n" for number in range(20)))
    return TextDataModule(str(path))


POINT_CONTRACTS = {"ShapedData", "IdentifiedData", "ExampleData", "PointData", "MixtureData"}
IMAGE_CONTRACTS = {"ShapedData", "IdentifiedData", "ImageData", "ExampleData", "DequantizableData"}
# Every class of the project that fulfils a contract, with all contracts that it fulfils.
OFFERS = [
    (gan, {"GenerativeModel", "LatentModel", "AdversarialModel", "CodeModel"}),
    (
        vae,
        {"GenerativeModel", "LatentModel", "PosteriorModel", "ReconstructionModel", "PriorModel", "LikelihoodModel"},
    ),
    (lambda: infogan().codes, {"LatentCodes"}),
    (lambda: layered_vae().prior(), {"LayeredDistribution"}),
    (lambda: layered_vae().encode(torch.zeros(2, 1, 28, 28)), {"LayeredDistribution"}),
    (lambda: Normal(0.0, 1.0), set()),
    (lambda: MNISTDataModule("digits"), IMAGE_CONTRACTS),
    (stacks, IMAGE_CONTRACTS | {"StackedData"}),
    (lambda: GaussianMixtureDataModule(Ring()), POINT_CONTRACTS),
    (table, {"ShapedData", "IdentifiedData", "ExampleData", "ScaledData"}),
    (csv_table, {"ShapedData", "IdentifiedData", "ExampleData", "TableData", "WrittenData"}),
    (series, {"ShapedData", "IdentifiedData", "ExampleData", "ScaledData", "SignalData"}),
    (text, {"ShapedData", "IdentifiedData", "ExampleData", "TextData", "WrittenData"}),
    (Ring, {"Mixture"}),
    (lambda: Gaussian((2,)), {"InitializedNetwork"}),
    (callbacks.LatentMetrics, {"Measurement", "IdentifiedMeasurement"}),
    (callbacks.SampleGrid, set()),
]
PROTOCOLS = {
    name: value
    for name, value in vars(contracts).items()
    if getattr(value, "_is_protocol", False) and value.__module__ == contracts.__name__
}


@pytest.mark.parametrize(("make", "expected"), OFFERS)
def test_the_classes_of_the_project_fulfil_their_contracts(make, expected):
    candidate = make()
    fulfilled = {name for name, protocol in PROTOCOLS.items() if contracts.offers(candidate, protocol)}
    assert fulfilled == expected


def test_every_contract_is_fulfilled_by_a_class_of_the_project():
    assert PROTOCOLS.keys() - {"TrainerSettings"} == set().union(*(names for _, names in OFFERS))


@pytest.mark.parametrize(("make", "names"), OFFERS)
def test_methods_have_the_parameters_of_their_contract(make, names):
    """A caller may pass any parameter of the contract by name."""
    candidate = make()
    for protocol in (PROTOCOLS[name] for name in names):
        for base in protocol.__mro__:
            for method, function in vars(base).items():
                if inspect.isfunction(function) and not method.startswith("_") and base in PROTOCOLS.values():
                    expected = list(inspect.signature(function).parameters)[1:]
                    offered = getattr(candidate, method)
                    # An nn.Module that is called as a method, such as a prior, has its parameters in `forward`.
                    offered = offered.forward if isinstance(offered, nn.Module) else offered
                    assert list(inspect.signature(offered).parameters)[: len(expected)] == expected, method


def test_require_returns_the_object_itself():
    data = MNISTDataModule("digits")
    assert contracts.require(data, contracts.ImageData, "Anything") is data


def test_a_trainer_without_a_data_module_has_none():
    settings = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "fast_dev_run": 2}
    assert contracts.find_datamodule(Trainer(**settings)) is None


def test_a_trainer_has_the_settings_that_lightning_does_not_declare():
    """If this fails, Lightning has renamed an attribute of the Trainer: see contracts.TrainerSettings."""
    callback = callbacks.SampleGrid()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    settings = contracts.get_settings(Trainer(log_every_n_steps=7, callbacks=[callback], **quiet))
    assert (settings.log_every_n_steps, settings.fast_dev_run) == (7, False)
    assert callback in settings.callbacks
