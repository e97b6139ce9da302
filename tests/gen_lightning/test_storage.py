"""The cache: tensors are computed once, and faults on the disk never change a value."""

import concurrent.futures
import os
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save

from gen_lightning.errors import StorageError
from gen_lightning.storage import (
    atomic_write,
    find_cache_folder,
    fingerprint,
    load_or_compute,
    load_or_compute_cached,
    remove_stale_files,
    save_with_checksum,
)


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


def test_a_damaged_file_is_told_and_computed_anew():
    count = Counter()
    load_or_compute_cached("this", count)
    (path,) = find_cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.warns(UserWarning, match=rf"{path} is damaged\. It is computed anew\."):
        assert torch.equal(load_or_compute_cached("this", count)["x"], torch.arange(3.0))
    assert torch.equal(load_or_compute_cached("this", count)["x"], torch.arange(3.0))
    assert count.calls == 2


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_used():
    count = Counter()
    load_or_compute_cached("this", count)
    (path,) = find_cache_folder().iterdir()
    path.write_bytes(save({"x": torch.arange(3.0) + 1}))
    assert torch.equal(load_or_compute_cached("this", count)["x"], torch.arange(3.0) + 1)
    assert count.calls == 1


def test_files_that_killed_processes_have_left_are_removed_and_those_under_way_are_not(tmp_path):
    (tmp_path / ".a.0123.tmp").write_bytes(b"half")
    with atomic_write(tmp_path / "b") as file:
        remove_stale_files(tmp_path)
        file.write(b"whole")
    assert os.listdir(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"whole"


def test_a_symbolic_link_is_replaced_and_its_target_is_not(tmp_path):
    (tmp_path / "target").write_bytes(b"target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "target").read_bytes() == b"target"
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize("at", [0, 100, 5_000, 20_000])
@pytest.mark.parametrize("write", [save_with_checksum, lambda tensor, file: np.save(file, tensor)])
def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path, write, at):
    """The limit on the size of files is passed at any place, within torch.save, too."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, limits[1]))
    try:
        with pytest.raises(StorageError) as told, atomic_write(path) as file:
            write(torch.zeros(100, 100), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reason = "the file would exceed the size that this process may write"
    assert str(told.value) == f"{path} cannot be written: {reason}."
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


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


@pytest.mark.parametrize("tensors", [{"y": torch.zeros(3)}, {"x": torch.zeros(2)}, {"x": torch.zeros(3, 1)}, {}])
def test_a_file_with_other_tensors_is_damaged(tensors, tmp_path):
    """A stranger's file may have a checksum that is right."""
    path, wanted = tmp_path / "x.safetensors", {"x": torch.arange(3.0)}
    load_or_compute(path, lambda: tensors)
    with pytest.warns(UserWarning, match=r"x\.safetensors is damaged\. It is computed anew"):
        assert torch.equal(load_or_compute(path, lambda: wanted, {"x": (3,)})["x"], wanted["x"])
    assert torch.equal(load_or_compute(path, dict, {"x": (None,)})["x"], wanted["x"])
