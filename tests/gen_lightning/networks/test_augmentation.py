"""Augmentations against all that they may do, one by one."""

import pytest
import torch
import torch.nn.functional as F

from gen_lightning.networks import Affine, AugmentedEncoder, Color, Cutout, Translation

AUGMENTATIONS = [Translation(0.25), Cutout(), Color()]


def kind(value):
    return type(value).__name__


def seeded(augmentation, images, seed=0):
    torch.manual_seed(seed)
    return augmentation(images)


def test_translations_are_all_those_within_the_ratio_and_no_others():
    """An 8 x 10 image by 1/4: shifts of -2 to 2 in both directions, channels together, zeros from outside."""
    image = torch.arange(1.0, 161).view(2, 8, 10)
    shifted = {
        (down, right): F.pad(image, (2 + right, 2 - right, 2 + down, 2 - down))[:, 2:-2, 2:-2]
        for down in range(-2, 3)
        for right in range(-2, 3)
    }
    seen = set()
    for output in seeded(Translation(0.25), image.expand(500, -1, -1, -1)):
        matches = [shift for shift, expected in shifted.items() if torch.equal(output, expected)]
        assert len(matches) == 1
        seen |= set(matches)
    assert seen == shifted.keys()


def test_a_translation_rounds_down_to_pixels():
    """3 of 28 pixels are within 1/8 of them, 4 are not."""
    image = torch.zeros(1, 28, 28)
    image[:, 14, 14] = 1
    places = seeded(Translation(0.125), image.expand(2000, -1, -1, -1)).nonzero()[:, 2:]
    assert places.min().item() == 14 - 3
    assert places.max().item() == 14 + 3


@pytest.mark.parametrize(("size", "ratio", "length"), [(8, 0.5, 4), (7, 0.5, 3), (8, 1.0, 8)])
def test_cutout_hides_one_square_and_leaves_the_rest(size, ratio, length):
    images = torch.rand(1000, 3, size, size) + 0.1
    outputs = seeded(Cutout(ratio), images)
    hidden = (outputs == 0).all(1)
    assert torch.equal(outputs, images * ~hidden.unsqueeze(1))
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    for cut in (rows, columns):
        edges = F.pad(cut.int(), (1, 1)).diff(dim=1)
        assert torch.equal(edges.clamp(min=0).sum(1), torch.ones(1000, dtype=torch.long)), "not one interval"
        lengths = cut.sum(1)
        # Cut off at the border, at most the half whose centre is still inside is left.
        assert lengths.max() == length
        assert lengths.min() == length // 2 + length % 2


def test_brightness_is_within_a_quarter():
    """Of a constant image neither saturation nor contrast change anything."""
    outputs = seeded(Color(), torch.full((4000, 3, 2, 2), 0.5, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(outputs.min(1).values, outputs.max(1).values)
    assert 0.25 <= outputs.min() < 0.26
    assert 0.74 < outputs.max() <= 0.75


def test_contrast_of_a_grey_image_is_within_a_half_and_keeps_it_grey():
    images = torch.rand(1, 1, 4, 4, dtype=torch.float64).expand(4000, 3, 4, 4)
    outputs = seeded(Color(), images)
    torch.testing.assert_close(outputs, outputs[:, :1].expand_as(outputs))
    factors = outputs.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.5 + 1e-9


def test_saturation_scales_the_differences_of_channels():
    """Of an image of one colour, contrast scales them too: the factor is one in [0, 2] times one in [1/2, 3/2]."""
    images = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1).expand(4000, 3, 2, 2)
    outputs = seeded(Color(), images)
    factors = outputs[:, 0] - outputs[:, 1]
    torch.testing.assert_close(outputs[:, 0] - outputs[:, 2], factors / 2)
    assert 0 <= factors.min() < 0.01
    assert 2.5 < factors.max() <= 3
    assert factors.mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=kind)
def test_gradients_flow_twice(augmentation):
    """The first for the generator, the second for a gradient penalty; the square makes the second no zero."""
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64).requires_grad_()

    def function(images):
        return seeded(augmentation, images).square()

    assert torch.autograd.gradcheck(function, images)
    assert torch.autograd.gradgradcheck(function, images)


@pytest.mark.parametrize("augmentation", [*AUGMENTATIONS, Affine()], ids=kind)
def test_each_image_and_each_call_draws_anew_from_the_default_generator(augmentation):
    images = torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1)
    first, second = seeded(augmentation, images), augmentation(images)
    assert first.shape == images.shape
    assert len(first.unique(dim=0)) > 4
    assert not torch.equal(first, second)
    assert torch.equal(first, seeded(augmentation, images))


@pytest.mark.parametrize("augmentation", [Translation(0.5), Cutout(), Affine()], ids=kind)
def test_images_stay_in_the_unit_interval(augmentation):
    outputs = seeded(augmentation, torch.rand(50, 1, 9, 9))
    assert 0 <= outputs.min() < outputs.max() <= 1


@pytest.mark.parametrize("augmentation", [Translation(0.0), Cutout(0.0)], ids=kind)
def test_a_ratio_of_zero_changes_nothing(augmentation):
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(augmentation(images), images)


@pytest.mark.parametrize("build", [Translation, Cutout])
@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_out_of_range_is_refused(build, ratio):
    with pytest.raises(ValueError, match="choose 0 to 1"):
        build(ratio)


class TestAffine:
    def test_nothing_drawn_changes_nothing(self):
        images = torch.rand(5, 3, 8, 8)
        torch.testing.assert_close(Affine(0.0, 0.0, 0.0)(images), images)

    def test_angles_sizes_and_slants_are_those_within_their_limits(self):
        """Read off the slopes of a changed ramp, which is as high as its first coordinate."""
        ramp = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32, dtype=torch.float64).expand(2000, 1, 32, 32)
        sheared = seeded(Affine(degrees=0, scale=0.0, shear=0.5), ramp)[:, 0, 12:20, 12:20] * 16
        slants = sheared.diff(dim=1).mean((1, 2))
        scaled = seeded(Affine(degrees=0, scale=0.2, shear=0.0), ramp)[:, 0, 12:20, 12:20] * 16
        sizes = 1 / scaled.diff(dim=2).mean((1, 2))
        turned = seeded(Affine(degrees=30, scale=0.0, shear=0.0), ramp)[:, 0, 12:20, 12:20] * 16
        angles = torch.rad2deg(torch.atan2(-turned.diff(dim=1).mean((1, 2)), turned.diff(dim=2).mean((1, 2))))
        for values, low, high in ((slants, -0.5, 0.5), (sizes, 0.8, 1.2), (angles, -30.0, 30.0)):
            assert low <= values.min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < values.max() <= high

    @pytest.mark.parametrize("wrong", [{"degrees": -1.0}, {"scale": 1.0}, {"shear": -0.1}])
    def test_limits_out_of_range_are_refused(self, wrong):
        with pytest.raises(ValueError, match="choose 0 or more, and a scale below 1"):
            Affine(**wrong)

    def test_an_encoder_sees_the_change_in_training_alone(self):
        encoder = AugmentedEncoder((1, 8, 8), 5, lambda shape, features: torch.nn.Flatten(), [Translation(0.5)])
        images = torch.rand(4, 1, 8, 8)
        torch.manual_seed(0)
        expected = Translation(0.5)(images).flatten(1)
        torch.manual_seed(0)
        assert torch.equal(encoder(images), expected)
        assert torch.equal(encoder.eval()(images), images.flatten(1))

    def test_an_encoder_passes_the_condition_on_and_refuses_points(self):
        class Plus(torch.nn.Module):
            def forward(self, images, labels):
                return images.flatten(1) + labels[:, None]

        encoder = AugmentedEncoder((1, 8, 8), 64, lambda shape, features: Plus(), [Translation(0.0)])
        images, labels = torch.rand(3, 1, 8, 8), torch.tensor([1, 2, 3])
        assert torch.equal(encoder(images, labels), images.flatten(1) + labels[:, None])
        with pytest.raises(ValueError, match="AugmentedEncoder takes images"):
            AugmentedEncoder((2,), 4, lambda shape, features: Plus(), [])
