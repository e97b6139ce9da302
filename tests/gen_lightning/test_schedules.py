"""Schedules at iterations with known values."""

import math

import pytest
import torch

from gen_lightning.schedules import (
    Cosine,
    CyclicalWarmup,
    Exponential,
    Linear,
    LinearWarmup,
    Steps,
    check_schedules,
    evaluate_schedule,
    follow_schedules,
)


def test_linear_goes_from_start_to_end_and_is_then_constant():
    schedule = Linear(2e-4, 5e-5, 100)
    assert [schedule(iteration) for iteration in (0, 100, 10**6)] == [2e-4, 5e-5, 5e-5]
    assert schedule(50) == pytest.approx(1.25e-4)


def test_cosine_equals_pytorchs():
    schedule = Cosine(2e-4, 5e-5, 40)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2e-4)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=5e-5)
    for iteration in range(41):
        assert schedule(iteration) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert (schedule(0), schedule(40), schedule(41)) == (2e-4, 5e-5, 5e-5)


def test_exponential_equals_pytorchs():
    schedule = Exponential(10.0, 0.01, 30)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=10.0)
    reference = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1**0.1)
    for iteration in range(31):
        assert schedule(iteration) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert (schedule(0), schedule(15)) == (10.0, pytest.approx(10**-0.5))
    assert schedule(10**6) == pytest.approx(0.01)


def test_exponential_refuses_to_start_or_end_at_zero():
    with pytest.raises(ValueError, match=r"`Exponential\.end` is 0\.0\. Choose above 0"):
        Exponential(1.0, 0.0, 10)


def test_steps_have_each_value_for_its_iterations_and_then_keep_the_last():
    schedule = Steps([0.4, 0.2, 0.1], [2, 3])
    assert [schedule(iteration) for iteration in (0, 1, 2, 4, 5, 6, 10**9)] == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.1]
    assert Steps([0.4], [])(7) == 0.4


def test_a_schedule_in_a_step_starts_with_the_step():
    schedule = Steps([Linear(1.0, 0.5, 4), Linear(0.8, 0.0, 8)], [4])
    assert [schedule(iteration) for iteration in (0, 2, 4, 8, 12, 99)] == [1.0, 0.75, 0.8, pytest.approx(0.4), 0.0, 0.0]


@pytest.mark.parametrize(("values", "iterations"), [([], []), ([0.4, 0.2], []), ([0.4], [1]), ([0.4, 0.2], [2, 3])])
def test_steps_need_iterations_for_each_value_except_the_last(values, iterations):
    with pytest.raises(ValueError, match="Give the number of iterations of each value except the last"):
        Steps(values, iterations)


def test_steps_refuse_zero_iterations():
    with pytest.raises(ValueError, match="Choose at least 1 for each value"):
        Steps([0.4, 0.2], [0])


def test_linear_warmup_rises_from_zero_to_one_and_is_then_constant():
    warmup = LinearWarmup(200)
    assert [warmup(iteration) for iteration in (0, 50, 200, 10**6)] == [0.0, 0.25, 1.0, 1.0]


def test_linear_warmup_multiplies_a_schedule():
    warmup = LinearWarmup(10, target=Cosine(1.0, 0.0, 100))
    assert (warmup(0), warmup(5)) == (0.0, pytest.approx(0.5 * (1 + math.cos(math.pi / 20)) / 2))
    assert warmup(50) == pytest.approx(0.5)


def test_cyclical_warmup_repeats():
    """Fu et al. 2019, figure 1."""
    warmup = CyclicalWarmup(period=100, ramp=0.5)
    cycle = [warmup(iteration) for iteration in range(100)]
    assert cycle[:50] == pytest.approx([iteration / 50 for iteration in range(50)])
    assert set(cycle[50:]) == {1.0}
    assert [warmup(iteration) for iteration in range(300, 400)] == cycle


def test_a_constant_has_the_same_value_at_every_iteration():
    assert [evaluate_schedule(0.3, iteration) for iteration in (0, 10**6)] == [0.3, 0.3]


@pytest.mark.parametrize("schedule", [Linear, Cosine, Exponential])
def test_refuses_zero_iterations(schedule):
    with pytest.raises(ValueError, match=rf"`{schedule.__name__}\.iterations` is 0\. Choose at least 1"):
        schedule(1.0, 0.0, 0)


@pytest.mark.parametrize("make", [lambda: LinearWarmup(0), lambda: CyclicalWarmup(0)])
def test_warmups_refuse_zero_iterations(make):
    with pytest.raises(ValueError, match="Choose at least 1"):
        make()


@pytest.mark.parametrize("ramp", [0.0, 1.5])
def test_refuses_a_ramp_out_of_range(ramp):
    with pytest.raises(ValueError, match=f"ramp` is {ramp}"):
        CyclicalWarmup(10, ramp)


def test_schedules_set_the_options_of_all_groups():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.5}]
    optimizer = torch.optim.Adam(groups, lr=0.1, betas=(0.5, 0.9))
    schedules = {"adam.lr": Linear(0.0, 1.0, 4), "adam.beta2": Linear(0.9, 0.99, 2)}
    values = follow_schedules(schedules, {"adam": optimizer}, iteration=1)
    assert values == {"adam.lr": 0.25, "adam.beta2": pytest.approx(0.945)}
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (0.25, (0.5, pytest.approx(0.945)))
    follow_schedules({"adam.beta1": Linear(0.0, 0.5, 1)}, {"adam": optimizer}, iteration=0)
    assert optimizer.param_groups[1]["betas"] == (0.0, pytest.approx(0.945))


@pytest.mark.parametrize("name", ["lr", "adam.lrr", "sgd.beta2", "adam.amsgrad", "other.lr"])
def test_refuses_schedules_of_unknown_options(name):
    parameters = [torch.zeros(1)]
    optimizers = {"adam": torch.optim.Adam(parameters), "sgd": torch.optim.SGD(parameters)}
    with pytest.raises(ValueError, match=r"Choose among adam\.lr, .*adam\.beta2, sgd\.lr"):
        check_schedules({name: Linear(0.0, 1.0, 2)}, optimizers)
