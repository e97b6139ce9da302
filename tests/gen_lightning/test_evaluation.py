"""The evaluation of samples: cached features of real images, rows and their table."""

import os

import pytest
import torch

from gen_lightning.evaluation import Row, extract_real_features, format_table, make_row
from gen_lightning.metrics import Estimate, MNISTFeatures
from gen_lightning.storage import find_cache_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_real_features_are_those_of_the_extractor_and_are_cached_for_each_set_of_images():
    extractor = MNISTFeatures()
    images, others = torch.rand(2, 7, 1, 28, 28)
    for _ in range(2):
        real = extract_real_features(extractor, lambda: images.split(3), CPU)
        torch.testing.assert_close(real.features, extractor(images))
    assert not torch.equal(extract_real_features(extractor, lambda: [others], CPU).features, real.features)
    assert len(os.listdir(find_cache_folder())) == 2


@pytest.mark.parametrize(
    ("name", "better"), [("fid", "lower"), ("recall/mnist_cnn", "higher"), ("rate", None), ("active_units", None)]
)
def test_a_row_states_which_values_of_its_metric_are_better(name, better):
    assert make_row(name, Estimate(1.0, 0.5), 100) == Row(1.0, 0.5, 100, better=better)


def test_the_table_has_a_line_for_each_row_with_its_errors_and_floor():
    rows = {
        "fid/mnist_cnn": Row(1.2345, 0.012, 10_000, 0.0043, 0.002, 5_000, "lower"),
        "rate": Row(25.123, 0.05, 10_000),
    }
    header, fid, rate = (line.split("  ") for line in format_table(rows).splitlines())
    assert [word.strip() for word in header if word] == ["metric", "value", "floor", "N", "better"]
    assert [word.strip() for word in fid if word] == [
        "fid/mnist_cnn", "1.234 ± 0.012", "0.0043 ± 0.0020 (N = 5,000)", "10,000", "lower",
    ]  # fmt: skip
    assert [word.strip() for word in rate if word] == ["rate", "25.123 ± 0.050", "10,000"]
