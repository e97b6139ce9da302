"""LatentMetrics: for given posteriors, and for a model."""

import math
import warnings
from functools import partial

import pytest
import torch
from helpers import Examples, GivenModel, gan, run_test, vae
from lightning.pytorch import Trainer
from torch.distributions import Independent, Normal

from callbacks import LatentMetrics
from datamodules import MNISTDataModule
from gen_lightning.vae import Beta, Hierarchy

DIGITS = torch.arange(100) % 10


class Posteriors(GivenModel):
    """A model whose posterior means are the scaled data."""

    def __init__(self, scale, deviation=1.0):
        super().__init__()
        self.scale, self.deviation = torch.tensor(scale), deviation

    def encode(self, x):
        mean = x * self.scale
        return Independent(Normal(mean, torch.full_like(mean, self.deviation)), 1)


def one_hot():
    return Examples(torch.eye(10)[DIGITS], DIGITS)


def test_latents_that_are_the_label_have_its_information_and_no_more():
    """Ten posteriors that do not overlap: the mutual information is log 10, for 100 images."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The posterior has collapsed")
        rows = run_test(LatentMetrics(), Posteriors(1.0, 0.01), one_hot())
    assert rows["mutual_information"].value == pytest.approx(math.log(10), rel=1e-5)
    assert [rows[name].value for name in ("linear_accuracy", "knn_accuracy")] == [1, 1]
    assert [rows[name].value for name in ("active_units", "posterior_collapse")] == [10, 0]
    assert {row.n for row in rows.values()} == {100}
    assert [rows[name].better for name in ("linear_accuracy", "knn_accuracy", "active_units")] == [
        *["higher"] * 2,
        None,
    ]


def test_a_collapsed_posterior_gives_a_warning():
    with pytest.warns(
        UserWarning, match="collapsed: 0 of 10 latent dimensions are active, and the mutual .* is 0 nats"
    ):
        rows = run_test(LatentMetrics(), Posteriors(0.0), one_hot())
    assert [rows[name].value for name in ("active_units", "mutual_information", "posterior_collapse")] == [0, 0, 1]
    assert rows["linear_accuracy"].value == pytest.approx(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "collapsed"), [(1e6, True), (0.0, False)])
def test_a_posterior_that_collapses_in_training_gives_one_warning(beta, collapsed):
    """The weight of the rate is so large that nothing else is trained, or 0."""
    model = vae(objective=Beta(beta), latent_dim=10, optimizer=partial(torch.optim.Adam, lr=0.01))
    data, latents = MNISTDataModule("digits", binarization="dynamic"), LatentMetrics()
    trainer = Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[latents])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, data)
    reported = [str(warning.message) for warning in caught if "posterior has collapsed" in str(warning.message)]
    assert len(reported) == collapsed
    assert latents.state_dict() == {"warned": collapsed}
    with torch.no_grad():
        means = torch.cat([model.encode(images).mean for images, _ in data.examples("val")])
    assert trainer.callback_metrics["val/active_units"] == (means.var(0) > 0.01).sum()


@pytest.mark.parametrize(("dimensions", "collapsed"), [(20, 0), (21, 1)])
def test_one_active_unit_of_20_is_no_collapse_and_one_of_21_is(dimensions, collapsed):
    x = torch.zeros(100, dimensions)
    x[:, 0] = torch.arange(100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = run_test(LatentMetrics(), Posteriors(1.0), Examples(x, DIGITS))
    assert (rows["active_units"].value, rows["posterior_collapse"].value) == (1, collapsed)


def test_active_units_are_counted_for_each_layer():
    """The first layer is the data; the second is half of the first."""

    class Layers(Posteriors):
        def encode(self, x):
            first = super().encode(x)
            halves = lambda z: Independent(Normal(z[..., :5], 1.0), 1)  # noqa: E731
            return Hierarchy((10, 5), x.shape[:1], lambda choose: choose(1, halves(choose(0, first))), False)

    rows = run_test(LatentMetrics(), Layers(1.0), one_hot())
    assert [rows[name].value for name in ("active_units", "active_units/1", "active_units/2")] == [15, 10, 5]


def test_active_units_without_information_are_a_collapse():
    """The means vary, but far less than the standard deviation of the posteriors."""
    with pytest.warns(UserWarning, match="collapsed: 10 of 10"):
        rows = run_test(LatentMetrics(), Posteriors(1.0, 10.0), one_hot())
    assert rows["posterior_collapse"].value == 1


def test_the_rows_do_not_depend_on_the_batch_size_of_the_data():
    model = vae()
    one, other = (
        run_test(LatentMetrics(), model, MNISTDataModule("digits", batch_size=size, binarization="dynamic"))
        for size in (17, 360)
    )
    assert one == other
    assert one["active_units"].n == 360


def test_probes_are_fitted_to_the_first_training_images():
    accuracies = [run_test(LatentMetrics(n), Posteriors(1.0), one_hot())["linear_accuracy"].value for n in (5, 8, 10)]
    assert accuracies == pytest.approx([0.5, 0.8, 1])


def test_a_conditional_model_has_no_probes():
    model = Posteriors(1.0)
    others = run_test(LatentMetrics(), model, one_hot())
    model.num_classes = 10
    rows = run_test(LatentMetrics(), model, one_hot())
    assert others.keys() - rows.keys() == {"linear_accuracy", "knn_accuracy"}
    assert all(row == others[name] for name, row in rows.items())


def test_probes_need_two_classes():
    rows = run_test(LatentMetrics(), Posteriors(1.0), Examples(torch.eye(10)[DIGITS], torch.zeros_like(DIGITS)))
    assert rows.keys() == {"active_units", "mutual_information", "posterior_collapse"}


def test_fewer_training_images_than_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"`LatentMetrics\.num_training_images` is 4\. Choose at least 5"):
        LatentMetrics(4)


def test_a_model_without_a_posterior_is_refused():
    with pytest.raises(
        ValueError, match=r"needs a model that infers latent variables .*, but GANModule has no `encode`"
    ):
        run_test(LatentMetrics(), gan(), MNISTDataModule("digits"))


def test_a_data_module_without_examples_is_refused():
    with pytest.raises(
        ValueError, match=r"LatentMetrics needs a data module with .* labelled examples, but there is none"
    ):
        run_test(LatentMetrics(), Posteriors(1.0), [torch.zeros(2, 1)])
