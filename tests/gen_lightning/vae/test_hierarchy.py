"""Latents in layers, against torch's distributions and against models of one layer.

test_linear_gaussian.py tests them on models whose likelihood is known exactly.
"""

from functools import partial

import pytest
import torch
from helpers import vae
from torch.distributions import Bernoulli, Independent, Normal

from gen_lightning.networks import MLPDecoder, MLPEncoder, ResidualDecoder, ResidualEncoder
from gen_lightning.vae import (
    ELBO,
    IWAE,
    STL,
    Beta,
    BetaTC,
    BottomUp,
    Capacity,
    DiagonalGaussian,
    DReG,
    FreeBits,
    Ladder,
    MixtureOfGaussians,
    ResidualTopDown,
    StandardNormal,
    Terms,
    TopDown,
    VampPrior,
)
from gen_lightning.vae.hierarchy import merge

LAYERS = (4, 3, 2)
PIXELS = (1, 2, 2)


def model(**arguments):
    torch.manual_seed(0)
    layers = {"posterior": partial(BottomUp, layer_dims=LAYERS), "prior": partial(TopDown, layer_dims=LAYERS)}
    return vae(**layers | {"data_shape": PIXELS, "latent_dim": sum(LAYERS)} | arguments).double()


def maps(**arguments):
    """Return a model of 8 x 8 images with three layers of 4 x 4 maps and random weights in every parameter."""
    torch.manual_seed(0)
    small = {"width": 4, "num_blocks": 1}
    residual = {
        "encoder": partial(ResidualEncoder, **small),
        "decoder": partial(ResidualDecoder, **small),
        "posterior": Ladder,
        "prior": partial(ResidualTopDown, num_layers=3, map_size=4, **small),
    }
    model = vae(**residual | {"data_shape": (1, 8, 8), "latent_dim": 3 * 2 * 16} | arguments).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(5, *PIXELS, dtype=torch.float64).bernoulli()


def normal(features):
    mean, log_variance = features.tensor_split(2, -1)
    return Independent(Normal(mean, (log_variance / 2).exp()), 1)


@torch.no_grad()
def test_log_weights_equal_the_sum_of_the_factors(x):
    """p(z_3) p(z_2 | z_3) p(z_1 | z_2) p(x | z_1) / (q(z_1 | x) q(z_2 | z_1) q(z_3 | z_2)), with torch's densities."""
    three = model()
    torch.manual_seed(2)
    log_weights = three.log_weights(x, 6)
    torch.manual_seed(2)
    below, above = three.posterior.networks, three.prior.networks
    q1 = normal(three.encoder(x))
    z1 = q1.rsample((6,))
    q2 = normal(torch.stack([below[0](z) for z in z1]))
    z2 = q2.rsample()
    q3 = normal(torch.stack([below[1](z) for z in z2]))
    z3 = q3.rsample()
    p1 = normal(torch.stack([above[0](z) for z in z2]))
    p2 = normal(torch.stack([above[1](z) for z in z3]))
    p3 = Independent(Normal(torch.zeros_like(z3), torch.ones_like(z3)), 1)
    pixels = Independent(Bernoulli(logits=torch.stack([three.decoder(z) for z in z1])), 3)
    log_joint = pixels.log_prob(x) + p1.log_prob(z1) + p2.log_prob(z2) + p3.log_prob(z3)
    expected = log_joint - q1.log_prob(z1) - q2.log_prob(z2) - q3.log_prob(z3)
    torch.testing.assert_close(log_weights, expected)


@torch.no_grad()
def test_one_layer_equals_the_diagonal_gaussian_and_the_standard_normal(x):
    one = model(posterior=partial(BottomUp, layer_dims=(8,)), prior=partial(TopDown, layer_dims=(8,)), latent_dim=8)
    plain = model(posterior=DiagonalGaussian, prior=StandardNormal, latent_dim=8)
    plain.load_state_dict(one.state_dict())
    torch.manual_seed(2)
    log_weights = one.log_weights(x, 6)
    torch.manual_seed(2)
    torch.testing.assert_close(plain.log_weights(x, 6), log_weights)


@torch.no_grad()
def test_the_decoder_sees_only_the_layer_next_to_the_data(x):
    three = model()
    z = three.encode(x).sample()
    other = torch.cat([z[:, :4], torch.randn(5, 5, dtype=torch.float64)], 1)
    assert torch.equal(three.decode(z).mean, three.decode(other).mean)
    assert not torch.equal(three.prior().log_prob(z), three.prior().log_prob(other))


@pytest.mark.slow
@torch.no_grad()
def test_samples_follow_the_density(x):
    """E[q / p] under p is 1, for two hierarchies of opposite order (law of large numbers)."""
    three = model()
    posterior, prior = three.encode(x[:1]), three.prior()
    z = prior.sample(torch.Size([40_000]))
    assert z.shape == (40_000, 9)
    ratio = (posterior.log_prob(z) - prior.log_prob(z)).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / 200


@torch.no_grad()
def test_densities_broadcast_over_posteriors(x):
    """Each latent under each posterior, as the mutual information needs it."""
    posterior = model().encode(x)
    z = posterior.sample()
    every = posterior.log_prob(z.unsqueeze(1))
    assert every.shape == (5, 5)
    torch.testing.assert_close(every.diagonal(), posterior.log_prob(z))


@pytest.mark.parametrize("objective", [IWAE(3), STL(3), DReG(3), Beta(2.0), Capacity(1.0)])
@pytest.mark.parametrize("make", [model, partial(model, posterior=Ladder), maps], ids=["bottom_up", "ladder", "maps"])
def test_objectives_train_all_layers(make, objective):
    three = make()
    x = torch.rand(5, *three.data_shape, dtype=torch.float64).bernoulli()
    objective(three.terms(x, objective.num_samples), 0).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in three.parameters())


def test_merged_gaussians_are_proportional_to_the_product_of_the_densities():
    one, other = (torch.randn(5, 6, dtype=torch.float64) for _ in range(2))
    z = torch.randn(100, 5, 3, dtype=torch.float64)
    merged = merge(normal(one), other)
    difference = normal(one).log_prob(z) + normal(other).log_prob(z) - merged.log_prob(z)
    torch.testing.assert_close(difference, difference[:1].expand(100, 5))


def test_a_message_of_low_precision_leaves_the_prior_and_one_of_high_precision_replaces_it():
    """The gradients are finite in float32."""
    prior = normal(torch.tensor([1.0, 2.0, 0.4, -0.6]))
    message = torch.tensor([-3.0, 5.0, 300.0, -100.0], requires_grad=True)
    merged = merge(prior, message)
    torch.testing.assert_close(merged.mean, torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(merged.variance, torch.tensor([0.4, -100.0]).exp())
    (gradient,) = torch.autograd.grad(merged.rsample().sum(), message)
    assert gradient.isfinite().all()


@torch.no_grad()
def test_log_weights_of_a_ladder_equal_the_sum_of_the_factors(x):
    """The precisions of the prior, given the layer above, and of the encoder add up (Sønderby et al. 2016)."""
    two = model(posterior=Ladder, prior=partial(TopDown, layer_dims=(4, 3)), latent_dim=7)
    torch.manual_seed(2)
    log_weights = two.log_weights(x, 6)
    torch.manual_seed(2)
    mean1, log_variance1, mean2, log_variance2 = two.encoder(x).split((4, 4, 3, 3), 1)
    precision1, precision2 = (-log_variance1).exp(), 1 + (-log_variance2).exp()
    q2 = Independent(Normal(mean2 * (precision2 - 1) / precision2, precision2**-0.5), 1)
    z2 = q2.rsample((6,))
    p2 = Independent(Normal(torch.zeros_like(z2), torch.ones_like(z2)), 1)
    p1 = normal(torch.stack([two.prior.networks[0](z) for z in z2]))
    precision = p1.variance**-1 + precision1
    q1 = Independent(Normal((p1.mean / p1.variance + mean1 * precision1) / precision, precision**-0.5), 1)
    z1 = q1.rsample()
    pixels = Independent(Bernoulli(logits=torch.stack([two.decoder(z) for z in z1])), 3)
    log_joint = pixels.log_prob(x) + p1.log_prob(z1) + p2.log_prob(z2)
    torch.testing.assert_close(log_weights, log_joint - q1.log_prob(z1) - q2.log_prob(z2))


@pytest.mark.slow
@pytest.mark.parametrize("make", [partial(model, posterior=Ladder), maps], ids=["ladder", "maps"])
@torch.no_grad()
def test_kl_of_a_ladder_is_in_closed_form_given_the_layers_above(make):
    """The closed form equals the mean of log q - log p, which has more variance."""
    three = make()
    terms = three.terms(torch.rand(1, *three.data_shape, dtype=torch.float64).bernoulli(), 4000)
    estimate = terms.log_posterior - terms.log_prior
    difference = estimate - terms.kl
    assert (difference.mean(0).abs() < 4 * estimate.std(0) / 4000**0.5).all()
    torch.testing.assert_close(terms.factor_kls.sum(-1), terms.kl)
    assert (terms.factor_kls >= 0).all()
    assert [rate.shape for rate in terms.rates] == [(1,)] * 3
    torch.testing.assert_close(sum(terms.rates), terms.kl)


def test_the_rate_of_a_layer_is_0_only_if_it_equals_the_prior(x):
    """It is 0 although the conditional means of the prior's layers depend on the layers above."""
    ladder = model(posterior=Ladder)
    posterior, prior = ladder.encode(x), ladder.prior()
    z = prior.sample((3, len(x)))
    rates = Terms(prior, prior, z, torch.zeros(3, len(x))).rates
    assert all((rate == 0).all() for rate in rates)
    assert all((rate > 0).all() for rate in Terms(posterior, prior, z, torch.zeros(3, len(x))).rates)
    assert model().terms(x).rates == ()


def test_free_bits_count_each_dimension_of_each_layer(x):
    terms = model(posterior=Ladder).terms(x)
    torch.testing.assert_close(FreeBits(0.0)(terms, 0), ELBO()(terms, 0))
    paid = terms.log_likelihood[0] - FreeBits(100.0)(terms, 0)
    torch.testing.assert_close(paid, torch.full_like(paid, 900.0))


@pytest.mark.parametrize("prior", [StandardNormal, MixtureOfGaussians, VampPrior])
def test_a_ladder_refuses_a_prior_without_layers(prior):
    with pytest.raises(ValueError, match=f"{prior.__name__} has none. Choose TopDown or ResidualTopDown"):
        vae(posterior=Ladder, prior=prior)


def test_a_ladder_has_no_parameters_of_its_own():
    """It uses the parameters of the prior, which appear in the state once."""
    assert not model(posterior=Ladder).posterior.state_dict()


@torch.no_grad()
def test_residual_layers_start_as_the_standard_normal():
    torch.manual_seed(0)
    z = torch.randn(5, 96)
    prior = ResidualTopDown(96, num_layers=3, map_size=4, width=8)
    torch.testing.assert_close(prior().log_prob(z), StandardNormal(96)().log_prob(z))


def test_residual_layers_depend_on_all_layers_above_and_no_others():
    prior = maps().prior
    z = torch.randn(96, dtype=torch.float64)
    for layer in range(3):
        mean = torch.autograd.functional.jacobian(lambda z: prior().conditionals(z)[layer].mean, z)  # noqa: B023
        assert [bool(part.any()) for part in mean.split(32, -1)] == [above > layer for above in range(3)]
    decoder_input = torch.autograd.functional.jacobian(prior.compute_decoder_input, z)
    assert all(part.any() for part in decoder_input.split(32, -1))


@torch.no_grad()
def test_maps_are_sampled_and_decoded_for_any_number_of_examples():
    three = maps()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64).bernoulli()
    posterior = three.encode(x)
    assert three.log_weights(x, 2).shape == (2, 5)
    assert three.draw(7).shape == three.sample(7, generator=torch.Generator()).shape == (7, 1, 8, 8)
    assert three.reconstruct(x).shape == x.shape
    z = posterior.sample()
    every = posterior.log_prob(z.unsqueeze(1))
    torch.testing.assert_close(every.diagonal(), posterior.log_prob(z))


@pytest.mark.parametrize("make", [model, maps])
def test_transformed_noise_has_the_density_of_the_prior(make):
    prior = make().prior()
    noise = torch.randn(prior.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = prior.transform_noise(noise)
    torch.testing.assert_close(prior.recover_noise(z), noise)
    volume = torch.autograd.functional.jacobian(prior.transform_noise, noise).slogdet().logabsdet
    torch.testing.assert_close(prior.log_prob(z) + volume, Normal(0.0, 1.0).log_prob(noise).sum())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_layers": 0}, r"`ResidualTopDown\.num_layers` is 0\. Choose at least 1\."),
        ({"width": 0}, r"`ResidualTopDown\.width` is 0\. Choose at least 1\."),
        ({"map_size": 0}, r"`ResidualTopDown\.map_size` is 0\. Choose at least 1\."),
        ({"num_layers": 5}, r"96, which cannot be divided into 5 equal layers of maps\. Choose a multiple of 245\."),
        ({"num_layers": 4}, "24 values do not make a map of 7 x 7. Choose a multiple of 49"),
    ],
)
def test_refuses_sizes_that_are_not_maps(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ResidualTopDown(96, **arguments)


@pytest.mark.parametrize(("network", "plain"), [("encoder", MLPEncoder), ("decoder", MLPDecoder)])
def test_residual_layers_have_the_map_size_of_the_networks(network, plain):
    """2 maps of 4 x 4 have as many values as 8 maps of 2 x 2. Networks without maps accept any size."""
    prior = partial(ResidualTopDown, num_layers=3, map_size=2, width=16)
    with pytest.raises(ValueError, match=r"smallest map of Residual\w+ is 4 x 4\. Set --model\.prior\.map_size=4\."):
        maps(prior=prior, **{network: plain})
    assert maps(prior=prior, encoder=MLPEncoder, decoder=MLPDecoder).prior.map_size == 2


@pytest.mark.parametrize("objective", [FreeBits(0.1), BetaTC(5)])
def test_objectives_with_a_kl_per_dimension_refuse_layers_in_opposite_orders(objective, x):
    with pytest.raises(ValueError, match="Hierarchy does not factorize"):
        objective(model().terms(x), 0)


@torch.no_grad()
def test_other_posteriors_and_priors_combine_with_layers(x):
    """A mean-field posterior with a prior in layers (Rezende et al. 2014); a posterior in layers with a VampPrior."""
    for pieces in ({"posterior": DiagonalGaussian}, {"prior": partial(VampPrior, num_components=3)}):
        other = model(**pieces)
        assert other.log_weights(x, 4).shape == (4, 5)
        assert other.draw(3).shape == (3, *PIXELS)


def test_runs_in_bfloat16_with_densities_in_float32(x):
    three = model().float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = three.terms(x.float(), 2)
        assert {terms.z.dtype, terms.log_prior.dtype, terms.log_posterior.dtype} == {torch.float32}


@pytest.mark.parametrize("piece", [BottomUp, TopDown])
def test_refuses_layers_that_do_not_make_up_the_latent(piece):
    with pytest.raises(
        ValueError, match=r"\[4, 3, 2\], which adds up to 9, and `latent_dim` is 40\. Set --model\.latent_dim=9,"
    ):
        piece(40, layer_dims=LAYERS)
    for layer_dims in ((), (40, 0)):
        with pytest.raises(
            ValueError,
            match=rf"`{piece.__name__}\.layer_dims` is .*\. Choose at least one layer, each of dimension at least 1",
        ):
            piece(40, layer_dims=layer_dims)


def test_layers_use_the_given_network():
    network = partial(MLPEncoder, hidden_dims=(7,), activation=torch.nn.Tanh)
    shapes = {tuple(p.shape) for p in BottomUp(6, (4, 2), network).parameters() if p.ndim == 2}
    assert shapes == {(7, 4), (4, 7)}
    shapes = {tuple(p.shape) for p in TopDown(6, (4, 2), network).parameters() if p.ndim == 2}
    assert shapes == {(7, 2), (8, 7)}
