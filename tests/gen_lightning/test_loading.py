"""The data of a user's own DataLoader: the same whatever else is drawn, and every generator is left as it was."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from helpers import gan, vae
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callbacks import Evaluation, LatentMetrics, Reconstructions, SampleGrid
from gen_lightning.networks import MLPDecoder
from gen_lightning.vae import Gaussian

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
BATCHES_PER_EPOCH = 3


class Noisy(Dataset):
    """Points `(index, a draw of torch, a draw of NumPy, a draw of Python)`: a random transform by each generator."""

    def __len__(self):
        return 4 * BATCHES_PER_EPOCH

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()]), 0


class NoisyImages(LightningDataModule):
    """Black images with random noise, and constant splits for callbacks."""

    class Images(Noisy):
        def __getitem__(self, index):
            image = torch.zeros(1, 28, 28)
            image[0, 0, :4] = super().__getitem__(index)[0] / torch.tensor([100, 1, 1, 1])
            return image, 0

    def train_dataloader(self):
        return DataLoader(self.Images(), 4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.Images(), 4)

    def images(self, split):
        yield torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def examples(self, split, n=None):
        for images in self.images(split):
            yield images[:n], torch.arange(100)[:n] % 2


class Record(Callback):
    """Keeps the data of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0 or not self.epochs:
            self.epochs.append([])
        self.epochs[-1] += batch[0].flatten(1).tolist()


class DrawsFromAll(Callback):
    """Draws from every generator after each batch, as a user's callback may do."""

    def on_train_batch_end(self, *_):
        torch.rand(3), np.random.rand(2), random.random()

    on_train_epoch_start = on_validation_end = on_test_batch_end = on_train_batch_end


def build_model(**arguments):
    return gan(**{"data_shape": (4,), "generator": MLPDecoder} | arguments)


def train(workers=0, callbacks=(), validates=False, model=None, checkpoint=None, trainer_seed=5, **options):
    """Train on noisy points, and return the data of each epoch, and the Trainer."""
    # What was drawn before the training is of no importance.
    torch.manual_seed(trainer_seed), np.random.seed(trainer_seed), random.seed(trainer_seed)
    load, record = partial(DataLoader, Noisy(), 4, num_workers=workers), Record()
    options = {"max_epochs": 3, "log_every_n_steps": 1} | QUIET | options
    trainer = Trainer(accelerator="cpu", callbacks=[record, *callbacks], **options)
    model = model or build_model()
    trainer.fit(model, load(shuffle=True), load() if validates else None, ckpt_path=checkpoint, weights_only=True)
    return record.epochs, trainer


@pytest.fixture(scope="module")
def reference():
    """The data of each epoch by the number of workers."""
    return {workers: train(workers)[0] for workers in (0, 2)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {"validates": True},
        {"validates": True, "num_sanity_val_steps": 0, "check_val_every_n_epoch": 2},
        {"validates": True, "val_check_interval": 1},
        {"callbacks": [DrawsFromAll()], "validates": True},
        {"log_every_n_steps": 2},
        {"trainer_seed": 6},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=["validation", "rare validation", "validation within epochs", "callback", "logging", "drawn before", "reload"],
)
def test_training_data_do_not_depend_on_what_else_is_drawn(reference, workers, changes):
    assert train(workers, **changes)[0] == reference[workers]


def test_callbacks_of_a_vae_do_not_change_the_training_data(tmp_path):
    epochs = []
    for callbacks in ([], [Evaluation(num_samples=100), LatentMetrics(), Reconstructions(), SampleGrid(1)]):
        record, limit = Record(), 1.0 if callbacks else 0
        options = {"max_epochs": 2, "limit_val_batches": limit, "default_root_dir": tmp_path} | QUIET
        trainer = Trainer(accelerator="cpu", callbacks=[record, *callbacks], **options)
        trainer.fit(vae(likelihood=Gaussian), NoisyImages())
        epochs.append(record.epochs)
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_and_seeds_have_their_own_order_and_draws(reference, workers):
    epochs = reference[workers] + train(workers, model=build_model(seed=1))[0]
    assert len({tuple(index for index, *_ in epoch) for epoch in epochs}) == 6
    for draw in (1, 2, 3):
        assert len({example[draw] for epoch in epochs for example in epoch}) == 6 * len(Noisy())


def test_the_generators_of_torch_and_numpy_do_not_draw_the_same_numbers(reference):
    torch_draws, numpy_draws = ([example[draw] for example in reference[0][0]] for draw in (1, 2))
    assert np.abs(np.corrcoef(torch_draws, numpy_draws)[0, 1]) < 0.9
    assert not set(torch_draws) & set(numpy_draws)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("validates", [False, True])
def test_a_run_that_is_resumed_at_the_end_of_an_epoch_has_the_data_of_the_uninterrupted_one(
    reference, workers, validates, tmp_path
):
    for stop in ({"max_epochs": 1}, {"max_epochs": -1, "max_steps": 2 * BATCHES_PER_EPOCH}):
        first, trainer = train(workers, validates=validates, **stop)
        trainer.save_checkpoint(tmp_path / "stopped.ckpt")
        rest, _ = train(workers, validates=validates, checkpoint=tmp_path / "stopped.ckpt", trainer_seed=6)
        assert first + rest == reference[workers]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_resumed_within_an_epoch_has_the_same_data_from_the_next_epoch_on(reference, workers, tmp_path):
    _, trainer = train(workers, max_epochs=-1, max_steps=BATCHES_PER_EPOCH + 1)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    (rest, last), _ = train(workers, checkpoint=tmp_path / "stopped.ckpt")
    assert len(rest) == 4 * (BATCHES_PER_EPOCH - 1)
    assert rest != reference[workers][1][4:]
    assert last == reference[workers][2]


def read_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_an_evaluation_leaves_every_generator_as_it_was(verb, workers):
    trainer, model = Trainer(accelerator="cpu", callbacks=[DrawsFromAll()], **QUIET), build_model()
    before = read_states()
    getattr(trainer, verb)(model, DataLoader(Noisy(), 4, num_workers=workers), verbose=False)
    assert read_states() == before


def test_a_validation_in_training_leaves_every_generator_as_it_was():
    class Watch(Callback):
        def __init__(self):
            self.states = []

        def on_train_batch_end(self, *_):
            self.states.append(read_states())

        # Lightning calls this hook after the validation of the epoch's last batch.
        on_train_epoch_end = on_train_batch_end

    watch = Watch()
    train(callbacks=[watch], validates=True, max_epochs=1)
    assert len(watch.states) == BATCHES_PER_EPOCH + 1
    assert watch.states[-1] == watch.states[-2]


def test_each_validation_has_the_same_data():
    class Validations(Callback):
        def __init__(self):
            self.data = []

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            self.data.append(batch[0].tolist())

    validations = Validations()
    train(callbacks=[validations], validates=True, num_sanity_val_steps=0)
    data, n = validations.data, BATCHES_PER_EPOCH
    assert len(data) == 3 * n
    assert data[:n] == data[n : 2 * n] == data[2 * n :]


@pytest.mark.parametrize(
    "make", [build_model, partial(vae, data_shape=(4,), likelihood=partial(Gaussian, squash=nn.Identity))]
)
def test_sampling_leaves_every_generator_as_it_was(make):
    model = make()
    before = read_states()
    model.sample(3, generator=torch.Generator().manual_seed(0))
    with model.evaluating(seed=0):
        torch.rand(3), np.random.rand(2), random.random()
    assert read_states() == before
