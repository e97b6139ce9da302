"""Batches of random sizes, and random values that no model can be trained on in any batch of any split."""

import math
from functools import partial

import pytest
import torch
from helpers import gan, vae
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from gen_lightning.errors import UserError
from gen_lightning.gan import R1, Hinge, RelativisticPaired
from gen_lightning.networks import MLPDecoder
from gen_lightning.vae import Gaussian

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def load_batches(batches):
    return DataLoader([(data, torch.zeros(len(data))) for data in batches], batch_size=None)


def build_gan(seed, **arguments):
    torch.manual_seed(seed)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    optimizers = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer}
    return gan(generator=MLPDecoder, data_shape=(2,), latent_dim=3, regularizers=[R1(1.0)], **optimizers, **arguments)


def count_update(updates, discriminator):
    updates[-1] += 1


def fit_or_refuse(model, loader):
    """Train in 64 bits, and return the sentence of a refusal, or None."""
    try:
        Trainer(accelerator="cpu", precision="64-true", max_epochs=1, **QUIET).fit(model, loader)
    except UserError as error:
        return str(error)
    return None


def test_batches_of_any_size_train_like_one_part_or_are_refused(trials):
    for trial in trials("batches of any size", 8, 100):
        with trial:
            draw = trial.random
            steps, parts = draw.randint(1, 5), draw.randint(2, 6)
            sizes = [steps * parts * draw.randint(1, 3), *(draw.randint(1, 40) for _ in range(3))]
            torch.manual_seed(trial.index)
            batches = [torch.randn(size, 2) for size in sizes]
            loss = draw.choice([Hinge, RelativisticPaired])
            weights, updates = [], []
            for micro_batches in (1, parts):
                model = build_gan(trial.index, loss=loss(), discriminator_steps=steps, micro_batches=micro_batches)
                updates.append(0)
                model.loss.constrain = partial(count_update, updates)
                refusal = fit_or_refuse(model, load_batches(batches))
                assert (refusal is None) == (min(sizes) >= steps), refusal
                assert refusal is not None or (updates[-1], model.images_seen) == (steps * len(sizes), sum(sizes))
                weights.append(model.state_dict())
            torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-12)


def test_values_that_no_model_can_be_trained_on_are_reported(trials):
    for trial in trials("NaN, infinite and huge values in one batch", 12, 100):
        with trial:
            draw = trial.random
            torch.manual_seed(trial.index)
            split = draw.choice(["training", "validation", "test"])
            batches = {name: [torch.randn(draw.randint(2, 9), 2) for _ in range(6)] for name in (split, "training")}
            spoiled = draw.choice(batches[split])
            spoiled[draw.randrange(len(spoiled)), draw.randrange(2)] = draw.choice(
                [math.nan, math.inf, -math.inf, 1e30, -1e30, 1e7]
            )
            model = (
                build_gan(trial.index)
                if draw.random() < 0.5
                else vae(likelihood=partial(Gaussian, squash=nn.Identity), data_shape=(2,))
            )
            trainer = Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=draw.choice([0, 2]), **QUIET)
            validation = load_batches(batches["validation"]) if split == "validation" else None
            run = partial(trainer.fit, model, load_batches(batches["training"]), validation)
            if split == "test":
                run = partial(trainer.test, model, load_batches(batches["test"]))
            with pytest.raises(UserError, match=rf"The {split} data (have a value that is not finite|reach from)"):
                run()
