"""Paths through latent spaces, and the pictures that are decoded along them."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import gan, vae
from lightning.pytorch import Trainer
from PIL import Image
from torch.distributions import Normal

from callbacks import LatentInterpolations, LatentManifold, LatentTraversals
from callbacks.latent_pictures import quantile_grid, rank_by_activity, recover_noise, slerp, transform_noise, traverse
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
    fractions = torch.linspace(0, 1, 7, dtype=torch.float64).unsqueeze(1)
    path = slerp(start, end, fractions)
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(5, 7, dtype=torch.float64))
    torch.testing.assert_close(path[:, [0, -1]], torch.cat([start, end], 1))
    angles = (path[:, 1:] * path[:, :-1]).sum(-1).acos()
    torch.testing.assert_close(angles, ((start * end).sum(-1).acos() / 6).expand(5, 6))


def test_slerp_of_parallel_vectors_is_a_straight_line():
    start = unit(3)
    fractions = torch.tensor([[0.0], [0.25], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(slerp(start, 3 * start, fractions), (1 + 2 * fractions) * start, rtol=1e-5, atol=1e-5)


def test_traversals_move_the_most_active_dimensions_one_at_a_time():
    means = torch.tensor([[1.0, 5.0, 0.0], [1.0, -5.0, 2.0]])
    assert rank_by_activity(means, 2).tolist() == [1, 2]
    assert rank_by_activity(means, 7).tolist() == [1, 2, 0]
    rows = traverse(means[0], torch.tensor([1, 2]), 3)
    assert rows[0].tolist() == [[1, -3, 0], [1, 0, 0], [1, 3, 0]]
    assert rows[1].tolist() == [[1, 5, -3], [1, 5, 0], [1, 5, 3]]


def test_the_points_of_the_manifold_have_equal_probability():
    grid = quantile_grid(4)
    levels = torch.tensor([0.125, 0.375, 0.625, 0.875])
    cdf = Normal(0.0, 1.0).cdf(grid)
    torch.testing.assert_close(cdf[..., 0], levels.expand(4, 4))
    torch.testing.assert_close(cdf[..., 1], levels.flip(0).unsqueeze(1).expand(4, 4))


def draw_pictures(callbacks, model, tmp_path):
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
    """The model has batch normalization, whose buffers a picture in training mode would change."""

    def weights(callbacks):
        torch.manual_seed(0)
        model = vae(encoder=partial(DCGANEncoder, width=4), decoder=partial(DCGANDecoder, width=4), latent_dim=2)
        draw_pictures(callbacks, model, tmp_path)
        return model.state_dict()

    drawn, plain = weights([LatentInterpolations(1), LatentTraversals(1), LatentManifold(1)]), weights([])
    assert all(torch.equal(value, plain[name]) for name, value in drawn.items())


def compute_size(rows, columns):
    return (rows * 30 + 2, columns * 30 + 2, 3)


def test_pictures_have_their_rows_and_columns_and_are_drawn_when_due_and_at_the_end(tmp_path):
    callbacks = [
        LatentInterpolations(2, num_pairs=3, num_steps=5),
        LatentTraversals(2, num_dimensions=4, num_steps=3),
        LatentManifold(2, num_steps=6),
    ]
    drawn = draw_pictures(callbacks, vae(latent_dim=2), tmp_path)
    sizes = {"interpolations": compute_size(3, 5), "traversals": compute_size(2, 3), "manifold": compute_size(6, 6)}
    assert drawn == {f"{name}/iteration_000000{i}.png": size for name, size in sizes.items() for i in (2, 3)}


def test_conditional_models_models_with_layers_and_gans_are_drawn(tmp_path):
    callbacks = [LatentInterpolations(9, num_pairs=12, num_steps=2), LatentTraversals(9, num_steps=3)]
    drawn = draw_pictures(callbacks, vae(**CONDITIONAL, latent_dim=4), tmp_path / "vae")
    assert sorted(drawn.values()) == [compute_size(4, 3), compute_size(12, 2)]
    drawn = draw_pictures(callbacks, vae(**LAYERS), tmp_path / "layers")
    assert sorted(drawn.values()) == [compute_size(4, 3), compute_size(12, 2)]
    drawn = draw_pictures(
        [LatentInterpolations(9, num_pairs=2), LatentManifold(9)], gan(latent_dim=2), tmp_path / "gan"
    )
    assert sorted(drawn.values()) == [compute_size(2, 10), compute_size(20, 20)]


@torch.no_grad()
def test_noise_in_layers_is_transformed_to_the_latents_it_was_recovered_from():
    """The decoded noise of a posterior mean equals the reconstruction; the noise differs from the latent."""
    torch.manual_seed(0)
    model = vae(**LAYERS)
    x = torch.rand(5, 1, 28, 28).round()
    z = model.encode(x).mean
    noise = recover_noise(model, z)
    assert not torch.allclose(noise, z, atol=1e-3)
    torch.testing.assert_close(model(transform_noise(model, noise)), model.reconstruct(x))


@pytest.mark.parametrize(
    ("callback", "model", "sentence"),
    [
        (LatentManifold, {"latent_dim": 3}, "`latent_dim` is 3. Set --model.latent_dim=2"),
        (LatentManifold, CONDITIONAL | {"latent_dim": 2}, "this model is class-conditional. Choose unconditional"),
        (
            LatentInterpolations,
            {"prior": MixtureOfGaussians},
            "LatentInterpolations draws latents that are normal, in one layer or in several",
        ),
        (LatentInterpolations, {"latent_dim": 1}, "follows great circles, and `latent_dim` is 1"),
        (
            LatentTraversals,
            None,
            "LatentTraversals needs a model that infers latent variables from data, but GANModule has no `encode`",
        ),
        (LatentTraversals, {"data_shape": (2,)}, "draws grey or RGB images"),
    ],
)
def test_models_and_data_that_cannot_be_drawn_are_refused_before_training(callback, model, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        draw_pictures([callback()], gan() if model is None else vae(**model), tmp_path)
