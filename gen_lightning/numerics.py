"""Numerical helpers that models and networks share."""

import torch
from torch import Tensor


def promote_to_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32: losses and likelihoods lose nats in the bfloat16 of mixed precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
