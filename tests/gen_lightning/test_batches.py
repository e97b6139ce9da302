"""Batches of any size: what is weighed, counted and checked holds for each of them, not for the first one alone."""

import copy
import math
from functools import partial

import pytest
import torch
from helpers import gan, load, vae
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning import GANModule
from gen_lightning.errors import UserError
from gen_lightning.gan import EMA, R1, NonSaturating, RelativisticPaired, Wasserstein
from gen_lightning.networks import (
    ConditionalGenerator,
    MLPDecoder,
    MLPEncoder,
    MLPGenerator,
    Packing,
    ProjectionDiscriminator,
)
from gen_lightning.vae import MMD, Bernoulli, BetaTC, ContinuousBernoulli, DiscretizedLogistic, Gaussian

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def build_gan(**arguments):
    """Return a GAN of points in the plane."""
    torch.manual_seed(0)
    defaults = {"generator": MLPDecoder, "data_shape": (2,), "latent_dim": 3}
    return gan(**defaults | {"generator_optimizer": sgd, "discriminator_optimizer": sgd} | arguments)


def build_loader(sizes, shape=(2,), seed=0):
    """Return batches of these sizes, as (data, labels)."""
    generator = torch.Generator().manual_seed(seed)
    return load_batches(*(torch.rand(size, *shape, generator=generator) for size in sizes))


def load_batches(*batches):
    """Return a loader of batches of data."""
    return DataLoader([(data, torch.zeros(len(data))) for data in batches], batch_size=None)


def train(model, loader, validation=None, **arguments):
    trainer = Trainer(accelerator="cpu", **{"max_epochs": 1, **QUIET, **arguments})
    trainer.fit(model, loader, validation)
    return trainer


class TestSizes:
    @pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPaired(), Wasserstein(clip=0.5)])
    @pytest.mark.parametrize("last", [1, 2, 3, 5, 6, 7, 13])
    def test_the_gradients_of_a_batch_of_any_size_are_those_of_its_mean_loss(self, loss, last):
        weights = []
        for micro_batches in (1, 4):
            model = build_gan(loss=loss, regularizers=[R1(1.0)], micro_batches=micro_batches)
            train(model, build_loader([8, last]), precision="64-true")
            weights.append(model.state_dict())
        torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("last", [5, 6, 7, 9, 11])
    def test_the_number_of_discriminator_updates_is_kept(self, last):
        model, sizes = build_gan(discriminator_steps=5, discriminator_optimizer=torch.optim.Adam), []
        model.generator.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
        trainer = train(model, build_loader([10, last]))
        assert all(state["step"] == 10 for state in trainer.optimizers[1].state.values())
        assert trainer.global_step == 2
        assert sum(sizes[6:11]) == last
        assert max(sizes[6:11]) - min(sizes[6:11]) <= 1

    def test_a_batch_with_fewer_examples_than_discriminator_updates_is_refused_before_any_update(self):
        model = build_gan(discriminator_steps=5)
        reference = train(copy.deepcopy(model), build_loader([10])).lightning_module.state_dict()
        with pytest.raises(ValueError, match=r"A batch has 4 example.* discriminator_steps=5\. Set drop_last=True"):
            train(model, build_loader([10, 4]))
        assert all(torch.equal(value, reference[name]) for name, value in model.state_dict().items())

    def test_the_last_batch_of_a_plain_loader_trains(self):
        loader = DataLoader(TensorDataset(torch.rand(22, 2), torch.zeros(22)), 10)
        assert train(build_gan(discriminator_steps=2, micro_batches=5), loader).global_step == 3

    def test_an_incomplete_pack_is_refused_with_the_option(self):
        model = build_gan(discriminator=partial(Packing, discriminator=build_discriminator))
        with pytest.raises(ValueError, match=r"3 examples cannot be divided into packs of 2.*drop_last=True"):
            train(model, build_loader([4, 3]))

    @pytest.mark.parametrize("objective", [BetaTC(dataset_size=100), MMD(weight=1.0)])
    def test_a_single_example_without_statistics_is_refused_with_the_option(self, objective):
        model = vae(likelihood=partial(Gaussian, squash=nn.Identity), data_shape=(2,), objective=objective)
        with pytest.raises(ValueError, match="drop_last=True"):
            train(model, build_loader([4, 1]))

    def test_a_single_example_is_refused_by_batch_normalization_of_vectors(self):
        def encoder(shape, num_features):
            return nn.Sequential(nn.Linear(*shape, num_features), nn.BatchNorm1d(num_features))

        model = vae(likelihood=partial(Gaussian, squash=nn.Identity), data_shape=(2,), encoder=encoder)
        with pytest.raises(ValueError, match=r"1 example.*batch normalization.*drop_last=True"):
            train(model, build_loader([4, 1]))


def build_discriminator(data_shape):
    return nn.Sequential(nn.Linear(*data_shape, 1), nn.Flatten(0))


class TestCounts:
    def test_images_seen_are_the_examples_of_all_batches(self, tmp_path):
        class Record(Callback):
            def __init__(self):
                self.logged, self.counted = [], []

            def on_train_batch_end(self, trainer, pl_module, *_):
                self.logged.append(trainer.callback_metrics["images_seen"].item())
                self.counted.append(pl_module.images_seen)

        for make in (build_gan, partial(vae, likelihood=partial(Gaussian, squash=nn.Identity), data_shape=(2,))):
            record, model = Record(), make()
            sizes = [10, 10, 3]
            trainer = train(model, build_loader(sizes), max_epochs=2, log_every_n_steps=1, callbacks=[record])
            assert record.logged == record.counted == [10, 20, 23, 33, 43, 46]
            trainer.save_checkpoint(tmp_path / "model.ckpt")
            assert load(tmp_path / "model.ckpt")["images_seen"] == 46

    def test_a_resumed_count_goes_on(self, tmp_path):
        path = tmp_path / "model.ckpt"
        train(build_gan(), build_loader([10, 10, 3])).save_checkpoint(path)
        resumed = build_gan()
        Trainer(accelerator="cpu", max_epochs=2, **QUIET).fit(
            resumed, build_loader([10, 10, 3]), ckpt_path=path, weights_only=True
        )
        assert resumed.images_seen == 46

    def test_an_earlier_versions_checkpoint_had_batches_of_one_size(self, tmp_path):
        path = tmp_path / "model.ckpt"
        train(build_gan(), build_loader([10, 10])).save_checkpoint(path)
        checkpoint = load(path)
        del checkpoint["images_seen"]
        torch.save(checkpoint, path)
        resumed = build_gan()
        Trainer(accelerator="cpu", max_epochs=2, **QUIET).fit(
            resumed, build_loader([10, 10]), ckpt_path=path, weights_only=True
        )
        assert resumed.images_seen == 40

    def test_the_average_decays_by_the_images_of_each_batch(self):
        model, decays = build_gan(ema=partial(EMA, half_life=20.0, ramp=0.5)), []
        compute = model.ema.compute_decay
        model.ema.compute_decay = lambda *arguments: decays.append(compute(*arguments)) or decays[-1]
        train(model, build_loader([10, 6, 2]), max_epochs=2)
        expected = [0, *(0.5 ** (n / min(20, seen / 2)) for n, seen in [(6, 10), (2, 16), (10, 18), (6, 28), (2, 34)])]
        assert decays == pytest.approx(expected)


def spoil(loader, number, value):
    loader.dataset[number][0][-1, 0] = value
    return loader


class TestValues:
    """Values that no model can be trained on are refused in any batch of any split."""

    @pytest.mark.parametrize("number", [0, 1, 2])
    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (math.nan, "training data have a value that is not finite"),
            (math.inf, "training data have a value that is not finite"),
            (1e30, r"training data reach from .* to 1e\+30\. Scale"),
            (-1e30, r"training data reach from -1e\+30 to .*\. Scale"),
        ],
    )
    def test_of_training(self, value, sentence, number):
        model = build_gan()
        before = train(copy.deepcopy(model), build_loader([4] * 3), max_steps=number).lightning_module.state_dict()
        with pytest.raises(ValueError, match=sentence):
            train(model, spoil(build_loader([4] * 3), number, value))
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    @pytest.mark.parametrize("number", [0, 2])
    @pytest.mark.parametrize(("value", "sentence"), [(math.nan, "not finite"), (1e30, "Scale")])
    def test_of_validation(self, number, value, sentence):
        with pytest.raises(ValueError, match=f"validation data .*{sentence}"):
            train(build_gan(), build_loader([4]), spoil(build_loader([4] * 3), number, value))

    def test_of_test(self):
        with pytest.raises(ValueError, match="test data have a value that is not finite"):
            Trainer(accelerator="cpu", **QUIET).test(build_gan(), spoil(build_loader([4, 4]), 1, math.nan))

    @pytest.mark.parametrize("make", [build_gan, partial(vae, data_shape=(2,))])
    def test_equal_values_are_told(self, make):
        equal = load_batches(*[torch.ones(4, 2)] * 3)
        with pytest.warns(UserWarning, match=r"All values of the training data so far are 1\. Check"):
            train(make(), equal)
        with pytest.warns(UserWarning, match=r"All values of the validation data so far are 1\. Check"):
            train(make(), load_batches(torch.tensor([[0.0, 1.0]])), equal)

    def test_a_batch_of_equal_values_among_others_is_not_told(self, recwarn):
        train(build_gan(), load_batches(torch.rand(4, 2), torch.ones(4, 2)))
        assert not [warning for warning in recwarn if "All values" in str(warning.message)]

    @pytest.mark.parametrize(
        ("likelihood", "first", "later"),
        [
            (Bernoulli, 1.0, 0.5),
            (ContinuousBernoulli, 0.5, 1.5),
            (Gaussian, 0.5, -0.5),
            (DiscretizedLogistic, 128 / 255, 0.3),
        ],
    )
    def test_values_outside_the_support_of_the_likelihood_are_refused_in_a_later_batch(self, likelihood, first, later):
        data = torch.tensor([[0.0, first], [1.0, 0.0]])
        loader = load_batches(data, torch.tensor([[0.0, later], [1.0, 0.0]]))
        with pytest.raises(ValueError, match=r"training data have values outside the support of the likelihood"):
            train(vae(likelihood=likelihood, data_shape=(2,)), loader)

    @pytest.mark.parametrize("likelihood", [ContinuousBernoulli, DiscretizedLogistic])
    def test_a_later_batch_of_black_and_white_is_no_other_kind_of_data(self, likelihood):
        data = torch.tensor([[0.0, 128 / 255], [1.0, 0.0]])
        train(vae(likelihood=likelihood, data_shape=(2,)), load_batches(data, data.round()))

    def test_another_shape_or_type_is_refused_in_a_later_batch(self):
        for data, sentence in [(torch.rand(4, 3), r"shape \(3,\)"), (torch.ones(4, 2).long(), "torch.int64.*float32")]:
            with pytest.raises(ValueError, match=sentence):
                train(build_gan(), load_batches(torch.rand(4, 2), data))

    @pytest.mark.parametrize("batch", [{"data": torch.rand(4, 2)}, torch.rand(4, 2), ([[0.5, 0.5]], [0])])
    def test_a_batch_that_is_no_pair_of_tensors_is_refused(self, batch):
        with pytest.raises(ValueError, match=r"Return \(data, labels\)"):
            train(build_gan(), DataLoader([batch], batch_size=None))


class TestRange:
    """A GAN refuses data that its generator cannot return, in any batch of any split."""

    @pytest.mark.parametrize("number", [0, 1, 2])
    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (-1.0, r"training data range from -1 to 0\.\d+, and MLPGenerator returns"),
            (255.0, r"training data range from 0\.\d+ to 255, and MLPGenerator returns"),
        ],
    )
    def test_a_value_outside_the_range_is_refused_before_its_batch_is_trained_on(self, value, sentence, number):
        model = build_gan(generator=MLPGenerator)
        before = train(copy.deepcopy(model), build_loader([4] * 3), max_steps=number).lightning_module.state_dict()
        with pytest.raises(UserError, match=sentence + r" 0 to 1\. Scale the data"):
            train(model, spoil(build_loader([4] * 3), number, value))
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    def test_in_validation_and_test(self):
        model, loader = build_gan(generator=MLPGenerator), spoil(build_loader([4, 4]), 1, -1.0)
        with pytest.raises(UserError, match="validation data range from -1"):
            train(model, build_loader([4]), loader)
        with pytest.raises(UserError, match="test data range from -1"):
            Trainer(accelerator="cpu", **QUIET).test(model, loader)

    def test_the_first_batch_is_refused_if_later_ones_are_only_looked_at_when_scalars_are_logged(self, monkeypatch):
        """As on a GPU."""
        check = GANModule._check_batch
        monkeypatch.setattr(GANModule, "_check_batch", lambda *args, reads_values: check(*args, reads_values=False))
        with pytest.raises(UserError, match="training data range from -1"):
            train(build_gan(generator=MLPGenerator), spoil(build_loader([4]), 0, -1.0))
        with pytest.raises(UserError, match="training data range from -1"):
            train(build_gan(generator=MLPGenerator), spoil(build_loader([4] * 3), 1, -1.0))

    def test_the_range_of_a_conditional_generator_with_an_average_is_that_of_the_generator(self):
        networks = {
            "generator": partial(ConditionalGenerator, generator=MLPGenerator, num_classes=2),
            "discriminator": partial(ProjectionDiscriminator, encoder=MLPEncoder, num_classes=2),
        }
        loader = DataLoader(TensorDataset(-torch.eye(4, 2), torch.tensor([0, 1, 1, 0])), 4)
        with pytest.raises(UserError, match="ConditionalGenerator returns 0 to 1"):
            train(build_gan(ema=EMA, **networks), loader)

    @pytest.mark.parametrize("value", [-0.0009, 1.0009])
    def test_the_rounding_of_scaled_data_is_accepted(self, value):
        train(build_gan(generator=MLPGenerator), spoil(build_loader([4]), 0, value))

    def test_an_unbounded_generator_accepts_any_range(self):
        train(build_gan(generator=MLPDecoder), spoil(build_loader([4]), 0, -200.0))

    def test_a_generator_that_does_not_say_its_range_accepts_any_range(self):
        class Squashed(MLPDecoder):
            def forward(self, z):
                return super().forward(z).sigmoid()

        train(build_gan(generator=Squashed), spoil(build_loader([4]), 0, -200.0))

    def test_a_generator_may_say_another_range(self):
        class Symmetric(MLPDecoder):
            output_range = (-1.0, 1.0)

        train(build_gan(generator=Symmetric), spoil(build_loader([4]), 0, -1.0))
        with pytest.raises(UserError, match=r"from -2 to .*Symmetric returns -1 to 1"):
            train(build_gan(generator=Symmetric), spoil(build_loader([4]), 0, -2.0))


class TestTypes:
    """Data of another type are refused by name, and floating-point data are converted to the model's precision."""

    @pytest.mark.parametrize("make", [gan, vae])
    @pytest.mark.parametrize("precision", ["32-true", "64-true"])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    def test_numbers_without_a_fraction_are_refused(self, make, precision, dtype):
        loader = load_batches(torch.ones(4, 1, 28, 28, dtype=dtype))
        with pytest.raises(UserError, match=rf"The data are {dtype}\. Convert them to float32, .*images\.float"):
            train(make(), loader, precision=precision)

    @pytest.mark.parametrize("make", [gan, vae])
    @pytest.mark.parametrize("precision", ["32-true", "64-true"])
    def test_float64_data_train_as_the_same_data_in_the_models_precision(self, make, precision):
        images, weights = torch.rand(4, 1, 28, 28).round().double(), []
        for dtype in (torch.float64, torch.float32):
            torch.manual_seed(0)
            trainer = train(make(), load_batches(images.to(dtype)), load_batches(images.to(dtype)), precision=precision)
            weights.append(trainer.lightning_module.state_dict())
        assert {weight.dtype for weight in weights[0].values()} == {
            torch.float64 if "64" in precision else torch.float32
        }
        assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_the_order_of_a_plain_loader_differs_between_epochs_with_a_validation():
    class Record(Callback):
        def __init__(self):
            self.orders = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.orders.append(tuple(batch[0][:, 0].tolist()))

    record = Record()
    loader = DataLoader(TensorDataset(torch.rand(8, 2), torch.zeros(8)), 8, shuffle=True)
    train(build_gan(), loader, build_loader([4]), max_epochs=4, callbacks=[record])
    assert len(set(record.orders)) == 4
