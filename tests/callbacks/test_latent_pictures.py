"""Paths through latent spaces, and the pictures that are drawn along them."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import gan, vae
from lightning.pytorch import Trainer
from PIL import Image
from torch.distributions import Normal

from callbacks import LatentInterpolations, LatentManifold, LatentTraversals
from callbacks.latent_pictures import _recover_noise, _transform_noise, most_active, quantile_grid, slerp, traversals
from datamodules import MNISTDataModule
from gen_lightning.networks import (
    ConditionalEncoder,
    ConditionalGenerator,
    DCGANDecoder,
    DCGANEncoder,
    MLPDecoder,
    MLPEncoder,
)
from gen_lightning.vae import BottomUp, MixtureOfGaussians, TopDown

CONDITIONAL = {
    "encoder": partial(ConditionalEncoder, encoder=MLPEncoder),
    "decoder": partial(ConditionalGenerator, generator=MLPDecoder),
}
LAYERS = {
    "posterior": partial(BottomUp, layer_dims=[3, 1]),
    "prior": partial(TopDown, layer_dims=[3, 1]),
    "latent_dim": 4,
}


def unit(*shape):
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_slerp_of_unit_vectors_stays_on_the_sphere_at_equal_angles():
    """Shoemake 1985."""
    start, end = unit(2, 5, 1, 8)
    way = torch.linspace(0, 1, 7, dtype=torch.float64).unsqueeze(1)
    path = slerp(start, end, way)
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(5, 7, dtype=torch.float64))
    torch.testing.assert_close(path[:, [0, -1]], torch.cat([start, end], 1))
    angles = (path[:, 1:] * path[:, :-1]).sum(-1).acos()
    torch.testing.assert_close(angles, ((start * end).sum(-1).acos() / 6).expand(5, 6))


def test_slerp_of_parallel_vectors_is_a_straight_way():
    start = unit(3)
    way = torch.tensor([[0.0], [0.25], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(slerp(start, 3 * start, way), (1 + 2 * way) * start, rtol=1e-5, atol=1e-5)


def test_traversals_move_the_most_active_dimensions_one_at_a_time():
    means = torch.tensor([[1.0, 5.0, 0.0], [1.0, -5.0, 2.0]])
    assert most_active(means, 2).tolist() == [1, 2]
    assert most_active(means, 7).tolist() == [1, 2, 0]
    rows = traversals(means[0], torch.tensor([1, 2]), 3)
    assert rows[0].tolist() == [[1, -3, 0], [1, 0, 0], [1, 3, 0]]
    assert rows[1].tolist() == [[1, 5, -3], [1, 5, 0], [1, 5, 3]]


def test_the_manifold_has_equal_parts_of_the_prior():
    grid = quantile_grid(4)
    levels = torch.tensor([0.125, 0.375, 0.625, 0.875])
    cdf = Normal(0.0, 1.0).cdf(grid)
    torch.testing.assert_close(cdf[..., 0], levels.expand(4, 4))
    torch.testing.assert_close(cdf[..., 1], levels.flip(0).unsqueeze(1).expand(4, 4))


def pictures(callbacks, model, tmp_path):
    trainer = Trainer(
        max_steps=3,
        default_root_dir=tmp_path,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        limit_val_batches=0,
    )
    trainer.fit(model, MNISTDataModule("digits", binarization="dynamic"))
    return {str(path.relative_to(tmp_path)): np.asarray(Image.open(path)).shape for path in tmp_path.rglob("*.png")}


def test_training_is_bit_equal_with_pictures_at_every_iteration(tmp_path):
    """With batch normalization, whose buffers a careless picture would change."""

    def weights(callbacks):
        torch.manual_seed(0)
        model = vae(encoder=partial(DCGANEncoder, width=4), decoder=partial(DCGANDecoder, width=4), latent_dim=2)
        pictures(callbacks, model, tmp_path)
        return model.state_dict()

    drawn, plain = weights([LatentInterpolations(1), LatentTraversals(1), LatentManifold(1)]), weights([])
    assert all(torch.equal(value, plain[name]) for name, value in drawn.items())


def size_of(rows, columns):
    return (rows * 30 + 2, columns * 30 + 2, 3)


def test_each_draws_its_rows_and_columns_in_time_and_at_the_end(tmp_path):
    callbacks = [
        LatentInterpolations(2, num_pairs=3, num_steps=5),
        LatentTraversals(2, num_dimensions=4, num_steps=3),
        LatentManifold(2, num_steps=6),
    ]
    drawn = pictures(callbacks, vae(latent_dim=2), tmp_path)
    sizes = {"interpolations": size_of(3, 5), "traversals": size_of(2, 3), "manifold": size_of(6, 6)}
    assert drawn == {f"{name}/iteration_000000{i}.png": size for name, size in sizes.items() for i in (2, 3)}


def test_conditional_models_layers_and_gans_are_drawn_too(tmp_path):
    callbacks = [LatentInterpolations(9, num_pairs=12, num_steps=2), LatentTraversals(9, num_steps=3)]
    drawn = pictures(callbacks, vae(**CONDITIONAL, latent_dim=4), tmp_path / "vae")
    assert sorted(drawn.values()) == [size_of(4, 3), size_of(12, 2)]
    drawn = pictures(callbacks, vae(**LAYERS), tmp_path / "layers")
    assert sorted(drawn.values()) == [size_of(4, 3), size_of(12, 2)]
    drawn = pictures([LatentInterpolations(9, num_pairs=2), LatentManifold(9)], gan(latent_dim=2), tmp_path / "gan")
    assert sorted(drawn.values()) == [size_of(2, 10), size_of(20, 20)]


@torch.no_grad()
def test_a_picture_of_noise_in_layers_is_of_the_latents_it_makes():
    """A reconstruction is what is drawn of its own noise, which is not the latent itself."""
    torch.manual_seed(0)
    model = vae(**LAYERS)
    x = torch.rand(5, 1, 28, 28).round()
    z = model.encode(x).mean
    noise = _recover_noise(model, z)
    assert not torch.allclose(noise, z, atol=1e-3)
    torch.testing.assert_close(model(_transform_noise(model, noise)), model.reconstruct(x))


@pytest.mark.parametrize(
    ("callback", "model", "sentence"),
    [
        (LatentManifold, {"latent_dim": 3}, "latent_dim is 3: set model.latent_dim to 2"),
        (LatentManifold, CONDITIONAL | {"latent_dim": 2}, "this model is conditional: take networks that are not"),
        (
            LatentInterpolations,
            {"prior": MixtureOfGaussians},
            "LatentInterpolations draws latents that are normal, in one layer or in several",
        ),
        (LatentInterpolations, {"latent_dim": 1}, "goes on circles, and latent_dim is 1"),
        (LatentTraversals, None, "LatentTraversals needs a model with a posterior"),
        (LatentTraversals, {"data_shape": (2,)}, "draws grey or RGB images"),
    ],
)
def test_what_does_not_apply_is_refused_before_training(callback, model, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        pictures([callback()], gan() if model is None else vae(**model), tmp_path)
