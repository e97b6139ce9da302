"""Texts whose tokens are drawn one after another, each given the latent and the tokens before it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.types import _size

from gen_lightning.checks import check_range
from gen_lightning.contracts import TextData, require
from gen_lightning.errors import UserError
from gen_lightning.numerics import promote_to_float32
from gen_lightning.tokens import (
    END,
    NUM_RESERVED,
    PADDING,
    UNKNOWN,
    are_texts,
    count_tokens,
    refuse_other_shapes,
)
from gen_lightning.vae.likelihoods import Likelihood

# The logits of this number of tokens are computed at once, which bounds the memory of an importance sampling.
_TOKENS_PER_BLOCK = 4096


class TokenNetwork(nn.Module):
    """A network of the next token, given the context and the tokens before it.

    It is built with (vocabulary_size, context_dim). A subclass defines `compute_features`.

    Args:
        vocabulary_size: number of token numbers, V
        embedding_dim: number of features of each token
        num_features: number of features from which the next token is predicted
    """

    def __init__(self, vocabulary_size: int, embedding_dim: int, num_features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        # Padding has no logit: a text has no padding before its end.
        self.head = nn.Linear(num_features, vocabulary_size - 1)

    def forward(self, inputs: Tensor, context: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the features of the tokens that follow the inputs, `[N, T, num_features]`, and the last state.

        Args:
            inputs: tokens, int64 `[N, T]`; the first one of a text is PADDING
            context: context of each of the tokens that follow, `[N, T, context_dim]`
            state: state after earlier inputs, of any type; None at the start
        """
        return self.compute_features(torch.cat([self.embedding(inputs), context], -1), context, state)

    def compute_features(self, inputs: Tensor, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the features `[N, T, num_features]` and the last state.

        Args:
            inputs: embedded tokens and context, `[N, T, embedding_dim + context_dim]`
            context: context, `[N, T, context_dim]`
            state: state after earlier inputs; None at the start
        """
        raise NotImplementedError

    def compute_log_probs(self, features: Tensor) -> Tensor:
        """Return the log-probabilities of the tokens from number 1 on, `[..., V - 1]`."""
        return promote_to_float32(self.head(features)).log_softmax(-1)


class RecurrentTokens(TokenNetwork):
    """A GRU (Bowman et al. 2016); its first state depends on the context of the first token.

    Args:
        vocabulary_size: number of token numbers
        context_dim: number of features of the context
        embedding_dim: number of features of each token; at least 1
        hidden_dim: number of features of the state; at least 1

    Raises:
        UserError: a size is too small.
    """

    def __init__(self, vocabulary_size: int, context_dim: int, embedding_dim: int = 64, hidden_dim: int = 256) -> None:
        check_range(self, at_least=1, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        super().__init__(vocabulary_size, embedding_dim, hidden_dim)
        self.first_state = nn.Linear(context_dim, hidden_dim)
        self.gru = nn.GRU(embedding_dim + context_dim, hidden_dim, batch_first=True)

    def compute_features(self, inputs: Tensor, context: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the states after each input, `[N, T, hidden_dim]`, and the last one."""
        state = self.first_state(context[:, 0]).tanh().unsqueeze(0) if state is None else state
        return self.gru(inputs, state)


class ConvolutionalTokens(TokenNetwork):
    """Residual causal convolutions, dilated as given (Yang et al. 2017).

    A token depends on 1 + (window - 1) (d_1 + ... + d_L) tokens before it. Only the latent
    carries information from farther away: the fewer and the less dilated the layers are, the more the latent carries.

    Args:
        vocabulary_size: number of token numbers
        context_dim: number of features of the context
        embedding_dim: number of features of each token; at least 1
        width: number of channels of each layer; at least 1
        window: number of inputs of a convolution; at least 1
        dilations: distance of the inputs of each layer's convolution; at least 1 each

    Raises:
        UserError: a number is too small, or there is no dilation.
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_dim: int,
        embedding_dim: int = 64,
        width: int = 256,
        window: int = 3,
        dilations: Sequence[int] = (1, 2, 4),
    ) -> None:
        check_range(self, at_least=1, embedding_dim=embedding_dim, width=width, window=window)
        if min(dilations, default=0) < 1:
            raise UserError(
                f"`ConvolutionalTokens.dilations` is {list(dilations)}. Give at least one, each at least 1."
            )
        super().__init__(vocabulary_size, embedding_dim, width)
        self.window = window
        self.dilations = tuple(dilations)
        self.stem = nn.Linear(embedding_dim + context_dim, width)
        self.convolutions = nn.ModuleList(nn.Linear(window * width, width) for _ in dilations)
        self.mixers = nn.ModuleList(nn.Linear(width, width) for _ in dilations)

    def compute_features(
        self, inputs: Tensor, context: Tensor, state: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the features `[N, T, width]`, and the inputs of each layer that later tokens depend on."""
        features, states = self.stem(inputs), []
        length = features.shape[1]
        for layer, dilation in enumerate(self.dilations):
            reach = dilation * (self.window - 1)
            before = features.new_zeros(len(features), reach, features.shape[2]) if state is None else state[layer]
            joined = torch.cat([before, F.silu(features)], 1)
            states.append(joined[:, length:])
            # A product with shifted copies takes less time on a CPU than a convolution of such short sequences.
            shifted = [joined[:, start : start + length] for start in range(0, reach + 1, dilation)]
            features = features + self.mixers[layer](F.silu(self.convolutions[layer](torch.cat(shifted, -1))))
        return F.silu(features), states


class TokenSequence(Distribution):
    """A distribution of texts in which each token depends on the context and on the tokens before it.

    Args:
        context: input of the network at each place, `[..., T, C]`; the batch shape is `[...]`
        network: network of the tokens' log-probabilities
        word_dropout: probability with which each input token of `log_prob` is hidden
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, context: Tensor, network: TokenNetwork, word_dropout: float = 0.0) -> None:
        self.context = context
        self.network = network
        self.word_dropout = word_dropout
        super().__init__(context.shape[:-2], context.shape[-2:-1], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability `[...]` of texts `[..., T]`: that of their tokens and of their end."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        tokens = value.long().expand(*shape, -1).reshape(-1, value.shape[-1])
        longest = int(count_tokens(tokens).max())
        tokens = tokens[:, :longest]
        inputs = self._hide(F.pad(tokens[:, :-1], (1, 0), value=PADDING))
        context = self.context[..., :longest, :].expand(*shape, -1, -1)
        features, _ = self.network(inputs, context.reshape(len(tokens), longest, -1))
        present = tokens != PADDING
        log_probs = torch.cat(
            [
                self.network.compute_log_probs(block).gather(-1, targets.unsqueeze(-1) - 1).squeeze(-1)
                for block, targets in zip(
                    features[present].split(_TOKENS_PER_BLOCK), tokens[present].split(_TOKENS_PER_BLOCK), strict=True
                )
            ]
        )
        return log_probs.new_zeros(tokens.shape).masked_scatter(present, log_probs).sum(-1).view(shape)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return texts, `[*sample_shape, ..., T]`."""
        return self._write(
            torch.Size(sample_shape), lambda log_probs: log_probs.exp().multinomial(1, replacement=True).squeeze(-1)
        )

    @property
    def mode(self) -> Tensor:
        """The texts `[..., T]` whose tokens are the likeliest ones after the tokens before them (greedy search).

        Another text may be likelier as a whole.
        """
        with torch.no_grad():
            return self._write(torch.Size(), lambda log_probs: log_probs.argmax(-1))

    def _hide(self, inputs: Tensor) -> Tensor:
        """Replace random inputs, the start excepted, by UNKNOWN (Bowman et al. 2016, section 3.1)."""
        if self.word_dropout == 0:
            return inputs
        hidden = torch.rand(inputs.shape, device=inputs.device) < self.word_dropout
        return inputs.masked_fill(hidden & (inputs != PADDING), UNKNOWN)

    def _write(self, sample_shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Return texts of which a function chooses the next tokens, `[N]`, from log-probabilities `[N, V - 1]`."""
        context = self.context.expand(*sample_shape, *self.context.shape).reshape(-1, *self.context.shape[-2:])
        tokens = torch.full(context.shape[:2], PADDING, device=context.device)
        last, state = tokens[:, 0], None
        ended = torch.zeros_like(last, dtype=torch.bool)
        for step in range(tokens.shape[1]):
            features, state = self.network(last.unsqueeze(1), context[:, step : step + 1], state)
            last = choose(self.network.compute_log_probs(features.squeeze(1))) + 1
            tokens[:, step] = last.masked_fill(ended, PADDING)
            ended |= last == END
            if ended.all():
                break
        return tokens.view(self._extended_shape(sample_shape)).to(self.context.dtype)


class AutoregressiveCategorical(Likelihood):
    """Texts, each token given the latent and the tokens before it (Bowman et al. 2016).

    p(x | z) is the product of p(x_t | x_1, ..., x_t-1, z) over the tokens and the end of a text. The decoder turns the
    latent into a context for each place, which `network` reads with the tokens before it. Samples are drawn token by
    token.

    Word dropout hides input tokens in training, so that the latent must carry their information. The training's bound
    is that of the hidden inputs; validation and tests hide nothing.

    Args:
        data_shape: shape of one text, `(T,)`
        vocabulary_size: number of token numbers, that of the data; at least 4
        network: called with (vocabulary_size, context_dim); returns the network of the next token
        context_dim: number of features of the context of each place, the decoder's outputs; at least 1
        word_dropout: probability with which an input token is hidden in training; at least 0 and below 1

    Raises:
        UserError: the data are no texts, or an argument is out of range; when training starts, the vocabulary of the
            data has another size.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        vocabulary_size: int,
        network: Callable[[int, int], TokenNetwork] = RecurrentTokens,
        context_dim: int = 32,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_other_shapes(self, data_shape)
        check_range(self, at_least=NUM_RESERVED + 1, vocabulary_size=vocabulary_size)
        check_range(self, at_least=1, context_dim=context_dim)
        check_range(self, at_least=0, below=1, word_dropout=word_dropout)
        self.levels = self.vocabulary_size = vocabulary_size
        self.word_dropout = word_dropout
        self.parameters_shape = (data_shape[0], context_dim)
        self.network = network(vocabulary_size, context_dim)

    def check_data(self, data: Tensor) -> None:
        """Raise UserError unless the data are texts."""
        if not self.supports(data):
            raise UserError(
                f"{type(self).__name__} is for texts of token numbers below {self.vocabulary_size}, and the data have"
                " other values. Set --data=datamodules.TextDataModule, or choose another likelihood."
            )

    def supports(self, data: Tensor) -> Tensor:
        """Return whether all data are texts."""
        return are_texts(data, self.vocabulary_size)

    def initialize(self, datamodule: object) -> None:
        """Refuse data whose vocabulary has another size.

        Raises:
            UserError: the vocabulary has another size, or the data module has none.
        """
        size = require(datamodule, TextData, type(self).__name__).vocabulary_size
        if size != self.vocabulary_size:
            raise UserError(
                f"`--data.vocabulary_size` is {size} and `--model.likelihood.vocabulary_size` is"
                f" {self.vocabulary_size}. Choose equal numbers."
            )

    def forward(self, parameters: Tensor) -> TokenSequence:
        """Return p(x | z): contexts `[..., T, context_dim]` -> batch shape `[...]`, event shape `(T,)`."""
        return TokenSequence(parameters, self.network, self.word_dropout if self.training else 0.0)

    def generate(self, distribution: Distribution) -> Tensor:
        """Return texts that are drawn from p(x | z), `[..., T]`."""
        return distribution.sample()

    def predict(self, distribution: Distribution) -> Tensor:
        """Return the texts of likeliest next tokens, `[..., T]`."""
        return distribution.mode


def refuse_different_vocabularies(**parts: nn.Module) -> None:
    """Refuse parts of a model with different vocabularies.

    Args:
        parts: parts by their names in the model; the attribute `vocabulary_size` of a part, or of a part of it, is the
            size of its vocabulary

    Raises:
        UserError: two parts have different vocabulary sizes.
    """
    sizes = {(name, getattr(one, "vocabulary_size", None)) for name, part in parts.items() for one in part.modules()}
    known = sorted((name, size) for name, size in sizes if size is not None)
    if len({size for _, size in known}) > 1:
        found = " and ".join(f"`--model.{name}.vocabulary_size` is {size}" for name, size in known)
        raise UserError(f"{found}. Choose equal numbers, that of --data.vocabulary_size.")
