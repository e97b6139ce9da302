"""MuonWithAdam against torch's Muon and Adam, and the rates of a resumption in Python."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from helpers import vae
from lightning.pytorch import Trainer
from torch import Tensor, nn

from datamodules import MNISTDataModule
from gen_lightning.errors import UserError
from gen_lightning.optimizers import MuonWithAdam
from gen_lightning.schedules import Linear, check_schedules, follow_schedules


def build_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def train(model: nn.Module, *optimizers: torch.optim.Optimizer, iterations: range) -> None:
    for iteration in iterations:
        model.zero_grad()
        model(torch.full((2, 6), float(iteration))).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()


def test_equals_torchs_optimizers() -> None:
    model, reference = build_network(), build_network()
    train(
        model,
        MuonWithAdam(model.parameters(), 0.01, momentum=0.9, ns_steps=3, betas=(0.8, 0.99), eps=1e-4, weight_decay=0.3),
        iterations=range(4),
    )
    weights = [parameter for parameter in reference.parameters() if parameter.ndim == 2]
    biases = [parameter for parameter in reference.parameters() if parameter.ndim == 1]
    train(
        reference,
        torch.optim.Muon(weights, 0.01, weight_decay=0.3, momentum=0.9, ns_steps=3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(biases, 0.01, (0.8, 0.99), 1e-4),
        iterations=range(4),
    )
    for parameter, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_a_step_has_singular_values_near_one_and_the_root_mean_square_of_adam() -> None:
    weight, bias = nn.Parameter(torch.zeros(40, 30)), nn.Parameter(torch.zeros(1))
    weight.grad, bias.grad = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    MuonWithAdam([weight, bias], lr=1.0).step()
    # Jordan et al. 2024: five Newton-Schulz iterations end in [0.5, 1.5] if no singular value of the gradient is small.
    singular_values = torch.linalg.svdvals(weight.detach().double()) / (0.2 * 40**0.5)
    assert singular_values.min() > 0.5
    assert singular_values.max() < 1.5
    # Liu et al. 2025: the root mean square is about 0.2, as for Adam.
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def test_resumes_bit_for_bit() -> None:
    model = build_network()
    optimizer = MuonWithAdam(model.parameters(), 0.01)
    train(model, optimizer, iterations=range(3))
    weights, state = deepcopy((model.state_dict(), optimizer.state_dict()))
    again = build_network()
    again.load_state_dict(weights)
    resumed = MuonWithAdam(again.parameters(), 1.0)
    resumed.load_state_dict(state)
    train(model, optimizer, iterations=range(3, 6))
    train(again, resumed, iterations=range(3, 6))
    for parameter, expected in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_a_schedule_sets_both_learning_rates() -> None:
    model = build_network()
    optimizer = MuonWithAdam(model.parameters(), 0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    follow_schedules({"optimizer.lr": Linear(0.0, 1.0, 10)}, {"optimizer": optimizer}, 0)
    train(model, optimizer, iterations=range(1))
    for parameter, expected in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, expected)


def schedule_options(names: dict[str, float]) -> MuonWithAdam:
    """Return an optimizer whose options have been set by schedules, after check_schedules has accepted them."""
    optimizer = MuonWithAdam(build_network().parameters(), 0.01)
    schedules = {name: Linear(value, value, 1) for name, value in names.items()}
    check_schedules(schedules, {"optimizer": optimizer})
    follow_schedules(schedules, {"optimizer": optimizer}, 0)
    return optimizer


def test_schedules_address_each_part_by_name() -> None:
    muon, adam = schedule_options(
        {
            "optimizer.muon.lr": 0.1,
            "optimizer.muon.momentum": 0.2,
            "optimizer.muon.weight_decay": 0.3,
            "optimizer.adam.lr": 0.4,
            "optimizer.adam.beta1": 0.5,
            "optimizer.adam.beta2": 0.6,
            "optimizer.adam.eps": 0.7,
        }
    ).param_groups
    before_muon, before_adam = MuonWithAdam(build_network().parameters(), 0.01).param_groups
    scheduled = {"lr": 0.1, "momentum": 0.2, "weight_decay": 0.3}
    assert {**muon, "params": 0} == {**before_muon, **scheduled, "params": 0}
    scheduled = {"lr": 0.4, "betas": (0.5, 0.6), "eps": 0.7}
    assert {**adam, "params": 0} == {**before_adam, **scheduled, "params": 0}


def test_a_scheduled_weight_decay_leaves_biases_and_convolutions_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = MuonWithAdam(model.parameters(), 0.1)
    follow_schedules({"optimizer.muon.weight_decay": Linear(1.0, 1.0, 1)}, {"optimizer": optimizer}, 0)
    (model(torch.zeros(1, 1, 4, 4)) * 0).sum().backward()
    optimizer.step()
    for parameter, expected in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), expected * (0.9 if parameter.ndim == 2 else 1))


def test_scheduled_newton_schulz_steps_are_whole_numbers() -> None:
    model = build_network()
    optimizer = MuonWithAdam(model.parameters(), 0.01)
    schedules = {"optimizer.muon.ns_steps": Linear(0.0, 5.0, 10)}
    used = [follow_schedules(schedules, {"optimizer": optimizer}, iteration) for iteration in (0, 3, 5, 10)]
    assert [values["optimizer.muon.ns_steps"] for values in used] == [1, 2, 2, 5]
    assert type(optimizer.param_groups[0]["ns_steps"]) is int
    train(model, optimizer, iterations=range(1))


@pytest.mark.parametrize(
    "name", ["weight_decay", "eps", "beta1", "ns_steps", "adam.weight_decay", "muon.eps", "muon.beta1", "other.lr"]
)
def test_options_of_no_part_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"Choose among optimizer\.lr, optimizer\.muon\.lr, .*optimizer\.adam\.eps"):
        schedule_options({f"optimizer.{name}": 0.1})


def test_two_schedules_of_one_option_are_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr and optimizer\.adam\.lr set the same option"):
        schedule_options({"optimizer.lr": 0.1, "optimizer.adam.lr": 0.1})


@pytest.mark.parametrize(("option", "value"), [("momentum", 1.0), ("momentum", -0.1), ("ns_steps", 0)])
def test_arguments_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"`MuonWithAdam\.{option}` is {value}\. Choose"):
        MuonWithAdam(build_network().parameters(), **{option: value})


@pytest.mark.parametrize("shapes", [[(2, 2)], [(2,), (2, 2, 3, 3)]])
def test_only_matrices_or_no_matrices_are_refused(shapes: list[tuple[int, ...]]) -> None:
    parameters: list[Tensor] = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    with pytest.raises(ValueError, match=r"Choose torch\.optim\.Adam .* torch\.optim\.Muon"):
        MuonWithAdam(parameters)


class TestResumptionInPython:
    """`Trainer.fit(model, data, ckpt_path=FILE)` with other optimizers than those of the checkpoint."""

    @pytest.fixture
    def resume(self, tmp_path):
        def fit(optimizer, steps: int, **arguments) -> Trainer:
            data = MNISTDataModule("digits", batch_size=256, binarization="dynamic")
            trainer = Trainer(max_steps=steps, logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
            trainer.fit(vae(optimizer=optimizer), data, **arguments)
            return trainer

        path = tmp_path / "vae.ckpt"
        fit(partial(torch.optim.Adam, lr=1e-3), 2).save_checkpoint(path)
        return lambda optimizer: fit(optimizer, 3, ckpt_path=path, weights_only=True)

    @pytest.mark.parametrize("rate", [1e-3, 1e-5])
    def test_the_rate_is_that_of_the_new_optimizer(self, resume, rate):
        trainer = resume(partial(torch.optim.Adam, lr=rate))
        (optimizer,) = trainer.optimizers
        assert optimizer.param_groups[0]["lr"] == rate
        assert next(iter(optimizer.state.values()))["step"] == 3, "the state is that of the checkpoint"

    def test_an_optimizer_of_another_class_is_refused(self, resume):
        with pytest.raises(UserError, match=r"has no dampening, which SGD needs.*start a new run"):
            resume(partial(torch.optim.SGD, lr=1e-3, momentum=0.9))
