"""The cache: tensors are computed once, and faults on the disk never change a value."""

import concurrent.futures
import os

import pytest
import torch

from gen_lightning.storage import find_cache_folder, fingerprint, load_or_compute_cached


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Counter:
    """Computes a tensor and counts its calls."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": torch.arange(3.0)}


def test_each_key_is_computed_once():
    count = Counter()
    for _ in range(3):
        assert torch.equal(load_or_compute_cached("this", count)["x"], torch.arange(3.0))
    assert count.calls == 1
    load_or_compute_cached("that", count)
    assert count.calls == 2


def test_a_damaged_file_is_computed_anew():
    count = Counter()
    load_or_compute_cached("this", count)
    (path,) = find_cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(load_or_compute_cached("this", count)["x"], torch.arange(3.0))
    assert torch.equal(load_or_compute_cached("this", count)["x"], torch.arange(3.0))
    assert count.calls == 2


def test_a_directory_that_cannot_be_written_causes_a_warning(tmp_path):
    (tmp_path / "gen_lightning").write_text("a file in the place of the directory")
    with pytest.warns(UserWarning, match="computed anew"):
        assert torch.equal(load_or_compute_cached("this", Counter())["x"], torch.arange(3.0))


def test_concurrent_use_leaves_one_complete_file():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: load_or_compute_cached("this", Counter())["x"], range(32)))
    assert all(torch.equal(result, torch.arange(3.0)) for result in results)
    assert len(os.listdir(find_cache_folder())) == 1


def test_the_fingerprint_depends_on_the_pixels_and_not_on_the_batch_size():
    images = torch.rand(10, 1, 4, 4)
    assert fingerprint(images.split(3)) == fingerprint(images.split(4))
    assert fingerprint([images]) != fingerprint([images.flip(0)])
