"""An iteration of the GAN: its step count, its forward passes and its updates."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import gan
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.clock import derive_seed
from gen_lightning.gan import EMA, R1, R2, GANLoss, NonSaturating, RelativisticPaired, Wasserstein
from gen_lightning.networks import MLPDecoder, MLPDiscriminator

LEARNING_RATE = 0.1


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LEARNING_RATE)


def build_gan(**arguments):
    """Return a GAN of points in the plane."""
    return gan(**{"generator": MLPDecoder, "data_shape": (2,), "latent_dim": 3} | arguments)


def train(model, data, batch_size, steps, **arguments):
    loader = DataLoader(TensorDataset(data, torch.zeros(len(data))), batch_size)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(model, loader)
    return trainer


@pytest.mark.parametrize("discriminator_steps", [1, 2, 5])
def test_one_iteration_is_one_generator_update(discriminator_steps):
    model = build_gan(discriminator_steps=discriminator_steps)
    trainer = train(model, torch.randn(40, 2), batch_size=10, steps=6)
    assert trainer.global_step == 6
    generator_optimizer, discriminator_optimizer = trainer.optimizers
    assert all(state["step"] == 6 for state in generator_optimizer.state.values())
    assert all(state["step"] == 6 * discriminator_steps for state in discriminator_optimizer.state.values())


class Relativistic(GANLoss):
    relativistic = True

    def discriminator(self, real_logits, fake_logits):
        return F.softplus(fake_logits - real_logits).mean()

    def generator(self, real_logits, fake_logits):
        return F.softplus(real_logits - fake_logits).mean()


@pytest.mark.parametrize(("arguments", "passes_of_real"), [({}, 2), ({"loss": Relativistic()}, 3)])
def test_passes_of_one_iteration(arguments, passes_of_real):
    """Each update generates data once, and passes real and generated data separately.

    Each discriminator update sees other real examples.
    """
    model = build_gan(discriminator_steps=2, **arguments)
    generated, seen = [], []
    model.generator.register_forward_hook(lambda module, args, output: generated.append(output.detach()))
    model.discriminator.register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    data = torch.randn(10, 2)
    train(model, data, batch_size=10, steps=1)
    assert [len(batch) for batch in generated] == [5, 5, 5]
    real = [batch for batch in seen if any(torch.equal(batch, half) for half in data.chunk(2))]
    assert len(seen) == 3 + passes_of_real
    assert len(real) == passes_of_real
    assert torch.equal(torch.cat(real[:2]), data)


def test_updates_equal_a_reimplementation():
    """Two discriminator steps and one generator step, with noise drawn from (seed, rank, iteration)."""
    torch.manual_seed(0)
    model = build_gan(
        generator_optimizer=sgd, discriminator_optimizer=sgd, discriminator_steps=2, regularizers=[R1(2.0)], seed=5
    )
    generator, discriminator = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    data = torch.randn(8, 2)
    train(model, data, batch_size=8, steps=1)

    def step(network, loss):
        for parameter, gradient in zip(
            network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
        ):
            parameter.data -= LEARNING_RATE * gradient

    torch.manual_seed(derive_seed(0, 5, 0, 0))
    for real in data.chunk(2):
        real = real.clone().requires_grad_()
        fake = generator(torch.randn(4, 3)).detach()
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        ones = torch.ones(4)
        loss = F.binary_cross_entropy_with_logits(real_logits, ones)
        loss = loss + F.binary_cross_entropy_with_logits(fake_logits, 1 - ones) + slope.square().sum(1).mean()
        step(discriminator, loss)
    logits = discriminator(generator(torch.randn(4, 3)))
    step(generator, F.binary_cross_entropy_with_logits(logits, torch.ones(4)))

    for ours, theirs in [(model.generator, generator), (model.discriminator, discriminator)]:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_learns_the_mean_of_a_gaussian():
    torch.manual_seed(0)
    center = torch.tensor([2.0, -1.0])
    model = build_gan(
        generator=partial(MLPDecoder, hidden_dims=(16,)),
        discriminator=partial(MLPDiscriminator, hidden_dims=(16,)),
        regularizers=[R1(1.0)],
    )
    train(model, center + 0.1 * torch.randn(4096, 2), batch_size=64, steps=600, max_epochs=-1)
    mean = model.sample(500, generator=torch.Generator().manual_seed(0)).mean(0)
    assert (mean - center).norm() < 0.3


def test_bfloat16_trains_and_keeps_logits_in_float32():
    model = build_gan()
    seen = []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    train(model, torch.randn(20, 2), batch_size=10, steps=2, precision="bf16-mixed")
    assert all(value.dtype == torch.float32 and value.isfinite() for scalars in seen for value in scalars.values())


def compute_gradients(**arguments):
    """Return the gradients that both optimizers receive in one iteration, by index, and the logged scalars."""
    torch.manual_seed(0)
    scalars, gradients = {}, {}
    model = build_gan(generator_optimizer=sgd, discriminator_optimizer=sgd, **arguments)
    model.log_iteration = lambda logged, iteration, batch_size: scalars.update(logged)
    clip = model.on_before_optimizer_step

    def on_before_optimizer_step(optimizer):
        clip(optimizer)
        parameters = optimizer.param_groups[0]["params"]
        gradients[model.trainer.optimizers.index(optimizer)] = [parameter.grad.clone() for parameter in parameters]

    model.on_before_optimizer_step = on_before_optimizer_step
    data = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    train(model, data, batch_size=10, steps=1, log_every_n_steps=1)
    return gradients, scalars


# The first norm is between the norms of both networks' first gradients, the second is below both.
@pytest.mark.parametrize("norm", [0.3, 0.01])
def test_each_network_is_clipped_by_its_own_norm(norm):
    """Compared with torch's own clipping of the unclipped gradients. The logged norm is the norm before clipping."""
    clipped, scalars = compute_gradients(gradient_clip_norm=norm)
    raw, raw_scalars = compute_gradients()
    parameters = [torch.zeros_like(gradient, requires_grad=True) for gradient in raw[1]]
    for parameter, gradient in zip(parameters, raw[1], strict=True):
        parameter.grad = gradient.clone()
    total = torch.nn.utils.clip_grad_norm_(parameters, norm)
    torch.testing.assert_close(clipped[1], [parameter.grad for parameter in parameters])
    torch.testing.assert_close(scalars["discriminator_gradient_norm"], total)
    torch.testing.assert_close(raw_scalars["discriminator_gradient_norm"], total)
    for index, name in enumerate(["generator", "discriminator"]):
        length = torch.cat([gradient.flatten() for gradient in clipped[index]]).norm().item()
        assert length == pytest.approx(min(norm, scalars[f"{name}_gradient_norm"].item()), rel=1e-3)


@pytest.mark.parametrize("micro_batches", [1, 5])
def test_gradients_are_clipped_once_after_the_scaler_has_unscaled_them(micro_batches):
    """If scaled gradients were clipped, the update would be 2^-16 of the bound, since the scale is 2^16."""
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    arguments = {"generator_optimizer": sgd, "discriminator_optimizer": sgd, "micro_batches": micro_batches}
    model = build_gan(gradient_clip_norm=0.01, **arguments)
    before = torch.nn.utils.parameters_to_vector(model.discriminator.parameters()).detach()
    train(model, torch.randn(10, 2), batch_size=10, steps=1, plugins=[scaler])
    step = torch.nn.utils.parameters_to_vector(model.discriminator.parameters()) - before
    assert step.norm().item() == pytest.approx(LEARNING_RATE * 0.01, rel=1e-2)


def test_a_fused_optimizer_that_unscales_after_clipping_is_refused():
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    model = build_gan(discriminator_optimizer=partial(torch.optim.Adam, fused=True))
    with pytest.raises(ValueError, match="Remove fused, or set --trainer"):
        train(model, torch.randn(10, 2), batch_size=10, steps=1, plugins=[scaler])


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPaired(), Wasserstein(clip=0.5)])
@pytest.mark.parametrize("arguments", [{}, {"gradient_clip_norm": 0.05, "discriminator_steps": 2}])
def test_any_number_of_micro_batches_trains_like_one(loss, arguments):
    """Penalties, pairs, weight bounds, norms, the EMA and the logged terms equal those of the whole batch."""
    trained, logged = [], []
    for micro_batches in (1, 2, 10):
        torch.manual_seed(0)
        model = build_gan(
            loss=loss,
            regularizers=[R1(1.0), R2(0.5)],
            ema=partial(EMA, half_life=30, ramp=None),
            generator_optimizer=sgd,
            discriminator_optimizer=sgd,
            micro_batches=micro_batches,
            **arguments,
        )
        model.log_iteration = lambda scalars, iteration, batch_size: logged.append(scalars)
        data = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        train(model, data, batch_size=20, steps=3, precision="64-true", log_every_n_steps=1)
        trained.append(model.state_dict())
    for number in (1, 2):
        torch.testing.assert_close(trained[number], trained[0], rtol=1e-9, atol=1e-12)
        first, other = logged[2], logged[3 * number + 2]
        # For losses without a boundary, accuracies depend on the midpoint of the logits, which differs between parts.
        assert other.keys() == first.keys()
        for name in first.keys() - {"real_accuracy", "fake_accuracy"}:
            torch.testing.assert_close(other[name], first[name], rtol=1e-9, atol=1e-12)


def test_networks_see_one_micro_batch_at_a_time_and_each_optimizer_steps_once():
    model, sizes = build_gan(micro_batches=4, loss=RelativisticPaired()), set()
    for network in (model.generator, model.discriminator):
        network.register_forward_hook(lambda module, args, output: sizes.add(len(args[0])))
    trainer = train(model, torch.randn(20, 2), batch_size=20, steps=1)
    assert sizes == {5}
    assert [{int(state["step"]) for state in optimizer.state.values()} for optimizer in trainer.optimizers] == [{1}] * 2


def test_accumulation_by_the_trainer_is_refused_and_the_option_named():
    with pytest.raises(ValueError, match=r"raise data\.batch_size and model\.micro_batches"):
        train(build_gan(), torch.randn(20, 2), batch_size=10, steps=1, accumulate_grad_batches=2)


def test_clipping_by_the_trainer_is_refused_and_the_option_named():
    with pytest.raises(ValueError, match=r"Set model\.gradient_clip_norm"):
        train(build_gan(), torch.randn(20, 2), batch_size=10, steps=1, gradient_clip_val=1.0)


def test_refuses_to_clip_to_a_norm_of_zero():
    with pytest.raises(ValueError, match=r"gradient_clip_norm` is 0\.0\. Choose above 0"):
        gan(gradient_clip_norm=0.0)


def test_norms_and_accuracies_are_computed_only_when_they_are_logged():
    model, seen = build_gan(), []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    torch_norm, calls = torch.nn.utils.get_total_norm, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "get_total_norm", lambda grads: calls.append(1) or torch_norm(grads))
        train(model, torch.randn(60, 2), batch_size=10, steps=6, log_every_n_steps=3)
    assert len(calls) == 2 * 2
    assert ["real_accuracy" in scalars for scalars in seen] == [False, False, True] * 2


@pytest.mark.parametrize("argument", ["latent_dim", "discriminator_steps", "micro_batches"])
def test_refuses_sizes_below_one(argument):
    with pytest.raises(ValueError, match="Choose at least 1"):
        gan(**{argument: 0})


@pytest.mark.parametrize("arguments", [{"discriminator_steps": 6}, {"discriminator_steps": 2, "micro_batches": 3}])
def test_refuses_a_batch_that_cannot_be_split_before_any_update(arguments):
    model = build_gan(**arguments)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="Choose a multiple of 6"):
        train(model, torch.randn(20, 2), batch_size=10, steps=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_data_module_may_have_batches_without_labels():
    class Points(LightningDataModule):
        shape = (2,)

        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.randn(20, 2)), 10)

    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(build_gan(), datamodule=Points())
    assert trainer.global_step == 2
