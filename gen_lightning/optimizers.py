"""Optimizers beside torch's, as one object each, so that a schedule and a checkpoint see one."""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from gen_lightning.errors import UserError


class MuonWithAdam(Optimizer):
    """Muon of the matrices (Jordan et al. 2024), and Adam of all other parameters, which Muon is not for.

    Muon's step is a gradient's average whose singular values are pushed towards 1, so that no direction of a layer is
    left behind. It is scaled to the root mean square of Adam's steps (Liu et al. 2025, equation 4), so that both take
    the same learning rate.

    A matrix is whatever has two dimensions: an embedding's table, or the means of a mixture, are taken for one too.

    Args:
        params: parameters, at least one of them a matrix and one not
        lr: the learning rate, 0 or more
        momentum: of Muon's averages of gradients, in [0, 1)
        ns_steps: Newton-Schulz iterations, by which singular values are pushed, 1 or more; fewer are quicker and push
            less
        betas: of Adam's averages of gradients and of their squares
        eps: added to Adam's denominator
        weight_decay: of the matrices, apart from gradients (Loshchilov & Hutter 2019): a step first multiplies them by
            1 - lr * weight_decay

    Raises:
        UserError: an option is outside its range; no parameter is a matrix, or all are.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 <= momentum < 1 or ns_steps < 1:
            raise UserError(
                f"MuonWithAdam's momentum is {momentum} and ns_steps {ns_steps}: choose a momentum of 0 or more and"
                " below 1, and ns_steps of 1 or more."
            )
        parameters = list(params)
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        if not matrices or not others:
            raise UserError(
                f"MuonWithAdam has {len(matrices)} matrices and {len(others)} other parameters: take torch.optim.Adam"
                " where there are no matrices, and torch.optim.Muon where there is nothing else."
            )
        self._muon = torch.optim.Muon(
            matrices, lr, weight_decay, momentum, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw"
        )
        self._adam = torch.optim.Adam(others, lr, betas, eps)
        super().__init__([*self._muon.param_groups, *self._adam.param_groups], {})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both, after `closure`, whose loss it returns."""
        # At each step, since a checkpoint that is loaded replaces them.
        self._muon.param_groups, self._adam.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adam.state = self.state
        loss = self._adam.step(closure)
        self._muon.step()
        return loss
