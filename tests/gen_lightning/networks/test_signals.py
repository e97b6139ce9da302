"""Networks of series: every length and number of channels, and what they refuse."""

from functools import partial

import pytest
import torch

from gen_lightning.errors import UserError
from gen_lightning.networks import (
    ConditionalEncoder,
    ConditionalGenerator,
    Packing,
    ProjectionDiscriminator,
    SignalDecoder,
    SignalDiscriminator,
    SignalEncoder,
    find_output_range,
)


def randomize(network):
    """Return the network with random parameters, so that none keeps its initial value of 0."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return network


@pytest.mark.parametrize("length", [8, 9, 15, 16, 24, 25, 100, 127, 1000])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_length_from_8_on(channels, length):
    shape = (channels, length)
    decoder, encoder = randomize(SignalDecoder(5, shape, width=4)), randomize(SignalEncoder(shape, 7, width=4))
    signals = decoder(torch.randn(2, 5))
    assert signals.shape == (2, *shape)
    assert encoder(signals).shape == (2, 7)
    assert SignalDiscriminator(shape, width=4)(signals).shape == (2,)
    assert find_output_range(decoder) is None


@pytest.mark.parametrize("length", [8, 25, 31])
def test_every_value_counts_and_every_output_depends_on_the_latent(length):
    encoder, decoder = randomize(SignalEncoder((2, length), 3, 4)), randomize(SignalDecoder(3, (2, length), 4))
    signals = torch.randn(1, 2, length, requires_grad=True)
    encoder(signals).square().sum().backward()
    assert (signals.grad != 0).all()
    outputs = decoder(torch.randn(2, 3))
    assert (outputs[0] != outputs[1]).all()


def test_long_series_have_at_most_eight_times_the_width():
    encoder = SignalEncoder((1, 16_000), 1, width=4)
    assert max(part.out_channels for part in encoder.modules() if isinstance(part, torch.nn.Conv1d)) == 32


def test_conditional_networks_wrap_them():
    shape, labels = (2, 20), torch.arange(4)
    generator = ConditionalGenerator(3, shape, partial(SignalDecoder, width=4), num_classes=4)
    encoder = ConditionalEncoder(shape, 6, partial(SignalEncoder, width=4), num_classes=4)
    discriminator = ProjectionDiscriminator(shape, partial(SignalEncoder, width=4), num_classes=4)
    signals = generator(torch.randn(4, 3), labels)
    assert signals.shape == (4, *shape)
    assert encoder(signals, labels).shape == (4, 6)
    assert discriminator(signals, labels).shape == (4,)
    assert Packing(shape, partial(SignalDiscriminator, width=4))(signals).shape == (2,)


@pytest.mark.parametrize("shape", [(1, 7), (12,), (1, 8, 8)])
def test_other_data_are_refused(shape):
    for build in (partial(SignalDecoder, 3, shape), partial(SignalEncoder, shape, 3)):
        with pytest.raises(UserError, match=r"needs series \(C, T\) with T of at least 8. Choose longer"):
            build()


def test_arguments_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"`SignalDecoder.width` is 0"):
        SignalDecoder(3, (1, 8), width=0)
    with pytest.raises(UserError, match=r"`SignalDiscriminator.num_blocks` is 0"):
        SignalDiscriminator((1, 8), num_blocks=0)
