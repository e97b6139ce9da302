"""ImageFolderDataModule: its pixels, splits and classes, its cache, and its refusals."""

import io
import os
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.processes import Run, start_ranks
from helpers import build_image_cache, write_image, write_images
from PIL import Image, ImageOps
from safetensors import safe_open

import train
from datamodules import ImageFolderDataModule, image_cache, image_files
from datamodules.image_files import find_image_cache
from datamodules.splits import draw_splits
from gen_lightning.contracts import ExampleData, IdentifiedData, ImageData, ShapedData, offers
from gen_lightning.errors import StorageError, UserError

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def cache():
    """The directory of cached images, which starts empty."""
    shutil.rmtree(find_image_cache(), ignore_errors=True)
    return find_image_cache()


@pytest.fixture
def mixed(tmp_path):
    """A folder of images of three sizes, grey, with transparency, and with a palette."""
    root = tmp_path / "mixed"
    write_image(root / "wide.png", (90, 50), seed=1)
    write_image(root / "tall.jpg", (33, 71), seed=2)
    write_image(root / "square.webp", (64, 64), seed=3)
    write_image(root / "grey.bmp", (60, 41), "L", seed=4)
    write_image(root / "alpha.png", (50, 50), "RGBA", seed=5)
    write_image(root / "palette.gif", (48, 57), "P", seed=6)
    write_image(root / "print.tif", (48, 57), "CMYK", seed=7)
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_text("not an image")
    return root


def load(root, image_size=32, **arguments) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), image_size, **{"batch_size": 2} | arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def read_all(data) -> dict[bytes, int]:
    """Return the label of each image, by its pixels."""
    return {
        image.numpy().tobytes(): int(label)
        for split in SPLITS
        for image, label in zip(*data.splits[split], strict=True)
    }


def pixels(path, image_size=32, mode="RGB") -> bytes:
    """Return an image as Pillow crops and resizes it, uint8 `[C, H, W]`."""
    image = ImageOps.fit(Image.open(path).convert(mode), (image_size, image_size), Image.Resampling.BICUBIC)
    return np.moveaxis(np.atleast_3d(np.asarray(image)), 2, 0).tobytes()


def find_file(cache) -> Path:
    (path,) = cache.glob("*.safetensors")
    return path


class TestPixels:
    @pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
    def test_images_are_cropped_and_resized_as_pillow_does(self, mixed, channels, mode):
        images = read_all(load(mixed, channels=channels))
        opaque = [path for path in mixed.iterdir() if path.suffix != ".txt" and path.stem not in ("alpha", ".hidden")]
        assert len(images) == 7
        assert {pixels(path, mode=mode) for path in opaque} < images.keys()

    @pytest.mark.parametrize("background", ["black", "white"])
    def test_transparent_pixels_are_laid_over_the_background(self, mixed, background):
        image = Image.open(mixed / "alpha.png")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image, mask=image.getchannel("A"))
        canvas = np.moveaxis(np.asarray(ImageOps.fit(canvas, (32, 32))), 2, 0).astype(int)
        found = [
            np.frombuffer(one, np.uint8).reshape(3, 32, 32) for one in read_all(load(mixed, background=background))
        ]
        # `paste` and `alpha_composite` round differently.
        assert min(abs(one - canvas).max() for one in found) <= 1

    def test_a_palette_with_a_transparent_colour_is_laid_over_the_background(self, tmp_path):
        image = Image.new("P", (40, 40), 1)
        image.putpalette([9, 9, 9, 50, 60, 70])
        image.paste(0, (0, 0, 40, 20))
        image.save(tmp_path / "p.png", transparency=0)
        content = (tmp_path / "p.png").read_bytes()
        upright = np.frombuffer(image_cache.decode(content, (3, 40, 40), "white"), np.uint8).reshape(3, 40, 40)
        assert (upright[:, :20] == 255).all()
        assert (upright[:, 20:] == np.array([50, 60, 70]).reshape(3, 1, 1)).all()

    def test_16_bit_levels_are_scaled(self):
        levels = np.linspace(0, 65535, 40, dtype=np.uint16)
        file = io.BytesIO()
        Image.fromarray(np.tile(levels, (40, 1))).save(file, "PNG")
        found = np.frombuffer(image_cache.decode(file.getvalue(), (1, 40, 40), "white"), np.uint8)
        assert np.array_equal(found[:40], (levels / 257).round())

    def test_an_image_is_turned_upright_as_its_exif_data_say(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        image = Image.new("RGB", (40, 40))
        image.paste((255, 255, 255), (0, 0, 20, 40))
        image.save(tmp_path / "e.png", exif=exif)
        content = (tmp_path / "e.png").read_bytes()
        upright = np.frombuffer(image_cache.decode(content, (1, 40, 40), "white"), np.uint8).reshape(40, 40)
        assert upright[:20].min() == 255
        assert upright[20:].max() == 0

    def test_no_format_is_read_for_which_pillow_starts_a_program(self, tmp_path):
        assert ".eps" not in image_files.list_formats()
        Image.new("RGB", (40, 40)).save(tmp_path / "a.eps")
        with pytest.raises(OSError, match="cannot identify"):
            image_cache.decode((tmp_path / "a.eps").read_bytes(), (3, 32, 32), "white")

    def test_batches_equal_cached_images_divided_by_255(self, mixed):
        data = load(mixed)
        for contract in (ShapedData, IdentifiedData, ImageData, ExampleData):
            assert offers(data, contract)
        (batch, *_) = data.test_dataloader()
        images, labels = data.on_after_batch_transfer(batch, 0)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal(images, data.splits["test"].data[: len(images)] / 255)
        assert images.shape[1:] == data.shape == (3, 32, 32)


class TestSplits:
    def test_classes_are_the_sorted_folders_and_every_image_is_in_one_split(self, tmp_path):
        root = write_images(tmp_path / "a", 20, ("dogs", "cats/deep", "birds"))
        data = load(root)
        assert data.class_names == ["birds", "cats", "dogs"]
        expected = {
            pixels(path): data.class_names.index(path.relative_to(root).parts[0]) for path in root.rglob("*.png")
        }
        assert read_all(data) == expected
        assert [data.splits[split].labels.bincount().tolist() for split in SPLITS] == [[16] * 3, [2] * 3, [2] * 3]

    def test_without_class_folders_all_labels_are_0(self, tmp_path):
        data = load(write_images(tmp_path / "a", 20))
        assert data.class_names == []
        assert set(read_all(data).values()) == {0}
        assert [len(data.splits[split].data) for split in SPLITS] == [16, 2, 2]

    @pytest.mark.parametrize(
        "names", [("train", "val", "test"), ("Train", "validation", "TEST"), ("train", "valid", "test")]
    )
    def test_split_folders_define_the_splits(self, tmp_path, names):
        root = tmp_path / "a"
        for number, name in enumerate(names):
            write_images(root / name, 3 + number, ("y", "x"), size=30 + number)
        data = load(root)
        assert data.class_names == ["x", "y"]
        for split, name in zip(SPLITS, names, strict=True):
            images, labels = data.splits[split]
            expected = {pixels(path): int(path.parent.name == "y") for path in (root / name).rglob("*.png")}
            found = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
            assert found == expected

    @pytest.mark.parametrize("missing", ["val", "test"])
    def test_a_split_without_a_folder_is_drawn_from_the_training_images(self, tmp_path, missing):
        root = tmp_path / "a"
        for number, name in enumerate({"train": 1, "val": 2, "test": 3}.keys() - {missing}):
            write_images(root / name, 10, size=30 + number)
        data = load(root)
        train = {pixels(path) for path in (root / "train").iterdir()}
        assert {image.numpy().tobytes() for image in data.splits[missing].data} < train
        assert len(data.splits[missing].data) == 1
        assert len(data.splits["train"].data) == 9

    def test_drawn_splits_are_disjoint_stratified_and_in_random_order(self):
        labels = torch.arange(4).repeat_interleave(torch.tensor([1000, 500, 70, 3]))
        splits = draw_splits(labels, {"val": 0.1, "test": 0.25})
        assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(1573))
        assert [len(splits[name]) for name in ("val", "test")] == [157, 393]
        for name, fraction in (("val", 0.1), ("test", 0.25)):
            share = labels[splits[name]].bincount(minlength=4) - fraction * labels.bincount()
            assert share.abs().max() <= 1
        for indices in splits.values():
            # The ranks of labels in random order are not correlated with the position.
            position = torch.arange(len(indices), dtype=torch.float64)
            correlation = torch.corrcoef(torch.stack([position, labels[indices].double()]))[0, 1]
            assert correlation.abs() < 4 / len(indices) ** 0.5

    def test_splits_and_identity_do_not_depend_on_the_place_the_seed_or_the_batch_size(self, tmp_path):
        root = write_images(tmp_path / "a", 10, ("x", "y"))
        other_root = shutil.copytree(root, tmp_path / "b")
        one, other = (
            load(root, seed=1),
            load(other_root, seed=2, batch_size=3, horizontal_flip=True, device_resident=True),
        )
        assert one.identity == other.identity
        for split in SPLITS:
            assert all(map(torch.equal, one.splits[split], other.splits[split]))

    def test_identity_depends_on_contents_classes_splits_and_pixels(self, tmp_path):
        root = write_images(tmp_path / "a", 10, ("x", "y"))
        identities = [load(root).identity]
        for changes in ({"image_size": 28}, {"channels": 1}, {"background": "black"}, {"val_fraction": 0.2}):
            identities.append(load(root, **changes).identity)
        write_image(root / "x/0003.png", (40, 40), seed=99)
        identities.append(load(root).identity)
        (root / "x/0003.png").rename(root / "y/1003.png")
        identities.append(load(root).identity)
        assert len(set(identities)) == 7


class TestLoading:
    def test_splits_are_slices_of_one_map_of_the_file(self, tmp_path, cache):
        data = load(write_images(tmp_path / "a", 20), image_size=64)
        storages = {split.data.untyped_storage().data_ptr() for split in data.splits.values()}
        assert len(storages) == 1
        end = None
        for split in SPLITS:
            images = data.splits[split].data
            assert images.is_contiguous()
            assert end in (None, images.data_ptr())
            end = images.data_ptr() + images.nbytes
        assert find_mapped_file(data.splits["train"].data) == str(find_file(cache))
        batch = next(iter(data.val_dataloader()))
        assert find_mapped_file(batch.data) == str(find_file(cache))

    def test_an_epoch_takes_the_memory_of_a_batch(self, tmp_path):
        """The images have 79 MB. Pages of a map belong to the file, and the system may take them back at any time."""
        data = load(write_images(tmp_path / "a", 400), image_size=256)
        before = read_private_memory()
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            for batch in loader:
                data.on_after_batch_transfer(batch, 0)
        assert read_private_memory() - before < 10_000

    def test_order_is_the_same_after_a_stop(self, tmp_path):
        root = write_images(tmp_path / "a", 20)
        whole, stopped = load(root, horizontal_flip=True), load(root, horizontal_flip=True)
        expected = [whole.on_after_batch_transfer(batch, 0)[0] for batch in whole.train_dataloader()]
        loader = stopped.train_dataloader()
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        resumed = load(root, horizontal_flip=True)
        loader_after = resumed.train_dataloader()
        loader_after.load_state_dict(loader.state_dict())
        found = [resumed.on_after_batch_transfer(batch, 0)[0] for batch in loader_after]
        assert len(found) == len(expected) - 3
        assert all(map(torch.equal, found, expected[3:]))

    def test_training_images_are_mirrored_with_probability_one_half(self, tmp_path):
        data = load(write_images(tmp_path / "a", 20), batch_size=16, horizontal_flip=True)
        mirrored, epochs = 0, 200
        for epoch in range(epochs):
            loader = data.train_dataloader()
            loader.set_epoch(epoch)
            (batch,) = loader
            images, _ = data.on_after_batch_transfer(batch, 0)
            again, _ = data.on_after_batch_transfer(batch, 0)
            assert torch.equal(images, again)
            plain = batch.data / 255
            is_plain, is_mirrored = (images == plain).flatten(1).all(1), (images == plain.flip(-1)).flatten(1).all(1)
            assert (is_plain ^ is_mirrored).all()
            mirrored += int(is_mirrored.sum())
        n = 16 * epochs
        assert abs(mirrored - n / 2) < 4 * (n / 4) ** 0.5

    def test_evaluated_images_are_not_mirrored(self, tmp_path):
        data = load(write_images(tmp_path / "a", 20), horizontal_flip=True)
        for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
            delivered = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in loader])
            assert torch.equal(delivered, data.splits[split].data / 255)


def find_mapped_file(tensor) -> str:
    """Return the file that is mapped at a tensor's memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.split(maxsplit=5)[5]
    raise AssertionError("no map")


def read_private_memory() -> int:
    """Return the kilobytes of memory that belong to this process alone."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1])


def has_partial_file(cache, size) -> bool:
    """Return whether a build is under way whose file has more than a number of bytes."""
    return any(path.stat().st_size > size for path in cache.glob("*.partial"))


class TestCache:
    def count_decoded(self, monkeypatch) -> list:
        decoded, decode = [], image_cache.decode
        monkeypatch.setattr(image_cache, "decode", lambda *args: decoded.append(1) or decode(*args))
        return decoded

    def test_a_file_is_built_once_and_then_used(self, tmp_path, cache, monkeypatch):
        root = write_images(tmp_path / "a", 10)
        decoded = self.count_decoded(monkeypatch)
        load(root)
        load(root, batch_size=3, skip_broken=True)
        assert len(decoded) == 10
        with safe_open(find_file(cache), "pt") as file:
            assert file.get_tensor("images").shape == (10, 3, 32, 32)
            assert file.get_tensor("states").tolist() == [1] * 10

    @pytest.mark.parametrize("settled", [False, True])
    def test_changed_contents_are_read_anew_even_with_the_same_size_and_time(self, tmp_path, settled, monkeypatch):
        if settled:
            monkeypatch.setattr(image_files, "_STEP", 0)
        root = write_images(tmp_path / "a", 10)
        old, new = (tmp_path / f"{name}.bmp" for name in ("old", "new"))
        for seed, path in enumerate((old, new), 100):
            write_image(path, seed=seed)
        assert old.stat().st_size == new.stat().st_size
        shutil.copy(old, root / "x.bmp")
        status = (root / "x.bmp").stat()
        assert pixels(old) in read_all(load(root))
        (root / "x.bmp").write_bytes(new.read_bytes())
        os.utime(root / "x.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
        images = read_all(load(root))
        assert pixels(new) in images
        assert pixels(old) not in images

    def test_files_whose_status_is_the_same_are_not_read_again(self, tmp_path, monkeypatch):
        root = write_images(tmp_path / "a", 10)
        monkeypatch.setattr(image_files, "_STEP", 0)
        first = load(root)
        monkeypatch.setattr(image_files, "read_file", None)
        assert load(root).identity == first.identity

    def test_a_damaged_index_is_replaced(self, tmp_path, cache):
        root = write_images(tmp_path / "a", 10)
        first = load(root)
        for content in ("{", "[]", '{"files": {"0000.png": 3}}', '{"files": 3}'):
            image_files.find_index(root).write_text(content)
            assert load(root).identity == first.identity

    @pytest.mark.parametrize("damage", ["byte", "end", "header", "empty"])
    def test_a_damaged_file_is_built_anew(self, tmp_path, cache, damage):
        root = write_images(tmp_path / "a", 10)
        expected = read_all(load(root))
        path = find_file(cache)
        content = bytearray(path.read_bytes())
        content[{"byte": 5000, "header": 10}.get(damage, 0)] ^= damage in ("byte", "header")
        path.write_bytes(content[: {"end": -100, "empty": 0}.get(damage)])
        with pytest.warns(UserWarning, match=r"is damaged\. It is built anew\."):
            assert read_all(load(root)) == expected

    def test_a_build_continues_after_the_blocks_that_are_done(self, tmp_path, cache, monkeypatch):
        monkeypatch.setattr(image_cache, "_BLOCK_SIZE", 4 * 3 * 32 * 32)
        root = write_images(tmp_path / "a", 30)
        expected, content = read_all(load(root)), find_file(cache).read_bytes()
        find_file(cache).unlink()
        write, written = image_cache._write, []

        def stop(*arguments):
            written.append(1)
            if len(written) == 10:
                raise KeyboardInterrupt
            write(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(image_cache, "_write", stop)
            with pytest.raises(KeyboardInterrupt):
                load(root)
        decoded = self.count_decoded(monkeypatch)
        assert read_all(load(root)) == expected
        # Four blocks of 4 have states; the fifth has none.
        assert len(decoded) == 30 - 16
        assert find_file(cache).read_bytes() == content

    def test_two_processes_build_one_file(self, tmp_path, cache):
        root = write_images(tmp_path / "a", 300)
        runs = [Run(str(root), "64", folder=tmp_path, program=build_image_cache) for _ in range(2)]
        assert [run.wait() for run in runs] == [0, 0], runs[0].text + runs[1].text
        data = load(root, 64)
        assert read_all(data).keys() == {pixels(path, 64) for path in root.iterdir()}
        assert sum("Images: 100%" in run.text for run in runs) == 1
        assert sum("This one waits for it." in run.text for run in runs) <= 1
        assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".lock", ".json"}

    @pytest.mark.slow
    def test_a_build_that_is_killed_at_any_time_is_completed_by_the_next_one(self, tmp_path, cache):
        root = write_images(tmp_path / "a", 400, size=300)
        load(root, 256)
        content = find_file(cache).read_bytes()
        kills = 0
        for number in range(10):
            shutil.rmtree(cache)
            killed = Run(str(root), "256", folder=tmp_path, program=build_image_cache)
            killed.wait_until(partial(has_partial_file, cache, number * len(content) / 12))
            time.sleep(number * 0.03)
            killed.send(signal.SIGKILL)
            kills += killed.wait() == -signal.SIGKILL
            completed = Run(str(root), "256", folder=tmp_path, program=build_image_cache)
            assert completed.wait() == 0, completed.text
            assert find_file(cache).read_bytes() == content
        assert kills >= 8

    def test_a_cache_that_cannot_be_written_is_named(self, tmp_path, cache):
        root = write_images(tmp_path / "a", 10)
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text("a file")
        try:
            with pytest.raises(
                StorageError, match=r"image_folders/\w+\.json cannot be written: a file is in the place of"
            ):
                load(root)
        finally:
            cache.unlink()

    def test_a_full_disk_is_named_and_the_build_continues_later(self, tmp_path, cache, monkeypatch):
        monkeypatch.setattr(image_cache, "_BLOCK_SIZE", 4 * 3 * 32 * 32)
        root = write_images(tmp_path / "a", 30)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"\.safetensors cannot be written: the file would exceed the size"):
                load(root)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        decoded = self.count_decoded(monkeypatch)
        assert read_all(load(root)).keys() == {pixels(path) for path in root.iterdir()}
        assert len(decoded) == 30 - 12


class TestBrokenFiles:
    @pytest.fixture
    def broken(self, mixed):
        whole = write_image(mixed / "whole.jpg", (80, 80)).read_bytes()
        (mixed / "half.jpg").write_bytes(whole[: len(whole) // 2])
        (mixed / "text.png").write_text("not an image")
        Image.fromarray(np.ones((40, 40), np.float32)).save(mixed / "float.tif")
        return mixed

    def test_a_broken_file_is_refused_by_name_also_by_the_next_run(self, broken):
        for _ in range(2):
            with pytest.raises(UserError) as refusal:
                load(broken)
            sentence = str(refusal.value)
            assert any(
                f"{broken / name} cannot be read as an image (" in sentence
                for name in ("half.jpg", "text.png", "float.tif")
            )
            assert sentence.endswith(" or skip such files with --data.skip_broken=true.")

    def test_after_a_refusal_nothing_more_is_decoded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(image_cache, "_BLOCK_SIZE", 4 * 3 * 32 * 32)
        root = write_images(tmp_path / "a", 30)
        for path in root.iterdir():
            path.write_text(path.name)
        decoded = []
        monkeypatch.setattr(image_cache.ImageCache, "_decode", lambda *_: decoded.append(1))
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be read as an image"):
                load(root)
            assert len(decoded) == 4

    def test_broken_files_are_left_out_with_a_warning_if_that_is_asked_for(self, broken):
        with pytest.raises(UserError):
            load(broken)
        fractions = {"val_fraction": 0.3, "test_fraction": 0.3}
        for _ in range(2):
            with pytest.warns(
                UserWarning, match=r"^3 broken image\(s\) in .* are left out: float\.tif, half\.jpg, text\.png\.$"
            ):
                data = load(broken, skip_broken=True, **fractions)
            assert len(read_all(data)) == 8
            assert pixels(broken / "whole.jpg") in read_all(data)
        with pytest.raises(UserError, match="cannot be read as an image"):
            load(broken, **fractions)

    def test_labels_belong_to_their_images_after_broken_files(self, tmp_path):
        root = write_images(tmp_path / "a", 12, ("x", "y", "z"))
        for number in (0, 3, 7, 11):
            (root / f"y/{number:04}.png").write_text("broken")
        with pytest.warns(UserWarning, match=r"^4 broken"):
            data = load(root, skip_broken=True)
        intact = [path for path in root.rglob("*.png") if path.stat().st_size > 6]
        assert read_all(data) == {pixels(path): "xyz".index(path.parent.name) for path in intact}

    def test_a_file_that_changes_during_the_build_is_refused(self, mixed, monkeypatch):
        read = image_cache.read_file
        monkeypatch.setattr(image_cache, "read_file", lambda path: read(path) + b"x")
        with pytest.raises(UserError, match=r"was changed while the images were read\. Start again\."):
            load(mixed)

    def test_a_split_of_broken_files_is_refused(self, tmp_path):
        root = write_images(tmp_path / "a/train", 5).parent
        (root / "test").mkdir()
        (root / "test/a.png").write_text("broken")
        with (
            pytest.warns(UserWarning, match=r"^1 broken"),
            pytest.raises(UserError, match="All images of the split test"),
        ):
            load(root, skip_broken=True, val_fraction=0.3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_size": 27}, r"`ImageFolderDataModule\.image_size` is 27\. Choose at least 28 and at most 256"),
        ({"image_size": 257}, r"`ImageFolderDataModule\.image_size` is 257\. Choose at least 28 and at most 256"),
        ({"channels": 2}, r"`ImageFolderDataModule\.channels` is 2\. Choose 1 \(grey\) or 3 \(RGB\)"),
        ({"background": "red"}, r"`ImageFolderDataModule\.background` is 'red'\. Choose black or white"),
        ({"val_fraction": 0.0}, r"`ImageFolderDataModule\.val_fraction` is 0\.0\. Choose above 0 and below 1"),
        ({"test_fraction": 1.0}, r"`ImageFolderDataModule\.test_fraction` is 1\.0\. Choose above 0 and below 1"),
        ({"batch_size": 0}, r"`ImageFolderDataModule\.batch_size` is 0\. Choose at least 1"),
    ],
)
def test_invalid_arguments_are_refused_with_advice(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        ImageFolderDataModule("pictures", **arguments)


FOLDERS = {
    "no images": (["a.txt"], r"holds no images that Pillow reads\. Give the folder of the images with --data\.root"),
    "no training images": (["test/a.png", "b/c.png"], "has images in a folder test, but none in a folder train"),
    "two names": (["train/a.png", "val/b.png", "valid/c.png"], "has two folders for one split, val and valid"),
    "beside splits": (["train/a.png", "b.png"], r"has images beside its folders of splits, such as b\.png"),
    "another folder": (["train/a.png", "b/c.png"], r"has images beside its folders of splits, such as b/c\.png"),
    "beside classes": (["x/a.png", "b.png"], r"holds class folders, such as x, and images beside them, such as b\.png"),
    "other classes": (["train/x/a.png", "test/x/b.png", "test/y/c.png"], "of train and test differ in y"),
    "no classes in test": (["train/x/a.png", "test/b.png"], "of train and test differ in x"),
    "too few images": (
        ["a.png", "b.png"],
        r"`val_fraction` is 0\.1, `test_fraction` is 0\.1, which leaves none of 2 examples for the split val",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_an_unclear_folder_is_refused_in_one_sentence(case, tmp_path):
    paths, sentence = FOLDERS[case]
    for path in paths:
        if path.endswith(".png"):
            write_image(tmp_path / path)
        else:
            (tmp_path / path).write_text("text")
    with pytest.raises(UserError, match=sentence):
        load(tmp_path)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    file = write_image(tmp_path / "a.png")
    for root in (file, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"is not a folder\. Give the folder of the images with --data\.root"):
            load(root)
    with pytest.raises(UserError, match=r"`root` is not given\. Give the folder of the images with --data\.root"):
        ImageFolderDataModule().prepare_data()


def test_a_pipe_or_a_dead_link_in_the_folder_is_refused_by_name(tmp_path):
    write_images(tmp_path, 10)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png is not a file"):
        load(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "link.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"link\.png cannot be read: the file or its directory has been removed"):
        load(tmp_path)


def test_fractions_that_leave_no_training_image_are_refused(tmp_path):
    with pytest.raises(UserError, match="leaves none of 10 examples for the split train"):
        load(write_images(tmp_path, 10), val_fraction=0.5, test_fraction=0.5)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"more than the 8 training examples\. Choose a smaller --data\.batch_size"):
        load(write_images(tmp_path, 10), batch_size=9).train_dataloader()


class TestCommandLine:
    """Training, resumption, test and samples, with no code."""

    OPTIONS = (
        "--data=datamodules.ImageFolderDataModule",
        "--data.image_size=32",
        "--data.batch_size=4",
        "--data.horizontal_flip=true",
        "--trainer.logger=false",
        "--trainer.callbacks=null",
        "--trainer.limit_val_batches=0",
        "--model.generator.width=4",
        "--model.discriminator.width=4",
    )

    def train(self, fit, root, *options):
        return fit("--config=gan/dcgan", *self.OPTIONS, f"--data.root={root}", *options)

    @pytest.mark.slow
    def test_a_resumed_run_equals_an_uninterrupted_one(self, fit, tmp_path):
        write_images(tmp_path / "pictures", 20)
        whole = self.train(fit, "pictures", "--trainer.max_steps=6")
        part = self.train(fit, "pictures", "--trainer.max_steps=2")
        fit(f"--resume={part}", "--trainer.max_steps=6")
        weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, part)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    @pytest.mark.slow
    def test_two_ranks_train_on_one_cache(self, tmp_path, cache):
        write_images(tmp_path / "pictures", 20)
        options = [*self.OPTIONS, "--data.root=pictures", "--trainer.max_steps=2"]
        ranks = start_ranks("fit", "--config=gan/dcgan", *options, folder=tmp_path)
        assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].text + ranks[1].text
        assert find_file(cache).is_file()

    @pytest.mark.slow
    def test_a_refused_folder_leaves_no_run(self, fit, tmp_path):
        (write_images(tmp_path / "pictures", 20) / "broken.png").write_text("no image")
        with pytest.raises(SystemExit):
            self.train(fit, "pictures", "--trainer.max_steps=1")
        assert list((tmp_path / "runs").glob("*/*")) == []

    @pytest.mark.slow
    def test_samples_need_no_folder_and_a_test_asks_for_it(self, fit, tmp_path, capsys):
        root = write_images(tmp_path / "pictures", 20)
        run = self.train(fit, "pictures", "--trainer.max_steps=1")
        root.rename(tmp_path / "elsewhere")
        checkpoint = f"--ckpt_path={run}/checkpoints/last.ckpt"
        train.main(["sample", checkpoint, "--num_samples=4"])
        assert np.load("samples/samples.npz")["arr_0"].shape == (4, 32, 32, 3)
        with pytest.raises(SystemExit) as end:
            train.main(["test", checkpoint])
        assert end.value.code == 2
        sentence = "pictures is not a folder. Give the folder of the images with --data.root."
        assert capsys.readouterr().err.strip().endswith(sentence)
        train.main(["test", checkpoint, "--data.root=elsewhere"])

    @pytest.mark.slow
    def test_a_folder_elsewhere_is_read_if_the_user_has_named_it_before(self, fit, tmp_path, cache, capsys):
        root = write_images(tmp_path / "pictures", 20)
        run = self.train(fit, root, "--trainer.max_steps=1")
        fit(f"--resume={run}", "--trainer.max_steps=2")
        shutil.rmtree(cache)
        checkpoint = f"--ckpt_path={run}/checkpoints/last.ckpt"
        with pytest.raises(SystemExit):
            train.main(["test", checkpoint])
        assert "`root` is not given. Give the folder of the images with --data.root." in capsys.readouterr().err
        assert not cache.exists()
        train.main(["sample", checkpoint, "--num_samples=4"])
        train.main(["test", checkpoint, f"--data.root={root}"])
