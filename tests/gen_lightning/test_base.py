"""GenerativeModule: sampling, checks of data, checkpoints and schedules, for a GAN and a VAE."""

import copy

import pytest
import torch
from helpers import gan, load, vae
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning import GANModule
from gen_lightning.networks import DCGANDecoder, DCGANDiscriminator, DCGANEncoder, DCGANGenerator
from gen_lightning.schedules import Cosine, Linear

DCGAN = {"generator": DCGANGenerator, "discriminator": DCGANDiscriminator}
MODELS = {"gan": lambda: gan(**DCGAN), "vae": lambda: vae(encoder=DCGANEncoder, decoder=DCGANDecoder)}


def make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


class TestSample:
    def test_samples_are_a_function_of_the_generator(self, model):
        samples = model.sample(4, generator=make_generator(1))
        assert samples.shape == (4, 1, 28, 28)
        assert 0 <= samples.min() < samples.max() <= 1
        assert torch.equal(samples, model.sample(4, generator=make_generator(1)))
        assert not torch.equal(samples, model.sample(4, generator=make_generator(2)))

    def test_a_second_call_continues_the_generator(self, model):
        generator = make_generator(1)
        assert not torch.equal(model.sample(4, generator=generator), model.sample(4, generator=generator))

    def test_mode_buffers_and_global_random_state_are_unchanged(self, model):
        model.train()
        frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
        before = copy.deepcopy(model.state_dict())
        random_state = torch.get_rng_state()
        samples = model.sample(4, generator=make_generator(1))
        assert not samples.requires_grad
        assert model.training
        assert not frozen.training
        assert torch.equal(random_state, torch.get_rng_state())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_the_mode_is_restored_after_an_error(self, model):
        model.train()
        with pytest.raises(RuntimeError):
            model.sample(-1, generator=make_generator(1))
        assert model.training

    def test_labels_for_an_unconditional_model_are_refused(self, model):
        with pytest.raises(ValueError, match="not class-conditional"):
            model.sample(2, generator=make_generator(1), labels=torch.tensor([1, 2]))


@pytest.mark.parametrize("make", [gan, vae])
def test_a_negative_seed_is_refused(make):
    with pytest.raises(ValueError, match=r"Module\.seed` is -1\. Choose at least 0\."):
        make(seed=-1)


def test_data_of_another_shape_are_refused(model):
    with pytest.raises(ValueError, match=r"shape \(1, 32, 32\).*\(1, 28, 28\)"):
        model.check_data(torch.zeros(2, 1, 32, 32))


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_data_of_another_shape_are_refused_before_an_evaluation(model, verb):
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match=r"shape \(1, 32, 32\).*Set model.data_shape"):
        getattr(trainer, verb)(model, DataLoader(TensorDataset(torch.zeros(2, 1, 32, 32), torch.zeros(2)), 2))


def test_only_training_batches_must_be_divisible_by_the_discriminator_steps():
    loader = DataLoader(TensorDataset(torch.zeros(3, 1, 28, 28), torch.zeros(3)), 3)
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    model = gan(discriminator_steps=2)
    trainer.validate(model, loader, verbose=False)
    with pytest.raises(ValueError, match="A batch of 3 cannot be split"):
        trainer.fit(model, loader, loader)


class TestCheckpoint:
    def test_the_checkpoint_of_a_model_built_in_python_holds_only_json(self, tmp_path):
        model = gan(generator=lambda *arguments: DCGANGenerator(*arguments, width=8))
        trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
        trainer.fit(model, DataLoader(TensorDataset(torch.rand(4, 1, 28, 28)), 4))
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        assert load(tmp_path / "model.ckpt")["hyper_parameters"] == {
            "codes": None,
            "data_shape": (1, 28, 28),
            "discriminator_steps": 1,
            "ema": None,
            "gradient_clip_norm": None,
            "latent_dim": 8,
            "micro_batches": 1,
            "regularizers": None,
            "schedules": None,
            "seed": 0,
        }

    @pytest.mark.slow
    def test_the_checkpoint_of_the_command_line_rebuilds_the_model(self, fit):
        from helpers import CONFIGS

        folder = fit(
            "--config",
            str(CONFIGS / "gan/mlp.yaml"),
            "--data.source=digits",
            "--model.latent_dim=7",
            "--trainer.max_steps=1",
            "--trainer.logger=false",
            "--trainer.limit_val_batches=0",
        )
        model = GANModule.load_from_checkpoint(folder / "checkpoints/last.ckpt", weights_only=True)
        weights = load(folder / "checkpoints/last.ckpt")["state_dict"]
        assert model.latent_dim == 7
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def fit_black_images(model, steps):
    loader = DataLoader(TensorDataset(torch.zeros(8, 1, 28, 28), torch.zeros(8)), 2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=steps, accelerator="cpu", **quiet).fit(model, loader)


class TestSchedules:
    @pytest.mark.parametrize(
        ("make", "names"),
        [(gan, ["generator_optimizer.lr", "discriminator_optimizer.lr"]), (vae, ["optimizer.lr"])],
        ids=["gan", "vae"],
    )
    def test_each_optimizer_has_the_value_of_the_iteration_when_it_steps(self, make, names):
        schedules = {name: Cosine(0.1 * (i + 1), 0.0, 4) for i, name in enumerate(names)}
        model, seen = make(schedules=schedules), []

        def on_before_optimizer_step(optimizer):
            index = model.trainer.optimizers.index(optimizer)
            seen.append((names[index], model.global_step, optimizer.param_groups[0]["lr"]))

        model.on_before_optimizer_step = on_before_optimizer_step
        fit_black_images(model, steps=6)
        assert len(seen) == 6 * len(names)
        assert all(rate == schedules[name](iteration) for name, iteration, rate in seen)

    def test_schedules_of_unknown_options_are_refused_before_training(self):
        model = vae(schedules={"optimizer.learning_rate": Linear(1.0, 0.0, 2)})
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=r"Choose among optimizer\.lr"):
            fit_black_images(model, steps=1)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
