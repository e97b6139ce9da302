"""Texts as sequences of token numbers: what the first numbers mean, and how long a text is.

A text has T numbers: those of its tokens, then END, then PADDING. A text that is cut at T tokens has no END.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gen_lightning.errors import UserError

PADDING = 0
"""Fills a text up to T numbers. As an input of a network it also marks the start."""

END = 1
"""Ends a text. It is a token, whose probability counts."""

UNKNOWN = 2
"""Replaces tokens that are not in the vocabulary, and tokens that word dropout hides."""

NUM_RESERVED = 3
"""The numbers of other tokens begin here."""


def count_tokens(data: Tensor) -> Tensor:
    """Return the number of tokens of texts `[..., T]`, END included, int64 `[...]`."""
    return (data != PADDING).sum(-1)


def are_texts(data: Tensor, vocabulary_size: int) -> Tensor:
    """Return whether all data `[..., T]` are texts with numbers below `vocabulary_size`, a boolean scalar."""
    ends = (data == END).int()
    before_end = ends.cumsum(-1) - ends == 0
    in_range = (data >= 0) & (data < vocabulary_size) & (data == data.round())
    return torch.all(in_range & ((data != PADDING) == before_end))


def refuse_other_shapes(owner: object, data_shape: Sequence[int]) -> None:
    """Refuse the shape of data that are no texts.

    Raises:
        UserError: the shape is not `(T,)`.
    """
    if len(data_shape) != 1:
        raise UserError(
            f"{type(owner).__name__} is for texts (T,), and the data have shape {tuple(data_shape)}. Set"
            " --data=datamodules.TextDataModule, or choose other parts of the model."
        )
