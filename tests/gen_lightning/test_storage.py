"""What is computed once stays computed, and nothing that goes wrong on the disk changes a value."""

import concurrent.futures
import os

import pytest
import torch

from gen_lightning.evaluation import real_features
from gen_lightning.metrics import MNISTFeatures
from gen_lightning.storage import cache_folder, cached, fingerprint

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Counter:
    """Computes a tensor, and counts how often."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": torch.arange(3.0)}


def test_is_computed_once():
    count = Counter()
    for _ in range(3):
        assert torch.equal(cached("this", count)["x"], torch.arange(3.0))
    assert count.calls == 1
    cached("that", count)
    assert count.calls == 2


def test_a_corrupt_file_is_computed_anew():
    count = Counter()
    cached("this", count)
    (path,) = cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(cached("this", count)["x"], torch.arange(3.0))
    assert torch.equal(cached("this", count)["x"], torch.arange(3.0))
    assert count.calls == 2


def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path):
    (tmp_path / "gen_lightning").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="computed anew"):
        assert torch.equal(cached("this", Counter())["x"], torch.arange(3.0))


def test_concurrent_use_leaves_one_whole_file():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cached("this", Counter())["x"], range(32)))
    assert all(torch.equal(result, torch.arange(3.0)) for result in results)
    assert len(os.listdir(cache_folder())) == 1


def test_fingerprint_is_of_the_pixels_and_not_of_their_batches():
    images = torch.rand(10, 1, 4, 4)
    assert fingerprint(images.split(3)) == fingerprint(images.split(4))
    assert fingerprint([images]) != fingerprint([images.flip(0)])


def test_features_are_those_of_the_extractor_and_other_images_have_others():
    extractor = MNISTFeatures()
    images, others = torch.rand(2, 7, 1, 28, 28)
    for _ in range(2):
        real = real_features(extractor, lambda: images.split(3), CPU)
        torch.testing.assert_close(real.features, extractor(images))
    assert not torch.equal(real_features(extractor, lambda: [others], CPU).features, real.features)
    assert len(os.listdir(cache_folder())) == 2
