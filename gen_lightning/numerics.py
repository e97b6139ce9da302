"""Numerical helpers that models and networks share."""

import torch
from torch import Tensor


def promote_to_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or unchanged if its precision is higher."""
    # In the bfloat16 of mixed precision, losses and likelihoods would lose nats.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
