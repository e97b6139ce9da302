"""Recurrent texts: the probability is exact and normalized, samples follow it, and word dropout is for training."""

import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import adam, vae
from torch import nn

from gen_lightning import VAEModule
from gen_lightning.errors import UserError
from gen_lightning.networks import EmbeddingEncoder, MLPDecoder, MLPEncoder, RecurrentEncoder
from gen_lightning.tokens import END, PADDING, UNKNOWN
from gen_lightning.vae import (
    ELBO,
    AutoregressiveCategorical,
    Beta,
    ConvolutionalTokens,
    FreeBits,
    LinearWarmup,
    RecurrentTokens,
)

V, T, C = 5, 4, 3


def list_texts(length=T):
    """Return all texts of at most `length` tokens: ended ones, and those that are cut."""
    others = [number for number in range(V) if number not in (PADDING, END)]
    ended = [
        [*tokens, END, *[PADDING] * (length - n - 1)]
        for n in range(length)
        for tokens in itertools.product(others, repeat=n)
    ]
    return torch.tensor([*ended, *map(list, itertools.product(others, repeat=length))], dtype=torch.float64)


TEXTS = list_texts()


NETWORKS = {
    "recurrent": partial(RecurrentTokens, embedding_dim=3, hidden_dim=6),
    "convolutional": partial(ConvolutionalTokens, embedding_dim=3, width=6, window=2, dilations=(1, 2)),
}


@pytest.fixture(params=NETWORKS)
def likelihood(request) -> AutoregressiveCategorical:
    """Return a likelihood with weights that make tokens depend on each other, in evaluation mode."""
    torch.manual_seed(0)
    likelihood = AutoregressiveCategorical((T,), V, NETWORKS[request.param], context_dim=C).double()
    for parameter in likelihood.parameters():
        nn.init.normal_(parameter)
    return likelihood.eval()


def contexts(*batch_shape: int):
    return torch.randn(*batch_shape, T, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run_recurrent(weights, steps, context):
    """Return the features after all steps by the equations of a GRU (Cho et al. 2014; PyTorch's order of the gates)."""
    state = np.tanh(weights["first_state.weight"] @ context[0] + weights["first_state.bias"])
    for step in steps:
        inner = np.split(weights["gru.weight_ih_l0"] @ step + weights["gru.bias_ih_l0"], 3)
        outer = np.split(weights["gru.weight_hh_l0"] @ state + weights["gru.bias_hh_l0"], 3)
        reset, update = (1 / (1 + np.exp(-(inner[gate] + outer[gate]))) for gate in (0, 1))
        state = (1 - update) * np.tanh(inner[2] + reset * outer[2]) + update * state
    return state


def run_convolutional(weights, steps, context):
    """Return the features after all steps by sums over the window's inputs, which are 0 before the first step."""
    maps = [weights["stem.weight"] @ step + weights["stem.bias"] for step in steps]
    for layer, dilation in enumerate((1, 2)):
        kernel, bias = weights[f"convolutions.{layer}.weight"], weights[f"convolutions.{layer}.bias"]
        mixer = weights[f"mixers.{layer}.weight"]
        active = [apply_silu(one) for one in maps]
        for place in range(len(maps)):
            total = bias + kernel[:, 6:] @ active[place]
            total += kernel[:, :6] @ active[place - dilation] if place >= dilation else 0
            maps[place] = maps[place] + mixer @ apply_silu(total) + weights[f"mixers.{layer}.bias"]
    return apply_silu(maps[-1])


def apply_silu(x):
    return x / (1 + np.exp(-x))


def compute_log_prob(likelihood, text, context):
    """Return log p(x | z) from each beginning of the text, by plain equations."""
    weights = {name: value.detach().numpy() for name, value in likelihood.network.named_parameters()}
    run = run_recurrent if isinstance(likelihood.network, RecurrentTokens) else run_convolutional
    context = context.numpy()
    total, last, steps = 0.0, PADDING, []
    for token in text:
        steps.append(np.concatenate([weights["embedding.weight"][last], context[len(steps)]]))
        logits = weights["head.weight"] @ run(weights, steps, context) + weights["head.bias"]
        # Padding has no logit.
        total += logits[token - 1] - np.log(np.exp(logits).sum())
        last = token
        if token == END:
            break
    return total


def test_it_equals_the_equations_step_by_step(likelihood):
    context = contexts()
    expected = [compute_log_prob(likelihood, text, context) for text in TEXTS.long().tolist()]
    np.testing.assert_allclose(likelihood(context).log_prob(TEXTS).detach().numpy(), expected, rtol=1e-12, atol=1e-13)


def test_it_sums_to_one_over_all_texts(likelihood):
    probabilities = likelihood(contexts(6, 1)).log_prob(TEXTS).exp().sum(-1)
    torch.testing.assert_close(probabilities, torch.ones(6, dtype=torch.float64))


def test_padding_after_the_end_costs_nothing(likelihood):
    ended = TEXTS[(TEXTS == END).any(-1)]
    one, other = (
        likelihood(context).log_prob(texts)
        for context, texts in (
            (contexts(), ended),
            (nn.functional.pad(contexts(), (0, 0, 0, 7)), nn.functional.pad(ended, (0, 7))),
        )
    )
    torch.testing.assert_close(one, other)


def test_it_broadcasts_over_samples(likelihood):
    several = likelihood(contexts(3, 5))
    assert (several.batch_shape, several.event_shape) == ((3, 5), (T,))
    texts = TEXTS[::9][:5]
    expected = torch.stack([likelihood(one).log_prob(texts) for one in contexts(3, 5)])
    torch.testing.assert_close(several.log_prob(texts), expected)
    assert several.sample((2,)).shape == (2, 3, 5, T)
    assert several.mode.shape == (3, 5, T)


def test_samples_follow_the_distribution(likelihood):
    torch.manual_seed(0)
    distribution = likelihood(contexts())
    samples = likelihood.generate(likelihood(contexts().expand(20_000, -1, -1)))
    assert likelihood.supports(samples)
    powers = V ** torch.arange(T)
    order = (TEXTS @ powers.double()).long()
    counts = torch.bincount((samples @ powers.double()).long(), minlength=V**T)[order].double()
    assert counts.sum() == 20_000
    expected = 20_000 * distribution.log_prob(TEXTS).exp().detach()
    often = expected > 5
    observed, frequencies = (torch.cat([one[often], one[~often].sum()[None]]) for one in (counts, expected))
    assert scipy.stats.chisquare(observed, frequencies * observed.sum() / frequencies.sum()).pvalue > 0.001


def test_predictions_have_the_likeliest_next_tokens(likelihood):
    for context in contexts(8):
        distribution = likelihood(context)
        (text,) = likelihood.predict(likelihood(context[None])).long().tolist()
        for place in range(text.index(END) + 1 if END in text else T):
            same_start = (TEXTS[:, :place] == torch.tensor(text[:place])).all(-1)
            probabilities = distribution.log_prob(TEXTS[same_start]).exp()
            by_next = torch.zeros(V, dtype=torch.float64).index_add(0, TEXTS[same_start, place].long(), probabilities)
            assert by_next.argmax() == text[place]


def test_word_dropout_hides_inputs_in_training_only(likelihood):
    likelihood.word_dropout = 0.999999
    texts, context = TEXTS[-30:], contexts()
    exact = likelihood(context).log_prob(texts)
    likelihood.train()
    torch.manual_seed(0)
    hidden = likelihood(context).log_prob(texts)
    # All inputs but the start are hidden, so that each token has its probability after unknown tokens.
    unknown = torch.full((T,), UNKNOWN, dtype=torch.float64)
    expected = [
        sum(conditional(likelihood, context, [*unknown[:place], token]) for place, token in enumerate(text))
        for text in texts
    ]
    torch.testing.assert_close(hidden, torch.stack(expected))
    likelihood.eval()
    assert torch.equal(likelihood(context).log_prob(texts), exact)
    assert not torch.allclose(exact, hidden)


def conditional(likelihood, context, text):
    """Return log p(last token | the tokens before it), from probabilities of whole beginnings."""
    likelihood.eval()
    beginnings = torch.stack([torch.as_tensor(one) for one in text]).repeat(2, 1)
    beginnings[1, -1] = PADDING
    whole = likelihood(context).log_prob(beginnings[:1])[0]
    before = likelihood(context).log_prob(beginnings[1:])[0] if len(text) > 1 else 0.0
    likelihood.train()
    return whole - before


def build(length=6, **arguments) -> VAEModule:
    defaults = {
        "encoder": partial(RecurrentEncoder, vocabulary_size=V, embedding_dim=4, hidden_dim=8),
        "decoder": MLPDecoder,
        "likelihood": partial(AutoregressiveCategorical, vocabulary_size=V, context_dim=4),
        "objective": ELBO(),
        "optimizer": adam,
        "data_shape": (length,),
        "latent_dim": 2,
    }
    torch.manual_seed(0)
    return VAEModule(**defaults | arguments)


def test_a_model_samples_and_reconstructs_texts():
    model = build(T).eval()
    samples = model.sample(7, generator=torch.Generator().manual_seed(0))
    assert samples.dtype == torch.float32
    texts = TEXTS[:7].float()
    for data in (samples, model.reconstruct(texts), model(torch.zeros(3, 2))):
        assert model.supports(data)
    assert torch.equal(model.reconstruct(texts), model.reconstruct(texts)), "a reconstruction is not random"


def test_a_convolution_sees_the_tokens_of_its_window_and_the_context():
    """With a window of 2 and dilations 1 and 2, a token depends on the four tokens before it."""
    torch.manual_seed(0)
    network = NETWORKS["convolutional"](V, C).double()
    inputs = torch.randn(1, 9, 3 + C, dtype=torch.float64, requires_grad=True)
    features, _ = network.compute_features(inputs, inputs[..., 3:], None)
    features[0, 7].sum().backward()
    assert inputs.grad[0].any(-1).nonzero().flatten().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("objective", [FreeBits(0.5), Beta(warmup=LinearWarmup(10))])
def test_free_bits_and_warm_up_train_it(objective):
    model = build(T, objective=objective)
    model.objective(model.terms(TEXTS.float(), 1), 5).mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_features_depend_neither_on_padding_nor_on_the_batch():
    torch.manual_seed(0)
    encoder = RecurrentEncoder((T,), 5, V).double()
    texts = TEXTS[(TEXTS == END).any(-1)]
    together = encoder(texts)
    torch.testing.assert_close(encoder(nn.functional.pad(texts, (0, 9))), together)
    torch.testing.assert_close(torch.cat([encoder(one) for one in texts.split(1)]), together)
    assert len(together.round(decimals=6).unique(dim=0)) == len(texts)


def test_an_encoder_reads_the_embedded_tokens_as_a_series():
    encoder = EmbeddingEncoder((T,), 5, V, embedding_dim=2).double()
    (texts,) = TEXTS[None, :6]
    series = encoder.embedding.weight[texts.long()].transpose(1, 2)
    assert series.shape == (6, 2, T)
    assert torch.equal(encoder(texts), encoder.encoder(series))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AutoregressiveCategorical((1, 28, 28), V),
            r"is for texts \(T,\), and the data have shape \(1, 28, 28\)",
        ),
        (lambda: RecurrentEncoder((1, 28, 28), 5, V), r"RecurrentEncoder is for texts \(T,\)"),
        (lambda: EmbeddingEncoder((1, 28, 28), 5, V), r"EmbeddingEncoder is for texts \(T,\)"),
        (lambda: EmbeddingEncoder((T,), 5, V, embedding_dim=0), r"embedding_dim` is 0\. Choose at least 1"),
        (lambda: AutoregressiveCategorical((T,), 3), r"vocabulary_size` is 3\. Choose at least 4"),
        (lambda: RecurrentEncoder((T,), 5, 3), r"vocabulary_size` is 3\. Choose at least 4"),
        (
            lambda: AutoregressiveCategorical((T,), V, word_dropout=1),
            r"word_dropout` is 1\. Choose at least 0 and below 1",
        ),
        (lambda: RecurrentTokens(V, 3, hidden_dim=0), r"RecurrentTokens\.hidden_dim` is 0\. Choose at least 1"),
        (lambda: ConvolutionalTokens(V, 3, window=0), r"ConvolutionalTokens\.window` is 0\. Choose at least 1"),
        (lambda: ConvolutionalTokens(V, 3, dilations=()), r"ConvolutionalTokens\.dilations` is \[\]\. Give"),
        (
            lambda: build(likelihood=partial(AutoregressiveCategorical, vocabulary_size=9)),
            r"`--model\.encoder\.vocabulary_size` is 5 and `--model\.likelihood\.vocabulary_size` is 9\. Choose equal",
        ),
        (lambda: AutoregressiveCategorical((T,), V).check_data(torch.rand(3, T)), "is for texts of token numbers"),
        (lambda: AutoregressiveCategorical((T,), V).initialize(None), "needs a data module of texts as token numbers"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_vocabulary_of_another_size_is_refused_before_the_first_iteration():
    data = SimpleNamespace(tokens="words", vocabulary_size=9, decode=None)
    expected = (
        r"`--data\.vocabulary_size` is 9 and `--model\.likelihood\.vocabulary_size` is 5\. Choose equal numbers\."
    )
    with pytest.raises(UserError, match=expected):
        AutoregressiveCategorical((T,), V).initialize(data)
    data.vocabulary_size = V
    AutoregressiveCategorical((T,), V).initialize(data)


def test_models_of_images_have_no_vocabulary():
    assert vae(encoder=MLPEncoder).levels == 2
