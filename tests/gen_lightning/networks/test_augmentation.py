"""Augmentations against all transformations that they may draw."""

import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from gen_lightning.networks import Affine, AugmentedEncoder, Color, Cutout, Thickness, Translation

AUGMENTATIONS = [Translation(0.25), Cutout(), Color()]


def get_name(value):
    return type(value).__name__


def augment(augmentation, images, seed=0):
    torch.manual_seed(seed)
    return augmentation(images)


def test_translations_are_all_shifts_within_the_ratio_and_no_others():
    """An 8 x 10 image with ratio 1/4 has shifts of -2 to 2 per direction, equal in all channels, with zero padding."""
    image = torch.arange(1.0, 161).view(2, 8, 10)
    shifted = {
        (down, right): F.pad(image, (2 + right, 2 - right, 2 + down, 2 - down))[:, 2:-2, 2:-2]
        for down in range(-2, 3)
        for right in range(-2, 3)
    }
    seen = set()
    for output in augment(Translation(0.25), image.expand(500, -1, -1, -1)):
        matches = [shift for shift, expected in shifted.items() if torch.equal(output, expected)]
        assert len(matches) == 1
        seen |= set(matches)
    assert seen == shifted.keys()


def test_a_translation_rounds_down_to_pixels():
    """Of 28 pixels, 1/8 is 3.5 pixels, so that shifts of up to 3 pixels are allowed."""
    image = torch.zeros(1, 28, 28)
    image[:, 14, 14] = 1
    places = augment(Translation(0.125), image.expand(2000, -1, -1, -1)).nonzero()[:, 2:]
    assert places.min().item() == 14 - 3
    assert places.max().item() == 14 + 3


@pytest.mark.parametrize(("size", "ratio", "length"), [(8, 0.5, 4), (7, 0.5, 3), (8, 1.0, 8)])
def test_cutout_zeroes_one_rectangle_and_keeps_the_rest(size, ratio, length):
    images = torch.rand(1000, 3, size, size) + 0.1
    outputs = augment(Cutout(ratio), images)
    hidden = (outputs == 0).all(1)
    assert torch.equal(outputs, images * ~hidden.unsqueeze(1))
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    for cut in (rows, columns):
        edges = F.pad(cut.int(), (1, 1)).diff(dim=1)
        assert torch.equal(edges.clamp(min=0).sum(1), torch.ones(1000, dtype=torch.long)), "not one interval"
        lengths = cut.sum(1)
        # The centre is inside the image, so that the border cuts off at most half of the rectangle.
        assert lengths.max() == length
        assert lengths.min() == length // 2 + length % 2


def test_brightness_changes_by_at_most_a_quarter():
    """Saturation and contrast do not change a constant image."""
    outputs = augment(Color(), torch.full((4000, 3, 2, 2), 0.5, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(outputs.min(1).values, outputs.max(1).values)
    assert 0.25 <= outputs.min() < 0.26
    assert 0.74 < outputs.max() <= 0.75


def test_contrast_of_a_grey_image_changes_by_at_most_a_half_and_keeps_it_grey():
    images = torch.rand(1, 1, 4, 4, dtype=torch.float64).expand(4000, 3, 4, 4)
    outputs = augment(Color(), images)
    torch.testing.assert_close(outputs, outputs[:, :1].expand_as(outputs))
    factors = outputs.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.5 + 1e-9


def test_saturation_scales_the_differences_between_channels():
    """Contrast scales them too, so the factor is a number in [0, 2] times a number in [1/2, 3/2]."""
    images = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1).expand(4000, 3, 2, 2)
    outputs = augment(Color(), images)
    factors = outputs[:, 0] - outputs[:, 1]
    torch.testing.assert_close(outputs[:, 0] - outputs[:, 2], factors / 2)
    assert 0 <= factors.min() < 0.01
    assert 2.5 < factors.max() <= 3
    assert factors.mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=get_name)
def test_first_and_second_derivatives_exist(augmentation):
    """The generator needs the first, gradient penalties the second. The square makes the second derivative nonzero."""
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64).requires_grad_()

    def function(images):
        return augment(augmentation, images).square()

    assert torch.autograd.gradcheck(function, images)
    assert torch.autograd.gradgradcheck(function, images)


@pytest.mark.parametrize("augmentation", [*AUGMENTATIONS, Affine(), Thickness()], ids=get_name)
def test_each_image_and_each_call_draws_new_parameters_from_the_default_generator(augmentation):
    images = torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1)
    first, second = augment(augmentation, images), augmentation(images)
    assert first.shape == images.shape
    assert len(first.unique(dim=0)) > 4
    assert not torch.equal(first, second)
    assert torch.equal(first, augment(augmentation, images))


@pytest.mark.parametrize("augmentation", [Translation(0.5), Cutout(), Affine(), Thickness()], ids=get_name)
def test_images_stay_in_the_unit_interval(augmentation):
    outputs = augment(augmentation, torch.rand(50, 1, 9, 9))
    assert 0 <= outputs.min() < outputs.max() <= 1


@pytest.mark.parametrize("augmentation", [Translation(0.0), Cutout(0.0)], ids=get_name)
def test_a_ratio_of_zero_changes_nothing(augmentation):
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(augmentation(images), images)


@pytest.mark.parametrize("build", [Translation, Cutout])
@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_out_of_range_is_refused(build, ratio):
    with pytest.raises(ValueError, match="Choose at least 0 and at most 1"):
        build(ratio)


class TestThickness:
    def test_interpolates_towards_dilation_or_erosion(self):
        images = torch.rand(500, 1, 8, 8)
        changed = augment(Thickness(0.6), images)
        size = (1, 1, 3, 3)
        ends = {
            sign: torch.from_numpy(morphology(images.numpy(), size=size, mode="nearest")) - images
            for sign, morphology in ((1, scipy.ndimage.grey_dilation), (-1, scipy.ndimage.grey_erosion))
        }
        fractions = []
        for sign, change in ends.items():
            fraction = ((changed - images) * change).sum((1, 2, 3)) / change.square().sum((1, 2, 3))
            fits = (changed - images - fraction[:, None, None, None] * change).abs().amax((1, 2, 3)) < 1e-5
            fractions.append(sign * fraction[fits])
        fractions = torch.cat(fractions)
        assert len(fractions) == 500
        assert -0.6 <= fractions.min() < -0.59
        assert 0.59 < fractions.max() <= 0.6


class TestAffine:
    def test_limits_of_zero_change_nothing(self):
        images = torch.rand(5, 3, 8, 8)
        torch.testing.assert_close(Affine(0.0, 0.0, 0.0)(images), images)

    def test_angles_sizes_and_shears_cover_their_limits(self):
        """They are computed from the slopes of a transformed ramp, whose value is its horizontal coordinate."""
        ramp = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32, dtype=torch.float64).expand(2000, 1, 32, 32)
        sheared = augment(Affine(degrees=0, scale=0.0, shear=0.5), ramp)[:, 0, 12:20, 12:20] * 16
        shears = sheared.diff(dim=1).mean((1, 2))
        scaled = augment(Affine(degrees=0, scale=0.2, shear=0.0), ramp)[:, 0, 12:20, 12:20] * 16
        sizes = 1 / scaled.diff(dim=2).mean((1, 2))
        rotated = augment(Affine(degrees=30, scale=0.0, shear=0.0), ramp)[:, 0, 12:20, 12:20] * 16
        angles = torch.rad2deg(torch.atan2(-rotated.diff(dim=1).mean((1, 2)), rotated.diff(dim=2).mean((1, 2))))
        for values, low, high in ((shears, -0.5, 0.5), (sizes, 0.8, 1.2), (angles, -30.0, 30.0)):
            assert low <= values.min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < values.max() <= high

    @pytest.mark.parametrize("wrong", [{"degrees": -1.0}, {"scale": 1.0}, {"shear": -0.1}])
    def test_limits_out_of_range_are_refused(self, wrong):
        with pytest.raises(ValueError, match=r"`Affine\.(degrees|scale|shear)` is .* Choose at least 0"):
            Affine(**wrong)

    def test_an_encoder_augments_only_in_training_mode(self):
        encoder = AugmentedEncoder((1, 8, 8), 5, lambda shape, features: torch.nn.Flatten(), [Translation(0.5)])
        images = torch.rand(4, 1, 8, 8)
        torch.manual_seed(0)
        expected = Translation(0.5)(images).flatten(1)
        torch.manual_seed(0)
        assert torch.equal(encoder(images), expected)
        assert torch.equal(encoder.eval()(images), images.flatten(1))

    def test_an_encoder_passes_labels_on_and_refuses_points(self):
        class AddLabels(torch.nn.Module):
            def forward(self, images, labels):
                return images.flatten(1) + labels[:, None]

        encoder = AugmentedEncoder((1, 8, 8), 64, lambda shape, features: AddLabels(), [Translation(0.0)])
        images, labels = torch.rand(3, 1, 8, 8), torch.tensor([1, 2, 3])
        assert torch.equal(encoder(images, labels), images.flatten(1) + labels[:, None])
        with pytest.raises(ValueError, match="AugmentedEncoder needs images"):
            AugmentedEncoder((2,), 4, lambda shape, features: AddLabels(), [])
