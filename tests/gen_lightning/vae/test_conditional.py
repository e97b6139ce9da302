"""Class-conditional VAEs, against VAEs without classes."""

from functools import partial

import pytest
import torch
from helpers import Examples, run_test, vae
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ImportanceSampledLikelihood, LatentMetrics
from gen_lightning.networks import ConditionalEncoder, ConditionalGenerator, MLPDecoder, MLPEncoder
from gen_lightning.vae import Bernoulli, DiscretizedLogistic, Gaussian, VampPrior

PIXELS = (1, 2, 2)
ENCODER = partial(ConditionalEncoder, encoder=MLPEncoder, num_classes=3)
DECODER = partial(ConditionalGenerator, generator=MLPDecoder, num_classes=3, embedding_dim=5)
LABELS = torch.tensor([2, 0, 1, 2, 2])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vae(encoder=ENCODER, decoder=DECODER, data_shape=PIXELS)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(5, *PIXELS).bernoulli()


@torch.no_grad()
def test_log_weights_equal_those_of_networks_with_a_constant_label(model, x):
    """For each class, against a plain VAE whose networks have the class's embedding as a constant."""
    torch.manual_seed(2)
    log_weights = model.log_weights(x, 4, LABELS)
    for label in range(3):
        plain = vae(data_shape=PIXELS)
        channel, embedding = (part.embedding.weight[label] for part in (model.encoder, model.decoder))
        plain.encoder.forward = lambda x, c=channel: model.encoder.encoder(
            torch.cat([x, c.view(1, *PIXELS).expand_as(x)], 1)
        )
        plain.decoder.forward = lambda z, e=embedding: model.decoder.generator(torch.cat([z, e.expand(len(z), -1)], 1))
        torch.manual_seed(2)
        expected = plain.log_weights(x, 4)
        has_label = label == LABELS
        torch.testing.assert_close(log_weights[:, has_label], expected[:, has_label])
        assert not torch.isclose(log_weights[:, ~has_label], expected[:, ~has_label]).any()


def test_samples_have_the_requested_classes(model):
    """With a decoder whose outputs are the class."""
    model.decoder.forward = lambda z, labels: labels.view(-1, 1, 1, 1).expand(-1, *PIXELS).float()
    samples = model.sample(5, generator=torch.Generator(), labels=LABELS)
    torch.testing.assert_close(samples, LABELS.view(-1, 1, 1, 1).expand(-1, *PIXELS).float().sigmoid())


def test_trains_on_the_labels_of_the_batch(model):
    """Only the embedding of the class that occurs in the data changes."""
    before = [part.embedding.weight.clone() for part in (model.encoder, model.decoder)]
    data = DataLoader(TensorDataset(torch.rand(20, *PIXELS).bernoulli(), torch.ones(20, dtype=torch.int64)), 10)
    Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False).fit(model, data)
    for old, part in zip(before, (model.encoder, model.decoder), strict=True):
        assert (part.embedding.weight != old).any(1).tolist() == [False, True, False]


def test_callbacks_evaluate_with_the_labels(model, x):
    """The bound and the posterior of each image are computed with its label."""
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1].tolist()))
    data = Examples(x.repeat(4, 1, 1, 1), LABELS.repeat(4))
    run_test(ImportanceSampledLikelihood(2), model, data)
    assert seen[2:] == [[label] for label in LABELS.repeat(4).tolist()]
    seen.clear()
    run_test(LatentMetrics(), model, data)
    assert seen[2:] == [LABELS.repeat(2).tolist()] * 2
    assert model.reconstruct(x, LABELS).shape == x.shape


@pytest.mark.parametrize(
    "networks",
    [{"encoder": ENCODER}, {"decoder": DECODER}, {"encoder": partial(ENCODER, num_classes=4), "decoder": DECODER}],
)
def test_refuses_networks_with_different_classes(networks):
    with pytest.raises(ValueError, match="two networks with the same num_classes"):
        vae(data_shape=PIXELS, **networks)


def test_refuses_pseudo_inputs_without_labels():
    with pytest.raises(ValueError, match="pseudo-inputs of VampPrior have no labels"):
        vae(encoder=ENCODER, decoder=DECODER, data_shape=PIXELS, prior=VampPrior)


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_labels_are_a_channel_for_data_of_any_shape(shape):
    encoder = ConditionalEncoder(shape, 7, MLPEncoder, num_classes=3)
    assert encoder(torch.rand(5, *shape), LABELS).shape == (5, 7)


@pytest.mark.parametrize(
    ("likelihood", "kind"),
    [
        (Bernoulli, "a probability of 2 levels"),
        (DiscretizedLogistic, "a probability of 256 levels"),
        (Gaussian, "a density"),
    ],
)
def test_the_likelihood_kind_names_the_levels_and_the_condition(likelihood, kind):
    assert vae(likelihood=likelihood).likelihood_kind == kind
    conditional = vae(likelihood=likelihood, encoder=ENCODER, decoder=DECODER)
    assert conditional.likelihood_kind == f"{kind}, given the class"
