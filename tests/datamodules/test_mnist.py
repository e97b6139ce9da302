"""MNISTDataModule: splits, scaling, binarization and dequantization."""

import pytest
import torch

from datamodules import MNISTDataModule
from datamodules.loaders import Batch


def digits(**arguments) -> MNISTDataModule:
    data = MNISTDataModule("digits", **{"batch_size": 50} | arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def deliver(data, loader) -> torch.Tensor:
    return torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in loader])


def test_splits_are_disjoint_and_do_not_depend_on_the_seed():
    one, other = digits(seed=1), digits(seed=2)
    parts = {split: torch.cat(list(one.images(split))) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [1437 - 240, 240, 360]
    assert len(torch.cat(list(parts.values())).flatten(1).unique(dim=0)) == 1797
    for split, images in parts.items():
        assert torch.equal(images, torch.cat(list(other.images(split))))


def test_the_default_is_mnist_5k_with_500_test_images():
    data = MNISTDataModule()
    data.prepare_data()
    data.setup("fit")
    assert [sum(map(len, data.images(split))) for split in ("train", "val", "test")] == [3750, 750, 500]


def test_real_mnist_has_50000_10000_and_10000_images(mnist_root):
    data = MNISTDataModule("mnist", mnist_root)
    data.setup("fit")
    assert [sum(map(len, data.images(split))) for split in ("train", "val", "test")] == [50_000, 10_000, 10_000]


def test_identity_depends_on_the_examples_alone():
    same = [{}, {"batch_size": 10}, {"seed": 3}, {"device_resident": True}, {"root": "elsewhere"}]
    others = [
        {"source": "mnist"},
        {"image_size": 32},
        {"binarization": "static"},
        {"binarization": "dynamic"},
        {"dequantize": True},
        {"val_fraction": 0.5},
    ]
    assert len({MNISTDataModule(**arguments).identity for arguments in same}) == 1
    assert len({MNISTDataModule(**arguments).identity for arguments in [{}, *others]}) == 7


def test_data_and_labels_of_a_batch_are_moved_and_its_seed_is_kept():
    data = digits()
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (moved.data.device.type, moved.labels.device.type, moved.seed) == ("meta", "meta", batch.seed)


def test_batches_are_moved_as_uint8_and_delivered_as_float_in_the_unit_interval():
    data = digits()
    batch = next(iter(data.train_dataloader()))
    assert batch.data.dtype == torch.uint8
    images, labels = data.on_after_batch_transfer(batch, 0)
    assert images.dtype == torch.float32
    assert images.shape == (50, *data.shape)
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == torch.int64


def test_32_pixels_are_28_with_a_black_frame():
    small, large = digits(), digits(image_size=32)
    for one, other in zip(small.images("val"), large.images("val"), strict=True):
        assert torch.equal(one, other[..., 2:-2, 2:-2])
        assert other.count_nonzero() == one.count_nonzero()
    assert large.shape == (1, 32, 32)


class TestBinarization:
    @pytest.mark.parametrize("binarization", ["static", "dynamic"])
    def test_pixels_are_binary_with_the_grey_values_as_probabilities(self, binarization):
        data = digits(binarization=binarization)
        grey = torch.cat(list(data.images("val")))
        bits = deliver(data, data.val_dataloader())
        assert set(bits.unique().tolist()) == {0.0, 1.0}
        assert (bits[grey == 1] == 1).all()
        assert (bits[grey == 0] == 0).all()
        standard_error = (grey * (1 - grey)).sum().sqrt()
        assert (bits - grey).sum().abs() < 4 * standard_error

    def test_dynamic_binarization_has_the_right_probability_at_every_grey_value(self):
        grey = torch.arange(256, dtype=torch.uint8).repeat(4000, 1, 1, 1)
        bits, _ = digits(binarization="dynamic").on_after_batch_transfer(Batch(grey, torch.zeros(4000), 5), 0)
        probability = torch.arange(256) / 255
        standard_error = (probability * (1 - probability) / 4000).sqrt()
        assert ((bits.mean((0, 1, 2)) - probability).abs() <= 4 * standard_error).all()

    def test_dynamic_binarization_is_sampled_at_each_read_in_training_only(self):
        data = digits(binarization="dynamic", batch_size=1197)
        loader = data.train_dataloader()
        reads = []
        for _ in range(2):
            (batch,) = loader
            order = batch.data.flatten(1).double() @ torch.arange(784).double().sqrt()  # tells images apart
            reads.append(data.on_after_batch_transfer(batch, 0)[0][order.argsort()])
        assert not torch.equal(*reads)
        assert torch.equal(deliver(data, data.val_dataloader()), deliver(data, data.val_dataloader()))

    def test_evaluated_images_do_not_depend_on_the_batch_size(self):
        data, other = digits(binarization="dynamic"), digits(binarization="dynamic", batch_size=17, seed=3)
        bits = deliver(data, data.test_dataloader())
        assert torch.equal(bits, deliver(other, other.test_dataloader()))
        assert torch.equal(bits, torch.cat([images for images, _ in data.examples("test")]))

    def test_static_binarization_does_not_depend_on_the_seed(self):
        one, other = digits(binarization="static", seed=1), digits(binarization="static", seed=2)
        assert torch.equal(one.train_dataloader().split.data, other.train_dataloader().split.data)

    def test_no_binarization_leaves_the_grey_values(self):
        data = digits()
        assert torch.equal(deliver(data, data.val_dataloader()), torch.cat(list(data.images("val"))))

    @pytest.mark.parametrize("binarization", ["static", "dynamic"])
    def test_images_are_never_binarized(self, binarization):
        assert len(torch.cat(list(digits(binarization=binarization).images("val"))).unique()) > 2


class TestDequantization:
    def test_a_level_becomes_a_uniform_value_within_its_width(self):
        levels = torch.arange(256, dtype=torch.uint8).repeat(4000, 1, 1, 1)
        images, _ = digits(dequantize=True).on_after_batch_transfer(Batch(levels, torch.zeros(4000), 5), 0)
        rest = images.double() * 256 - torch.arange(256)
        assert 0 <= rest.min() < rest.max() <= 1
        assert (rest.mean((0, 1, 2)) - 0.5).abs().max() < 5 * (1 / 12 / 4000) ** 0.5
        assert (rest.var((0, 1, 2)) - 1 / 12).abs().max() < 5 * (1 / 180 / 4000) ** 0.5

    def test_noise_is_sampled_at_each_read_in_training_and_once_for_evaluation(self):
        data, other = digits(dequantize=True), digits(dequantize=True, batch_size=17, seed=3)
        (first, *_), (again, *_) = data.train_dataloader(), data.train_dataloader()
        next_epoch = first._replace(seed=again.seed + 1)
        assert torch.equal(*(data.on_after_batch_transfer(batch, 0)[0] for batch in (first, again)))
        assert not torch.equal(*(data.on_after_batch_transfer(batch, 0)[0] for batch in (first, next_epoch)))
        evaluated = deliver(data, data.test_dataloader())
        assert torch.equal(evaluated, deliver(other, other.test_dataloader()))
        assert torch.equal(evaluated, torch.cat([images for images, _ in data.examples("test")]))

    def test_images_are_never_dequantized(self):
        assert torch.equal(*(torch.cat(list(digits(dequantize=drawn).images("val"))) for drawn in (True, False)))


def test_examples_are_the_first_ones_of_a_split_with_their_labels():
    data = digits()
    images, labels = map(torch.cat, zip(*data.examples("train", 600), strict=True))
    assert torch.equal(images, torch.cat(list(data.images("train")))[:600])
    assert torch.equal(labels, data.train_dataloader().split.labels[:600])
    assert sum(len(labels) for _, labels in data.examples("test")) == 360


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source": "imagenet"}, "`source` is 'imagenet', which is unknown. Choose one of mnist, "),
        ({"image_size": 64}, r"`MNISTDataModule\.image_size` is 64\. Choose 28 or 32"),
        ({"batch_size": 0}, r"`MNISTDataModule\.batch_size` is 0\. Choose at least 1"),
        ({"val_fraction": 1.0}, r"`MNISTDataModule\.val_fraction` is 1\.0\. Choose above 0 and below 1"),
        ({"binarization": "dynamc"}, "is 'dynamc'. Choose none, static or dynamic"),
        ({"binarization": "static", "dequantize": True}, "Set --data.binarization=none or --data.dequantize=false"),
    ],
)
def test_invalid_arguments_are_refused_with_advice(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MNISTDataModule(**arguments)


@pytest.mark.parametrize("val_fraction", [1e-4, 1 - 1e-4])
def test_an_empty_split_is_refused(val_fraction):
    with pytest.raises(ValueError, match="leaves a split of 1,437 images empty"):
        digits(val_fraction=val_fraction)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"is 5000 on 1 device\(s\).* 1,197 .*Choose a smaller --data\.batch_size"):
        digits(batch_size=5000).train_dataloader()
