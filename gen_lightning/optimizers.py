"""An optimizer that combines two of torch's, and the rates of optimizers that a resumption may change."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError

Rates = list[list[dict[str, float]]]
"""Learning rate and weight decay of each parameter group of each optimizer."""

_RATES = ("lr", "weight_decay")


def read_rates(optimizers: Sequence[Optimizer]) -> Rates:
    """Return the learning rate and the weight decay, if there is one, of each parameter group of each optimizer."""
    return [
        [{name: float(group[name]) for name in _RATES if name in group} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def change_rates(optimizers: Sequence[Optimizer], before: Rates, after: Rates) -> None:
    """Give optimizers the rates that are configured now, if they were configured otherwise.

    A rate that is configured as before keeps the value that the optimizer's state has, such as one that a callback has
    lowered.

    Args:
        optimizers: optimizers with restored states
        before: rates that were configured when the checkpoint was written
        after: rates that are configured now

    Raises:
        UserError: a restored state is that of another kind of optimizer.
    """
    for optimizer, old_groups, new_groups in zip(optimizers, before, after, strict=False):
        for group, old, new in zip(optimizer.param_groups, old_groups, new_groups, strict=False):
            # torch adds `differentiable` to the defaults of every optimizer when it loads a state.
            if missing := sorted(optimizer.defaults.keys() - group.keys() - {"differentiable"}):
                raise UserError(
                    f"The checkpoint's optimizer has no {missing[0]}, which {type(optimizer).__name__} needs: it is of"
                    " another class. Resume with the optimizer of the run, or start a new run."
                )
            group.update({name: rate for name, rate in new.items() if rate != old.get(name)})


class MuonWithAdam(Optimizer):
    """Muon for matrices (Jordan et al. 2024), and Adam for all other parameters, which Muon does not support.

    Muon averages the gradients and moves the singular values of the average towards 1, so that all directions of a
    layer learn at a similar rate. The step is scaled to the root mean square of Adam's steps (Liu et al. 2025,
    equation 4), so that both optimizers use the same learning rate.

    Every parameter with two dimensions counts as a matrix, including embedding tables and the means of a mixture.

    Schedules name the part that they are for, such as `optimizer.muon.weight_decay` and `optimizer.adam.beta1`.
    `optimizer.lr` is the learning rate of both.

    Args:
        params: parameters; at least one with two dimensions, and one with another number of dimensions
        lr: learning rate; at least 0
        momentum: momentum of Muon's average of gradients, in [0, 1)
        ns_steps: number of Newton-Schulz iterations, which move the singular values; at least 1. With fewer, steps are
            faster, and singular values stay further from 1.
        betas: decay rates of Adam's averages of gradients and squared gradients
        eps: number added to Adam's denominator
        weight_decay: decoupled weight decay of the matrices (Loshchilov & Hutter 2019): each step first multiplies them
            by 1 - lr * weight_decay

    Raises:
        UserError: momentum or ns_steps is out of range, no parameter is a matrix, or all are.
    """

    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "muon": ("lr", "momentum", "ns_steps", "weight_decay"),
        "adam": ("lr", "beta1", "beta2", "eps"),
    }
    """The options of Muon's and Adam's parameters that can be scheduled, in the order of the parameter groups."""

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
        check_range(self, at_least=0, below=1, momentum=momentum)
        check_range(self, at_least=1, ns_steps=ns_steps)
        parameters = list(params)
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        if not matrices or not others:
            raise UserError(
                f"MuonWithAdam has {len(matrices)} matrices and {len(others)} other parameters. Choose torch.optim.Adam"
                " if there are no matrices, and torch.optim.Muon if there are only matrices."
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
        """Call `closure` if given, take one step of both optimizers, and return the closure's loss."""
        # Loading a checkpoint replaces param_groups and state, so they are passed on at each step.
        self._muon.param_groups, self._adam.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adam.state = self.state
        loss = self._adam.step(closure)
        self._muon.step()
        return loss
