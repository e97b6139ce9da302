"""Encoders of texts, which are token numbers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from gen_lightning.checks import check_range
from gen_lightning.networks.mlp import MLPEncoder
from gen_lightning.tokens import NUM_RESERVED, count_tokens, refuse_other_shapes


class RecurrentEncoder(nn.Module):
    """Token numbers `[N, T]` -> features `[N, out_features]`, by a bidirectional GRU (Cho et al. 2014).

    The features are a linear function of the last states of both directions. Padding is not read.

    Args:
        data_shape: shape of one text, `(T,)`
        out_features: number of outputs
        vocabulary_size: number of token numbers, that of the data; at least 4
        embedding_dim: number of features of each token; at least 1
        hidden_dim: number of features of the state of each direction; at least 1

    Raises:
        UserError: the data are no texts, or a size is too small.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        vocabulary_size: int,
        embedding_dim: int = 64,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__()
        refuse_other_shapes(self, data_shape)
        check_range(self, at_least=NUM_RESERVED + 1, vocabulary_size=vocabulary_size)
        check_range(self, at_least=1, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.gru = nn.GRU(embedding_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden_dim, out_features)

    def forward(self, data: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        lengths = count_tokens(data).cpu()
        # Without packing, the backward direction would begin with a padding whose length depends on T.
        packed = pack_padded_sequence(self.embedding(data.long()), lengths, batch_first=True, enforce_sorted=False)
        _, states = self.gru(packed)
        return self.head(torch.cat([*states], -1))


class EmbeddingEncoder(nn.Module):
    """Token numbers `[N, T]` -> features `[N, out_features]`, by any encoder of the tokens' embeddings.

    On a CPU, an MLP takes a fraction of the time of a GRU.

    Args:
        data_shape: shape of one text, `(T,)`
        out_features: number of outputs
        vocabulary_size: number of token numbers, that of the data; at least 4
        encoder: called with ((embedding_dim, T), out_features); returns a network of series `[N, embedding_dim, T]`
        embedding_dim: number of features of each token; at least 1

    Raises:
        UserError: the data are no texts, or a size is too small.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        vocabulary_size: int,
        encoder: Callable[[Sequence[int], int], nn.Module] = MLPEncoder,
        embedding_dim: int = 64,
    ) -> None:
        super().__init__()
        refuse_other_shapes(self, data_shape)
        check_range(self, at_least=NUM_RESERVED + 1, vocabulary_size=vocabulary_size)
        check_range(self, at_least=1, embedding_dim=embedding_dim)
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.encoder = encoder((embedding_dim, *data_shape), out_features)

    def forward(self, data: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.encoder(self.embedding(data.long()).transpose(1, 2))
