"""Texts as token numbers: which numbers are texts, and how long texts are."""

import pytest
import torch

from gen_lightning.tokens import are_texts, count_tokens


def test_the_end_is_counted_and_padding_is_not():
    assert count_tokens(torch.tensor([[5.0, 3, 1, 0], [1, 0, 0, 0], [3, 4, 5, 6]])).tolist() == [3, 1, 4]


@pytest.mark.parametrize("text", [[5, 3, 1, 0], [1, 0, 0, 0], [3, 4, 5, 6], [2, 2, 2, 1]])
def test_texts_are_tokens_then_one_end_then_padding(text):
    assert are_texts(torch.tensor([[3, 1, 0, 0], text]).float(), 7)


@pytest.mark.parametrize(
    "data", [[5, 3, 1, 3], [1, 0, 1, 0], [3, 0, 1, 0], [0, 0, 0, 0], [3, 4, 5, 7], [-1, 1, 0, 0], [3.5, 1, 0, 0]]
)
def test_other_numbers_are_no_texts(data):
    assert not are_texts(torch.tensor([[3, 1, 0, 0], data]).float(), 7)
