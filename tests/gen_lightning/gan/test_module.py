"""An iteration of the GAN: its clock, its passes, its updates."""

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


def plane(**arguments):
    """A GAN of points in the plane."""
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
def test_one_iteration_is_one_update_of_the_generator(discriminator_steps):
    model = plane(discriminator_steps=discriminator_steps)
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
    """One generator pass per player and step; real and fake apart; each discriminator step on examples of its own."""
    model = plane(discriminator_steps=2, **arguments)
    generated, judged = [], []
    model.generator.register_forward_hook(lambda module, args, output: generated.append(output.detach()))
    model.discriminator.register_forward_hook(lambda module, args, output: judged.append(args[0].detach()))
    data = torch.randn(10, 2)
    train(model, data, batch_size=10, steps=1)
    assert [len(batch) for batch in generated] == [5, 5, 5]
    real = [batch for batch in judged if any(torch.equal(batch, half) for half in data.chunk(2))]
    assert len(judged) == 3 + passes_of_real
    assert len(real) == passes_of_real
    assert torch.equal(torch.cat(real[:2]), data)


def test_updates_equal_a_plain_re_derivation():
    """Two steps of the discriminator and one of the generator, by hand, on the noise of (seed, rank, iteration)."""
    torch.manual_seed(0)
    model = plane(
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


def test_learns_the_mean_of_a_gaussian():
    torch.manual_seed(0)
    center = torch.tensor([2.0, -1.0])
    model = plane(
        generator=partial(MLPDecoder, hidden_dims=(16,)),
        discriminator=partial(MLPDiscriminator, hidden_dims=(16,)),
        regularizers=[R1(1.0)],
    )
    train(model, center + 0.1 * torch.randn(4096, 2), batch_size=64, steps=600, max_epochs=-1)
    mean = model.sample(500, generator=torch.Generator().manual_seed(0)).mean(0)
    assert (mean - center).norm() < 0.3


def test_bfloat16_trains_and_keeps_logits_in_float32():
    model = plane()
    seen = []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    train(model, torch.randn(20, 2), batch_size=10, steps=2, precision="bf16-mixed")
    assert all(value.dtype == torch.float32 and value.isfinite() for scalars in seen for value in scalars.values())


def gradients_of_one_iteration(**arguments):
    """Both players' gradients as their optimizers see them, by index, and the logged scalars."""
    torch.manual_seed(0)
    scalars, gradients = {}, {}
    model = plane(generator_optimizer=sgd, discriminator_optimizer=sgd, **arguments)
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


# Between the norms of the two players' first gradients, and below both.
@pytest.mark.parametrize("norm", [0.3, 0.01])
def test_each_player_is_clipped_by_its_own_norm(norm):
    """Beside torch's own clipping of what the optimizer would have seen; the norm in the logs is the one before."""
    clipped, scalars = gradients_of_one_iteration(gradient_clip_norm=norm)
    raw, raw_scalars = gradients_of_one_iteration()
    parameters = [torch.zeros_like(gradient, requires_grad=True) for gradient in raw[1]]
    for parameter, gradient in zip(parameters, raw[1], strict=True):
        parameter.grad = gradient.clone()
    total = torch.nn.utils.clip_grad_norm_(parameters, norm)
    torch.testing.assert_close(clipped[1], [parameter.grad for parameter in parameters])
    torch.testing.assert_close(scalars["discriminator_gradient_norm"], total)
    torch.testing.assert_close(raw_scalars["discriminator_gradient_norm"], total)
    for player, name in enumerate(["generator", "discriminator"]):
        length = torch.cat([gradient.flatten() for gradient in clipped[player]]).norm().item()
        assert length == pytest.approx(min(norm, scalars[f"{name}_gradient_norm"].item()), rel=1e-3)


@pytest.mark.parametrize("micro_batches", [1, 5])
def test_gradients_are_clipped_once_after_the_scaler_has_unscaled_them(micro_batches):
    """A scale of 2^16 would leave nothing of gradients clipped before: they would be 2^-16 of the bound."""
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    arguments = {"generator_optimizer": sgd, "discriminator_optimizer": sgd, "micro_batches": micro_batches}
    model = plane(gradient_clip_norm=0.01, **arguments)
    before = torch.nn.utils.parameters_to_vector(model.discriminator.parameters()).detach()
    train(model, torch.randn(10, 2), batch_size=10, steps=1, plugins=[scaler])
    step = torch.nn.utils.parameters_to_vector(model.discriminator.parameters()) - before
    assert step.norm().item() == pytest.approx(LEARNING_RATE * 0.01, rel=1e-2)


def test_a_fused_optimizer_that_unscales_after_the_clipping_is_refused():
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    model = plane(discriminator_optimizer=partial(torch.optim.Adam, fused=True))
    with pytest.raises(ValueError, match="leave fused out, or set --trainer"):
        train(model, torch.randn(10, 2), batch_size=10, steps=1, plugins=[scaler])


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPaired(), Wasserstein(clip=0.5)])
@pytest.mark.parametrize("arguments", [{}, {"gradient_clip_norm": 0.05, "discriminator_steps": 2}])
def test_any_number_of_micro_batches_trains_like_one(loss, arguments):
    """Penalties, pairs, bounds, norms, the average and the logged terms are those of the whole batch."""
    trained, logged = [], []
    for micro_batches in (1, 2, 10):
        torch.manual_seed(0)
        model = plane(
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
        # The middle between real and generated logits, for losses without a boundary, is that of each part.
        assert other.keys() == first.keys()
        for name in first.keys() - {"real_accuracy", "fake_accuracy"}:
            torch.testing.assert_close(other[name], first[name], rtol=1e-9, atol=1e-12)


def test_networks_see_one_micro_batch_at_a_time_and_each_player_steps_once():
    model, sizes = plane(micro_batches=4, loss=RelativisticPaired()), set()
    for network in (model.generator, model.discriminator):
        network.register_forward_hook(lambda module, args, output: sizes.add(len(args[0])))
    trainer = train(model, torch.randn(20, 2), batch_size=20, steps=1)
    assert sizes == {5}
    assert [{int(state["step"]) for state in optimizer.state.values()} for optimizer in trainer.optimizers] == [{1}] * 2


def test_accumulation_by_the_trainer_is_refused_with_the_right_option():
    with pytest.raises(ValueError, match=r"raise data\.batch_size and model\.micro_batches"):
        train(plane(), torch.randn(20, 2), batch_size=10, steps=1, accumulate_grad_batches=2)


def test_clipping_by_the_trainer_is_refused_with_the_right_option():
    with pytest.raises(ValueError, match=r"set model\.gradient_clip_norm"):
        train(plane(), torch.randn(20, 2), batch_size=10, steps=1, gradient_clip_val=1.0)


def test_refuses_to_clip_to_nothing():
    with pytest.raises(ValueError, match="gradient_clip_norm is 0"):
        gan(gradient_clip_norm=0.0)


def test_norms_and_accuracies_are_taken_only_where_they_are_logged():
    model, seen = plane(), []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    torch_norm, calls = torch.nn.utils.get_total_norm, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "get_total_norm", lambda grads: calls.append(1) or torch_norm(grads))
        train(model, torch.randn(60, 2), batch_size=10, steps=6, log_every_n_steps=3)
    assert len(calls) == 2 * 2
    assert ["real_accuracy" in scalars for scalars in seen] == [False, False, True] * 2


@pytest.mark.parametrize("argument", ["latent_dim", "discriminator_steps", "micro_batches"])
def test_refuses_sizes_below_one(argument):
    with pytest.raises(ValueError, match="choose 1 or more"):
        gan(**{argument: 0})


@pytest.mark.parametrize("arguments", [{"discriminator_steps": 6}, {"discriminator_steps": 2, "micro_batches": 3}])
def test_refuses_a_batch_that_does_not_divide_before_any_update(arguments):
    model = plane(**arguments)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="choose a multiple of 6"):
        train(model, torch.randn(20, 2), batch_size=10, steps=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_labels_of_batches_are_optional_in_a_data_module():
    class Points(LightningDataModule):
        shape = (2,)

        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.randn(20, 2)), 10)

    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(plane(), datamodule=Points())
    assert trainer.global_step == 2
