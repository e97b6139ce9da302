"""Two processes on the CPU: gradients, noise, shards and reports, under Lightning's launcher and under torchrun."""

import copy
import json
import math

import pytest
import torch
from faults.processes import Run, start_ranks
from helpers import CONFIGS, ROOT, gan, load, read_wandb_records, run_command, run_python, vae
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from datamodules import MNISTDataModule
from gen_lightning import GANModule, VAEModule
from gen_lightning.clock import derive_seed
from gen_lightning.networks import MLPDecoder
from gen_lightning.vae import Gaussian

# These tests train through the command line.
pytestmark = pytest.mark.slow

DDP = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
DIGITS = ["--data.source=digits", "--data.batch_size=64"]
FEW_BATCHES = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0"]
LEARNING_RATE = 0.5
ONE_STEP = ["--trainer.max_steps=1", "--trainer.logger=false", "--trainer.limit_val_batches=0", "--seed_everything=3"]


def run(folder, *arguments, world_size=1):
    """Run train.py in one process, or in the processes of several ranks."""
    if world_size == 1:
        processes = [Run(*arguments, folder=folder)]
    else:
        processes = start_ranks(*arguments, folder=folder, world_size=world_size)
    for process in processes:
        assert process.wait() == 0, process.text[-3000:]


def fit(folder, *arguments, world_size=1):
    """Train, and return the run's directory."""
    run(folder, "fit", *([] if "--resume" in arguments else DIGITS), *arguments, world_size=world_size)
    return max(folder.glob("runs/*/*"), key=lambda run: run.stat().st_mtime)


def make_rank_batches():
    """Yield the first batch of each rank, as it is on the device."""
    for rank in (0, 1):
        data = MNISTDataModule("digits", batch_size=64, binarization="dynamic", seed=3)
        data.setup("fit")
        data._get_rank_and_world_size = lambda rank=rank: (rank, 2)
        yield data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)[0]


def step_on_joined_batch(network: nn.Module, loss: torch.Tensor) -> None:
    """Take one step of SGD."""
    for parameter, gradient in zip(
        network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
    ):
        parameter.data -= LEARNING_RATE * gradient


def assert_equal_weights(model, checkpoint):
    for name, value in checkpoint["state_dict"].items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def list_sgd_options(*optimizers):
    """Yield the options that choose SGD for optimizers."""
    for optimizer in optimizers:
        yield f"--model.{optimizer}=torch.optim.SGD"
        yield f"--model.{optimizer}.lr={LEARNING_RATE}"


def join(model, draw):
    """Return the results of `draw` with each rank's batch and noise of iteration 0, joined over the ranks."""
    parts = []
    for rank, batch in enumerate(make_rank_batches()):
        torch.manual_seed(derive_seed(0, 3, rank, 0))
        parts.append(draw(batch))
    assert not torch.equal(*[torch.as_tensor(part[0]) for part in parts])
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))


def test_vae_gradients_equal_those_of_the_joined_batch(tmp_path):
    arguments = ["--config", str(CONFIGS / "vae/vae.yaml"), *list_sgd_options("optimizer"), *ONE_STEP]
    start = fit(tmp_path, *arguments, "--model.optimizer.lr=0")
    model = VAEModule.load_from_checkpoint(start / "checkpoints/last.ckpt", weights_only=True)
    trained = fit(tmp_path, *arguments, world_size=2)
    noise, images = join(model, lambda batch: (torch.randn(1, 64, model.latent_dim)[0], batch))
    posterior = model.encode(images)
    z = posterior.mean + posterior.stddev * noise
    kl = torch.distributions.kl_divergence(posterior, model.prior())
    loss = -(model.decode(z).log_prob(images) - kl).mean()
    step_on_joined_batch(model, loss)
    assert_equal_weights(model, load(trained / "checkpoints/last.ckpt"))


def test_gan_gradients_equal_those_of_the_joined_batch(tmp_path):
    optimizers = ("generator_optimizer", "discriminator_optimizer")
    arguments = [
        "--config",
        str(CONFIGS / "gan/mlp.yaml"),
        "--data.binarization=dynamic",
        *list_sgd_options(*optimizers),
        *ONE_STEP,
    ]
    start = fit(tmp_path, *arguments, *(f"--model.{optimizer}.lr=0" for optimizer in optimizers))
    model = GANModule.load_from_checkpoint(start / "checkpoints/last.ckpt", weights_only=True)
    # With two micro-batches. The ranks exchange gradients once: the sums over both micro-batches.
    trained = fit(tmp_path, *arguments, "--model.micro_batches=2", world_size=2)
    shape = (64, model.latent_dim)
    first, second, real = join(model, lambda batch: (torch.randn(shape), torch.randn(shape), batch))
    real.requires_grad_()
    real_logits, fake_logits = model.logits(real), model.logits(model.generator(first).detach())
    (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    r1 = model.regularizers[0].gamma / 2 * slope.flatten(1).square().sum(1).mean()
    step_on_joined_batch(model.discriminator, model.loss.discriminator(real_logits, fake_logits) + r1)
    loss = model.loss.generator(None, model.logits(model.generator(second)))
    step_on_joined_batch(model.generator, loss)
    assert_equal_weights(model, load(trained / "checkpoints/last.ckpt"))


class UnequalBatches(LightningDataModule):
    """Points with other numbers of examples on each rank."""

    sizes = ((8, 8), (3, 6), (1, 5))

    def train_dataloader(self):
        return DataLoader([(data, torch.zeros(len(data))) for data in self.draw(self.trainer.global_rank)], None)

    def draw(self, rank):
        generator = torch.Generator().manual_seed(rank)
        return [torch.rand(sizes[rank], 2, generator=generator, dtype=torch.float64) for sizes in self.sizes]


class SaveWeights(Callback):
    """Saves the weights and the number of images of each rank."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save((pl_module.state_dict(), pl_module.images_seen), self.folder / f"{trainer.global_rank}.pt")


def fit_unequal_batches(model, folder):
    """Train on two ranks, and return their weights, which are equal."""
    Trainer(
        **{"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork", "precision": "64-true", "max_epochs": 1},
        use_distributed_sampler=False,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
        callbacks=[SaveWeights(folder)],
    ).fit(model, UnequalBatches())
    (weights, images), (others, other_images) = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    assert images == other_images == sum(map(sum, UnequalBatches.sizes))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=0)
    return weights


def draw_noise(iteration, *shapes):
    """Return each rank's draws of an iteration, joined over the ranks, for shapes without the number of examples."""
    draws = []
    for rank in (0, 1):
        torch.manual_seed(derive_seed(0, 0, rank, iteration))
        n = UnequalBatches.sizes[iteration][rank]
        draws.append([torch.randn(n, *shape, dtype=torch.float64) for shape in shapes])
    return [torch.cat(parts) for parts in zip(*draws, strict=True)]


def sgd(parameters):
    return torch.optim.SGD(parameters, LEARNING_RATE)


# A process that has used CUDA cannot be forked.
forks = pytest.mark.skipif(torch.cuda.is_available(), reason="ddp_fork is tested without a GPU")


@forks
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_unequal_and_short_batches_of_a_gan_weigh_each_example_alike(micro_batches, tmp_path):
    torch.manual_seed(0)
    optimizers = {"generator_optimizer": sgd, "discriminator_optimizer": sgd}
    model = gan(generator=MLPDecoder, data_shape=(2,), latent_dim=3, micro_batches=micro_batches, **optimizers)
    reference = copy.deepcopy(model).double()
    weights = fit_unequal_batches(model, tmp_path)
    for iteration, real in enumerate(map(torch.cat, zip(*map(UnequalBatches().draw, (0, 1)), strict=True))):
        first, second = draw_noise(iteration, (3,), (3,))
        fake_logits = reference.logits(reference.generator(first).detach())
        loss = reference.loss.discriminator(reference.logits(real), fake_logits)
        step_on_joined_batch(reference.discriminator, loss)
        loss = reference.loss.generator(None, reference.logits(reference.generator(second)))
        step_on_joined_batch(reference.generator, loss)
    torch.testing.assert_close(weights, dict(reference.state_dict()), rtol=1e-9, atol=1e-12)


@forks
def test_unequal_batches_of_a_vae_weigh_each_example_alike(tmp_path):
    torch.manual_seed(0)
    model = vae(likelihood=Gaussian, data_shape=(2,), latent_dim=3, optimizer=sgd)
    reference = copy.deepcopy(model).double()
    weights = fit_unequal_batches(model, tmp_path)
    for iteration, x in enumerate(map(torch.cat, zip(*map(UnequalBatches().draw, (0, 1)), strict=True))):
        (noise,) = draw_noise(iteration, (3,))
        posterior = reference.encode(x)
        z = posterior.mean + posterior.stddev * noise
        kl = torch.distributions.kl_divergence(posterior, reference.prior())
        step_on_joined_batch(reference, -(reference.decode(z).log_prob(x) - kl).mean())
    torch.testing.assert_close(weights, dict(reference.state_dict()), rtol=1e-9, atol=1e-12)


def test_an_average_over_two_ranks_counts_the_images_of_both(tmp_path):
    """One iteration on 2 x 64 images is one half-life of 128 images: the average is half way to the new weights."""
    ema = tmp_path / "ema.yaml"
    average = "{class_path: gen_lightning.gan.EMA, init_args: {half_life: 128, ramp: null}}"
    ema.write_text(f"model: {{init_args: {{ema: {average}}}}}")
    arguments = ["--config", str(CONFIGS / "gan/mlp.yaml"), "--config", str(ema), *ONE_STEP]
    start = load(fit(tmp_path, *arguments, "--model.generator_optimizer.lr=0") / "checkpoints/last.ckpt")["state_dict"]
    trained = fit(tmp_path, *arguments, "--model.gradient_clip_norm=1", world_size=2)
    end = load(trained / "checkpoints/last.ckpt")["state_dict"]
    names = [name.removeprefix("generator.") for name in end if name.startswith("generator.")]
    for name in names:
        before, after = start[f"generator.{name}"], end[f"generator.{name}"]
        assert not torch.equal(before, after)
        torch.testing.assert_close(end[f"ema.network.{name}"], (before + after) / 2)


@pytest.mark.parametrize(("recipe", "num_images"), [("conv", 1197), ("autoregressive", 1427)])
def test_ddp_resumes_exactly(recipe, num_images, tmp_path):
    """conv has batch normalization; autoregressive has bfloat16, stochastic layers, the path gradient and Muon."""
    arguments = ["--config", str(CONFIGS / f"vae/{recipe}.yaml"), "--trainer.logger=false"]
    reference = fit(tmp_path, *arguments, "--trainer.max_epochs=2", world_size=2)
    stopped = fit(tmp_path, *arguments, "--trainer.max_epochs=1", world_size=2)
    fit(tmp_path, "--resume", str(stopped), "--trainer.max_epochs=2", world_size=2)
    one, other = (load(run / "checkpoints/last.ckpt") for run in (stopped, reference))
    assert one["global_step"] == 2 * (num_images // 128)
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name])


def test_a_report_over_two_ranks_equals_one_over_one(tmp_path):
    """The decoder has batch normalization, and the model is trained on two ranks. Values per image are bit-equal."""
    arguments = ["--config", str(CONFIGS / "vae/conv.yaml"), "--trainer.logger=false", *FEW_BATCHES]
    trained = fit(tmp_path, *arguments, world_size=2)
    likelihood = ["--trainer.callbacks+=callbacks.ImportanceSampledLikelihood", "--trainer.callbacks.num_samples=2"]
    reports = []
    checkpoint = ["--ckpt_path", str(trained / "checkpoints/last.ckpt")]
    for world_size in (1, 2):
        run(tmp_path, "test", *checkpoint, "--num_samples=1200", *likelihood, world_size=world_size)
        reports.append(json.loads((trained / "metrics.json").read_text())["test"]["metrics"])
    assert reports[0]["fid/mnist_cnn"]["n"] == 1200
    assert reports[0].keys() == reports[1].keys()
    # These two have one latent per image, which is drawn batch by batch.
    for name in reports[0].keys() - {"elbo", "distortion"}:
        numbers = [[report[name][field] or 0 for field in ("value", "error", "floor")] for report in reports]
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-4, abs=1e-6), name
    for name in ("bound/1", "nll/2", "active_units", "mutual_information", "knn_accuracy"):
        assert reports[0][name] == reports[1][name], name


def test_modes_over_two_ranks_equal_those_over_one(tmp_path):
    points = [
        "--data=datamodules.GaussianMixtureDataModule",
        "--data.mixture=datamodules.Ring",
        "--data.mixture.sigma=1",  # so wide that some samples of an untrained model belong to a mode
        "--data.num_samples=256",
        "--data.num_held_out=64",
        "--model.generator=gen_lightning.networks.MLPDecoder",
    ]
    arguments = ["--config", str(CONFIGS / "gan/mlp.yaml"), *points, "--trainer.callbacks=callbacks.ModeCoverage"]
    run(tmp_path, "fit", *arguments, *FEW_BATCHES, "--trainer.logger=false", world_size=2)
    (trained,) = tmp_path.glob("runs/*/*")
    values = []
    for world_size in (1, 2):
        run(tmp_path, "test", "--ckpt_path", str(trained / "checkpoints/last.ckpt"), world_size=world_size)
        values.append(json.loads((trained / "metrics.json").read_text())["test"]["metrics"]["reverse_kl"]["value"])
    assert 0 < values[0] == values[1] < math.inf


def test_lightnings_launcher_starts_both_ranks(tmp_path):
    arguments = ["--config", str(CONFIGS / "gan/mlp.yaml"), *DIGITS, *DDP, "--trainer.max_epochs=1"]
    finished = run_command("fit", *arguments, "--trainer.logger=false", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    (trained,) = tmp_path.glob("runs/*/*")
    assert load(trained / "checkpoints/last.ckpt")["global_step"] == 1197 // 128


def test_torchrun_with_two_processes_makes_one_run(tmp_path):
    """As on a cluster: each process is started by itself, and reads its rank from the environment."""
    finished = run_python(
        *("-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"),
        *("--rdzv_endpoint=127.0.0.1:0", "--local_addr=127.0.0.1"),
        *(str(ROOT / "train.py"), "fit", "--config", str(CONFIGS / "gan/mlp.yaml"), *DIGITS, *DDP),
        "--trainer.max_epochs=1",
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    (trained,) = tmp_path.glob("runs/*/*")
    assert load(trained / "checkpoints/last.ckpt")["global_step"] == 1197 // 128
    assert read_wandb_records(trained)


def test_the_reference_step_is_a_step_of_sgd():
    """A check of the function that both gradient tests use."""
    network = nn.Linear(2, 1)
    before = copy.deepcopy(network)
    step_on_joined_batch(network, network(torch.ones(1, 2)).sum())
    torch.testing.assert_close(network.weight, before.weight - LEARNING_RATE)
