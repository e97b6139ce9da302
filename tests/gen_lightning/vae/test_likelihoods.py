"""Likelihoods are probabilities of the data that they accept, and refuse others."""

import itertools

import pytest
import torch

from gen_lightning.vae import Bernoulli


def test_bernoulli_sums_to_one_over_all_images():
    likelihood = Bernoulli((1, 2, 2))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
    distribution = likelihood(torch.randn(1, 2, 2, dtype=torch.float64) * 3)
    assert distribution.log_prob(images).exp().sum().item() == pytest.approx(1)


def test_bernoulli_sums_over_dimensions_and_broadcasts_over_samples():
    likelihood = Bernoulli((1, 4, 4))
    logits, images = torch.randn(5, 3, 1, 4, 4), torch.rand(3, 1, 4, 4).bernoulli()
    probabilities = logits.double().sigmoid()
    expected = torch.where(images == 1, probabilities, 1 - probabilities).log().sum((2, 3, 4))
    torch.testing.assert_close(likelihood(logits).log_prob(images).double(), expected, rtol=1e-5, atol=1e-5)


def test_bernoulli_refuses_grey_pixels():
    likelihood = Bernoulli((1, 2, 2))
    likelihood.check_data(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"--data\.binarization=dynamic"):
        likelihood.check_data(torch.tensor([0.0, 0.5]))
