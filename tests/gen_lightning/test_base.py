"""The face that every model shows."""

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


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


class TestSample:
    def test_is_a_function_of_the_generator(self, model):
        samples = model.sample(4, generator=seeded(1))
        assert samples.shape == (4, 1, 28, 28)
        assert 0 <= samples.min() < samples.max() <= 1
        assert torch.equal(samples, model.sample(4, generator=seeded(1)))
        assert not torch.equal(samples, model.sample(4, generator=seeded(2)))

    def test_goes_on_in_the_generator(self, model):
        generator = seeded(1)
        assert not torch.equal(model.sample(4, generator=generator), model.sample(4, generator=generator))

    def test_leaves_everything_as_it_was(self, model):
        model.train()
        some_part = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
        before = copy.deepcopy(model.state_dict())
        random_state = torch.get_rng_state()
        samples = model.sample(4, generator=seeded(1))
        assert not samples.requires_grad
        assert model.training
        assert not some_part.training
        assert torch.equal(random_state, torch.get_rng_state())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_restores_the_mode_after_an_error(self, model):
        model.train()
        with pytest.raises(RuntimeError):
            model.sample(-1, generator=seeded(1))
        assert model.training

    def test_refuses_labels(self, model):
        with pytest.raises(ValueError, match="not class-conditional"):
            model.sample(2, generator=seeded(1), labels=torch.tensor([1, 2]))


def test_data_of_another_shape_are_refused(model):
    with pytest.raises(ValueError, match=r"shape \(1, 32, 32\).*\(1, 28, 28\)"):
        model.check_data(torch.zeros(2, 1, 32, 32))


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_data_of_another_shape_are_refused_before_they_measure_anything(model, verb):
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match=r"shape \(1, 32, 32\).*Set model.data_shape"):
        getattr(trainer, verb)(model, DataLoader(TensorDataset(torch.zeros(2, 1, 32, 32), torch.zeros(2)), 2))


def test_only_what_is_trained_on_is_to_be_divided_for_the_discriminator():
    loader = DataLoader(TensorDataset(torch.zeros(3, 1, 28, 28), torch.zeros(3)), 3)
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    model = gan(discriminator_steps=2)
    trainer.validate(model, loader, verbose=False)
    with pytest.raises(ValueError, match="A batch of 3 cannot be split"):
        trainer.fit(model, loader, loader)


class TestCheckpoint:
    def test_of_a_model_built_in_python_holds_json_only(self, tmp_path):
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

    def test_of_the_command_line_says_what_the_model_is(self, fit):
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

    def test_of_what_no_optimizer_has_are_refused_before_training(self):
        model = vae(schedules={"optimizer.learning_rate": Linear(1.0, 0.0, 2)})
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=r"Choose among optimizer\.lr"):
            fit_black_images(model, steps=1)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
