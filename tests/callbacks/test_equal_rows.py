"""Two callbacks that write one row of the report are refused before anything runs."""

import pytest
from helpers import gan, vae
from lightning.pytorch import Trainer

from callbacks import (
    CodeClasses,
    ConditionalAccuracy,
    Evaluation,
    ImportanceSampledLikelihood,
    LatentMetrics,
    ModeCoverage,
    SampleGrid,
)
from datamodules import GaussianMixtureDataModule, MNISTDataModule, Ring
from gen_lightning.contracts import refuse_equal_rows
from gen_lightning.metrics import MNISTFeatures


@pytest.fixture(scope="module")
def digits():
    return MNISTDataModule("digits", binarization="dynamic")


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_two_likelihoods_are_refused_before_anything_runs(verb, digits):
    callbacks = [ImportanceSampledLikelihood(10_000), ImportanceSampledLikelihood(200, 10)]
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks)
    with pytest.raises(ValueError, match=r"callbacks \(ImportanceSampledLikelihood\) write the row bound/1 of"):
        getattr(trainer, verb)(vae(data_shape=digits.shape), digits)
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("callbacks", "row"),
    [
        ([Evaluation(), Evaluation(num_samples=50)], "kid/mnist_cnn"),
        ([LatentMetrics(), LatentMetrics()], "active_units"),
        ([ConditionalAccuracy(), ConditionalAccuracy(20)], "conditional_accuracy/mnist_cnn"),
        ([CodeClasses(), CodeClasses()], "code_error"),
    ],
    ids=["evaluation", "latents", "accuracy", "codes"],
)
def test_callbacks_that_write_one_row_are_refused(callbacks, row):
    with pytest.raises(ValueError, match=f"write the row {row} of the report"):
        refuse_equal_rows([SampleGrid(), *callbacks])


def test_two_mode_coverages_are_refused():
    data = GaussianMixtureDataModule(Ring(), num_samples=200, num_held_out=100)
    callbacks = [ModeCoverage(100), ModeCoverage(200)]
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks)
    with pytest.raises(ValueError, match="write the row modes of the report"):
        trainer.fit(gan(data_shape=data.shape), data)


def test_callbacks_with_different_rows_are_accepted():
    extractors = (MNISTFeatures(), MNISTFeatures())
    extractors[1].name = "other"
    pairs = [[Evaluation(one), ConditionalAccuracy(extractor=one)] for one in extractors]
    refuse_equal_rows([*pairs[0], *pairs[1], ImportanceSampledLikelihood(), LatentMetrics(), CodeClasses()])
