"""Stacked MNIST: the stacks and their modes; new stacks are divided among ranks and resumed like any data."""

import pytest
import torch

from datamodules import MNISTDataModule, StackedMNISTDataModule, StackLoader
from datamodules.sources import Split


def stacks(**arguments) -> StackedMNISTDataModule:
    data = StackedMNISTDataModule("digits", **{"batch_size": 50} | arguments)
    data.setup("fit")
    return data


def load_training_digits() -> Split:
    data = MNISTDataModule("digits", batch_size=1)
    data.setup("fit")
    return data.train_dataloader().split


def numbered(n: int) -> Split:
    """Return n one-pixel digits. The value of a digit is its index; its class is the last figure of the index."""
    return Split(torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1), torch.arange(n) % 10)


def assert_modes_match_classes(stacks, modes, digits, labels):
    """The mode of a stack consists of the classes of its digits, which are found by their pixels."""
    class_of = {digit.numpy().tobytes(): int(label) for digit, label in zip(digits, labels, strict=True)}
    for stack, mode in zip(stacks, modes.tolist(), strict=True):
        a, b, c = (class_of[channel.numpy().tobytes()] for channel in stack)
        assert mode == 100 * a + 10 * b + c


def read_triples(loader) -> list[list[int]]:
    """Return the indices of the digits that a loader has stacked."""
    return [triple for batch in loader for triple in batch.data.flatten(1).tolist()]


@pytest.mark.parametrize("num_triples", [None, 300])
def test_a_stack_has_three_training_digits_and_the_mode_of_their_classes(num_triples):
    batch = next(iter(stacks(num_triples=num_triples).train_dataloader()))
    assert batch.data.dtype == torch.uint8
    assert_modes_match_classes(batch.data, batch.labels, *load_training_digits())


def test_batches_are_delivered_as_rgb_in_the_unit_interval():
    data = stacks()
    images, modes = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (50, *data.shape) == (50, 3, 28, 28)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert modes.dtype == torch.int64


def test_32_pixels_are_28_with_a_black_frame():
    small, large = stacks(), stacks(image_size=32)
    for one, other in zip(small.images("val"), large.images("val"), strict=True):
        assert torch.equal(one, other[..., 2:-2, 2:-2])
    assert large.shape == (3, 32, 32)


def test_held_out_stacks_have_held_out_digits_and_do_not_depend_on_the_seed():
    digits = MNISTDataModule("digits")
    digits.setup("fit")
    one, other = stacks(seed=1), stacks(seed=2)
    for split, size in (("val", 240), ("test", 360)):
        images = torch.cat(list(one.images(split)))
        assert len(images) == size
        assert torch.equal(images, torch.cat(list(other.images(split))))
        channels = {channel.numpy().tobytes() for channel in images.flatten(0, 1)}
        assert channels <= {image.numpy().tobytes() for image in torch.cat(list(digits.images(split)))[:, 0]}


@pytest.mark.parametrize(("num_triples", "size"), [(None, 1197), (300, 300)])
def test_training_images_are_fixed_stacks(num_triples, size):
    one, other = (torch.cat(list(stacks(num_triples=num_triples, seed=seed).images("train"))) for seed in (1, 2))
    assert torch.equal(one, other)
    assert one.shape == (size, 3, 28, 28)


@pytest.mark.parametrize("num_triples", [None, 300])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_examples_are_the_stacks_and_their_modes(num_triples, split):
    data = stacks(num_triples=num_triples)
    images, modes = (torch.cat(parts) for parts in zip(*data.examples(split), strict=True))
    assert torch.equal(images, torch.cat(list(data.images(split))))
    digits = MNISTDataModule("digits")
    digits.setup("fit")
    assert_modes_match_classes(images, modes, *map(torch.cat, zip(*digits.examples(split), strict=True)))


def test_fixed_and_new_stacks_have_different_identities():
    assert len({stacks(num_triples=n).identity for n in (None, 300, 400)}) == 3


def test_fixed_stacks_are_repeated_in_each_epoch_and_new_ones_are_not():
    def epochs(num_triples):
        loader = stacks(num_triples=num_triples).train_dataloader()
        return [{image.numpy().tobytes() for batch in loader for image in batch.data} for _ in range(2)]

    fixed, fresh = epochs(300), epochs(None)
    assert fixed[0] == fixed[1]
    assert len(fixed[0]) == 300
    assert not fresh[0] & fresh[1]


class TestStackLoader:
    def test_every_digit_occurs_once_in_each_channel_of_an_epoch(self):
        channels = torch.tensor(read_triples(StackLoader(numbered(60), 10))).T
        assert all(sorted(channel) == list(range(60)) for channel in channels.tolist())
        assert len({tuple(channel) for channel in channels.tolist()}) == 3

    def test_stacks_are_a_function_of_seed_and_epoch(self):
        def drawn(seed, epoch):
            loader = StackLoader(numbered(60), 10, seed=seed)
            loader.set_epoch(epoch)
            return read_triples(loader)

        assert drawn(0, 0) == drawn(0, 0)
        orders = [drawn(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
        assert all(one != other for i, one in enumerate(orders) for other in orders[:i])

    def test_two_ranks_divide_the_stacks_of_a_single_rank(self):
        ranks = [read_triples(StackLoader(numbered(60), 10, rank=rank, world_size=2)) for rank in (0, 1)]
        assert sorted(ranks[0] + ranks[1]) == sorted(read_triples(StackLoader(numbered(60), 10)))

    @pytest.mark.parametrize("position", [1, 3, 6])
    def test_a_loader_continues_exactly_where_its_state_dict_was_saved(self, position):
        uninterrupted, stopped, resumed = (StackLoader(numbered(60), 10, seed=3) for _ in range(3))
        whole = read_triples(uninterrupted) + read_triples(uninterrupted)
        iterator = iter(stopped)
        for _ in range(position):
            next(iterator)
        resumed.load_state_dict(stopped.state_dict())
        rest = read_triples(resumed)
        assert rest == whole[10 * position :][: len(rest)]
        assert rest


def test_mode_weights_are_products_of_the_digits_frequencies():
    digits = load_training_digits()
    weights = stacks(num_triples=10).mode_weights
    assert weights.sum().item() == pytest.approx(1)
    for mode in (0, 7, 123, 999):
        classes = (mode // 100, mode // 10 % 10, mode % 10)
        expected = [(digits.labels == label).double().mean().item() for label in classes]
        assert weights[mode].item() == pytest.approx(expected[0] * expected[1] * expected[2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_triples": 0}, r"`StackedMNISTDataModule\.num_triples` is 0\. Choose at least 1"),
        ({"image_size": 64}, "is 64. Choose 28 or 32"),
    ],
)
def test_invalid_arguments_are_refused_with_advice(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        StackedMNISTDataModule(**arguments)
