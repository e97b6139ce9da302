"""Gradient penalties with closed forms."""

import pytest
import torch
from helpers import gan
from torch import nn

from gen_lightning.gan import R1, DiscriminatorPass
from gen_lightning.networks import DCGANDiscriminator, DCGANGenerator


def penalty(regularizer, discriminator, real):
    real = real.requires_grad_()
    return regularizer(DiscriminatorPass(discriminator, real, real, discriminator(real), discriminator(real), 0))


def test_r1_of_a_linear_discriminator():
    """gamma / 2 |w|^2 whatever the data, and gamma w for its gradient."""
    weight = nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    value = penalty(R1(gamma=6.0), lambda x: x @ weight, torch.randn(5, 2, dtype=torch.float64))
    assert value.item() == pytest.approx(6 / 2 * 25)
    value.backward()
    torch.testing.assert_close(weight.grad, 6 * weight.detach())


def test_r1_takes_the_norm_of_each_example():
    """D(x) = |x|^2 / 2 has the gradient x: the mean of the squared norms, not the squared norm of the mean."""
    real = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 2.0]]])
    value = penalty(R1(gamma=2.0), lambda x: x.square().sum((1, 2)) / 2, real)
    assert value.item() == pytest.approx((1 + 1 + 4) / 3)


def test_a_penalty_of_each_example_refuses_batch_normalization():
    with pytest.raises(ValueError, match="batch normalization mixes them"):
        gan(generator=DCGANGenerator, discriminator=DCGANDiscriminator, regularizers=[R1()])


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="told apart by their names"):
        gan(regularizers=[R1(1.0), R1(2.0)])


def test_r1_refuses_a_negative_weight():
    with pytest.raises(ValueError, match="choose 0 or more"):
        R1(gamma=-1.0)
