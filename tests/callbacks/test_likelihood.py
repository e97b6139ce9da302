"""The importance-sampled likelihood: compared with exact values, and for different batch sizes."""

import math

import numpy as np
import pytest
import torch
from helpers import Examples, GivenModel, compute_exact_log_likelihood, gan, linear_gaussian, run_test, vae

from callbacks import ImportanceSampledLikelihood
from datamodules import MNISTDataModule
from gen_lightning.contracts import refuse_equal_rows
from gen_lightning.vae import Bernoulli, DiscretizedLogistic, Gaussian


class Weights(GivenModel):
    """A model whose log-weights are random, and recorded."""

    data_shape = (1,)
    levels = None
    likelihood_kind = "a density"

    def __init__(self):
        super().__init__()
        self.drawn = []

    def log_weights(self, x, k):
        assert len(x) == 1
        self.drawn.append(x + 3 * torch.randn(k, 1))
        return self.drawn[-1]


def draw_examples(model, n=64):
    torch.manual_seed(1)
    with torch.no_grad():
        return model.decode(model.prior().sample(torch.Size([n]))).sample()


def test_it_is_exact_with_the_exact_posterior():
    model = linear_gaussian()
    x = draw_examples(model)
    rows, exact = run_test(ImportanceSampledLikelihood(100), model, Examples(x)), compute_exact_log_likelihood(model, x)
    for k in (1, 64, 100):
        assert rows[f"bound/{k}"].value == pytest.approx(exact.mean().item(), rel=1e-12)
    assert rows["nll/100"].value == -rows["bound/100"].value
    assert rows["nll/100"].error == pytest.approx(exact.std().item() / 8, rel=1e-9)
    assert (rows["nll/100"].n, rows["nll/100"].better, rows["bound/1"].better) == (64, "lower", "higher")


def test_bounds_increase_with_k_to_the_exact_likelihood():
    model = linear_gaussian(posterior_error=0.15)
    x = draw_examples(model)
    rows = run_test(ImportanceSampledLikelihood(5000), model, Examples(x))
    exact = compute_exact_log_likelihood(model, x).mean().item()
    assert rows["bound/1"].value + 0.1 < rows["bound/64"].value < rows["bound/5000"].value
    assert rows["nll/5000"].value == pytest.approx(-exact, abs=0.01)


def test_the_rows_of_another_split_carry_its_name():
    data, model = MNISTDataModule("digits", binarization="dynamic"), vae()
    callbacks = [ImportanceSampledLikelihood(2, 5), ImportanceSampledLikelihood(2, 5, split="val")]
    run_test(callbacks[0], model, data)
    run_test(callbacks[1], model, data)
    assert list(callbacks[1].rows) == [f"{name}/val" for name in callbacks[0].rows]
    assert callbacks[1].rows["nll/2/val"].value != callbacks[0].rows["nll/2"].value
    assert callbacks[1].rows["nll/2/val"].better == "lower"
    refuse_equal_rows(callbacks)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match=r"split` is 'valid'\. Choose test, val or train\."):
        ImportanceSampledLikelihood(split="valid")


def test_all_bounds_use_the_same_log_weights():
    module = Weights()
    rows = run_test(ImportanceSampledLikelihood(1200), module, Examples(torch.zeros(2, 1)))
    weights = np.exp(torch.cat(module.drawn).view(2, 1200).double().numpy())
    for k, groups in ((1, 1200), (64, 18), (1200, 1)):
        bounds = np.log(weights[:, : groups * k].reshape(2, groups, k).mean(2)).mean(1)
        assert rows[f"bound/{k}"].value == pytest.approx(bounds.mean(), rel=1e-12)


@pytest.mark.parametrize("num_samples", [500, 5000])
def test_latents_are_decoded_in_chunks_for_one_image_at_a_time(num_samples):
    module = Weights()
    run_test(ImportanceSampledLikelihood(num_samples), module, Examples(torch.zeros(30, 1)))
    sizes = [len(log_weights) for log_weights in module.drawn]
    assert max(sizes) == 500
    assert sum(sizes) == 30 * num_samples


@pytest.mark.slow
def test_it_is_bit_identical_for_all_batch_sizes():
    model = vae()
    rows = [
        run_test(
            ImportanceSampledLikelihood(num_samples=70, num_images=30),
            model,
            MNISTDataModule("digits", batch_size=batch_size, binarization="dynamic"),
        )
        for batch_size in (7, 128)
    ]
    assert rows[0] == rows[1]
    images, labels = torch.rand(20, 1, 28, 28).bernoulli(), torch.zeros(20)
    callbacks = [ImportanceSampledLikelihood(70) for _ in range(2)]
    one, other = (
        run_test(callback, model, Examples(images, labels, size))
        for callback, size in zip(callbacks, (3, 20), strict=True)
    )
    assert one == other


def test_latents_are_a_function_of_the_seed_and_leave_the_global_state():
    data = Examples(torch.zeros(5, 1))
    one = run_test(ImportanceSampledLikelihood(10), Weights(), data)
    assert run_test(ImportanceSampledLikelihood(10), Weights(), data) == one
    assert run_test(ImportanceSampledLikelihood(10, seed=1), Weights(), data) != one
    states = []
    for num_samples in (1, 700):
        torch.manual_seed(3)
        run_test(ImportanceSampledLikelihood(num_samples), Weights(), data)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_equal_images_have_different_latents():
    module = Weights()
    run_test(ImportanceSampledLikelihood(10), module, Examples(torch.zeros(5, 1)))
    assert len(torch.cat(module.drawn, 1).unique(dim=1).T) == 5


def test_a_single_sample_has_a_single_bound():
    rows = run_test(ImportanceSampledLikelihood(1), Weights(), Examples(torch.zeros(5, 1)))
    assert rows.keys() == {"bound/1", "nll/1"}


@pytest.mark.parametrize("enable_progress_bar", [True, False])
def test_a_bar_counts_the_images_if_progress_bars_are_enabled(enable_progress_bar, capsys):
    run_test(ImportanceSampledLikelihood(1), Weights(), Examples(torch.zeros(5, 1)), enable_progress_bar)
    assert ("Likelihood: 100%" in capsys.readouterr().err) == enable_progress_bar


@pytest.mark.parametrize(
    ("likelihood", "binarization", "in_bits"),
    [(DiscretizedLogistic, "none", True), (Bernoulli, "static", False), (Gaussian, "none", False)],
)
def test_only_probabilities_of_grey_levels_have_bits_per_dimension(likelihood, binarization, in_bits):
    data = MNISTDataModule("digits", binarization=binarization)
    rows = run_test(ImportanceSampledLikelihood(5, num_images=4), vae(likelihood=likelihood), data)
    assert ("bits_per_dimension/5" in rows) == in_bits
    if in_bits:
        assert rows["bits_per_dimension/5"].value == pytest.approx(rows["nll/5"].value / 784 / math.log(2))
        assert rows["bits_per_dimension/5"].better == "lower"


def test_bits_of_dequantized_images_are_bits_of_their_levels():
    """A uniform density has 0 nats and corresponds to a guess among 256 levels, 8 bits (Theis et al. 2016)."""
    data = MNISTDataModule("digits", binarization="none", dequantize=True)
    rows = run_test(ImportanceSampledLikelihood(5, num_images=4), vae(likelihood=Gaussian), data)
    assert rows["bits_per_dimension/5"].value == pytest.approx(rows["nll/5"].value / 784 / math.log(2) + 8)


def test_a_model_without_a_likelihood_is_refused():
    with pytest.raises(
        ValueError,
        match="needs a model with a likelihood that importance sampling can estimate, but GANModule has no `levels`",
    ):
        run_test(ImportanceSampledLikelihood(), gan(), MNISTDataModule("digits"))


def test_a_data_module_without_examples_is_refused():
    with pytest.raises(
        ValueError, match="needs a data module with whole splits of labelled examples, but there is none"
    ):
        run_test(ImportanceSampledLikelihood(), Weights(), [torch.zeros(2, 1)])


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"num_images": 1}])
def test_numbers_that_are_too_small_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"`ImportanceSampledLikelihood\.{name}` is .*\. Choose at least"):
        ImportanceSampledLikelihood(**arguments)
