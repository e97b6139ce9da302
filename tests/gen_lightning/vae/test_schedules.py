"""Warm-ups at the iterations where their values are known."""

import pytest

from gen_lightning.vae import CyclicalWarmup, LinearWarmup


def test_linear_warmup_rises_from_zero_to_one_and_stays():
    warmup = LinearWarmup(200)
    assert [warmup(iteration) for iteration in (0, 50, 200, 10**6)] == [0.0, 0.25, 1.0, 1.0]


def test_cyclical_warmup_repeats_its_rise():
    """Fu et al. 2019, figure 1."""
    warmup = CyclicalWarmup(period=100, ramp=0.5)
    cycle = [warmup(iteration) for iteration in range(100)]
    assert cycle[:50] == pytest.approx([iteration / 50 for iteration in range(50)])
    assert set(cycle[50:]) == {1.0}
    assert [warmup(iteration) for iteration in range(300, 400)] == cycle


@pytest.mark.parametrize("make", [lambda: LinearWarmup(0), lambda: CyclicalWarmup(0)])
def test_refuses_no_iterations(make):
    with pytest.raises(ValueError, match="choose 1 or more"):
        make()


@pytest.mark.parametrize("ramp", [0.0, 1.5])
def test_refuses_a_ramp_outside_the_period(ramp):
    with pytest.raises(ValueError, match=f"ramp is {ramp}"):
        CyclicalWarmup(10, ramp)
