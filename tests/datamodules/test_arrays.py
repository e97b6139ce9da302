"""Files of arrays: what is read, how it is split and scaled, and which files are refused."""

import numpy as np
import pytest
import torch
from helpers import load
from safetensors.torch import save_file

import train
from datamodules import ArrayDataModule
from gen_lightning.contracts import ExampleData, ImageData, ScaledData, offers
from gen_lightning.errors import UserError

N = 50


def draw(*shape):
    return np.random.default_rng(0).normal(3, 2, (N, *shape))


def write(path, data, labels=None):
    """Write arrays in the format that the file's ending names."""
    arrays = {"data": data} if labels is None else {"data": data, "labels": labels}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors if labels is not None else tensors["data"], path)
    return str(path)


def set_up(path, **arguments):
    data = ArrayDataModule(str(path), **{"batch_size": 8, **arguments})
    data.setup("fit")
    return data


def join(data):
    """Return all examples and labels, as models see them, in order of their first value."""
    parts = [part for split in ("train", "val", "test") for part in data.examples(split)]
    examples, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    order = examples.flatten(1)[:, 0].argsort()
    return examples[order], labels[order]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("shape", [(3,), (2, 7), (1, 5, 4)])
def test_every_format_and_shape_is_split_without_loss(suffix, shape, tmp_path):
    values = draw(*shape)
    data = set_up(write(tmp_path / f"file{suffix}", values))
    assert data.shape == shape
    assert [len(data.splits[name].data) for name in ("train", "val", "test")] == [40, 5, 5]
    examples, labels = join(data)
    expected = torch.from_numpy(values)[values.reshape(N, -1)[:, 0].argsort()].float()
    torch.testing.assert_close(examples, expected)
    assert not labels.any()


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_labels_stay_with_their_examples(suffix, tmp_path):
    values = np.arange(float(N))[:, None]
    data = set_up(write(tmp_path / f"file{suffix}", values, np.arange(N, dtype=np.int32)))
    examples, labels = join(data)
    assert labels.dtype == torch.int64
    assert torch.equal(examples[:, 0].long(), labels)


def test_keys_select_arrays(tmp_path):
    np.savez(tmp_path / "file.npz", x=draw(2), y=np.arange(N), z=draw(4))
    data = set_up(tmp_path / "file.npz", data_key="x", labels_key="y")
    assert data.shape == (2,)
    assert join(data)[1].sum() == N * (N - 1) / 2
    with pytest.raises(UserError, match=r"has no array `data`.*x, y, z"):
        set_up(tmp_path / "file.npz")


def test_arrays_of_text_beside_the_examples_are_ignored(tmp_path):
    values = draw(2)
    np.savez(tmp_path / "file.npz", data=values, names=np.array(["a", "b"] * (N // 2)))
    assert torch.equal(
        join(set_up(tmp_path / "file.npz"))[0].sort(0).values, torch.from_numpy(values).float().sort(0).values
    )


def test_standardized_training_data_have_mean_0_and_variance_1_for_each_channel(tmp_path):
    values = draw(3, 4) * np.array([1, 100, 0])[:, None] + np.array([0, 5, 7])[:, None]
    data = set_up(write(tmp_path / "file.npy", values), standardize=True)
    train_examples = torch.cat([examples for examples, _ in data.examples("train")]).double()
    torch.testing.assert_close(train_examples.mean([0, 2]), torch.zeros(3).double(), rtol=0, atol=1e-5)
    # A constant channel has no variance, and stays at 0.
    variance = train_examples.var([0, 2], correction=0)
    torch.testing.assert_close(variance, torch.tensor([1.0, 1, 0]).double(), rtol=0, atol=1e-5)
    stored = data.splits["val"].data
    torch.testing.assert_close(data.restore_units(data.convert(stored)), stored, rtol=1e-6, atol=1e-5)


def test_large_values_keep_small_differences(tmp_path):
    times = 1.7e9 + 50 * draw(1)
    data = set_up(write(tmp_path / "file.npy", times), standardize=True)
    converted = torch.cat([examples for examples, _ in data.examples("train")])
    assert len(converted.unique()) == 40
    restored = data.restore_units(converted)
    torch.testing.assert_close(restored, data.splits["train"].data, rtol=0, atol=1e-3)


def test_a_constant_feature_has_the_scale_1(tmp_path):
    data = set_up(write(tmp_path / "file.npy", np.full((1003, 2), 0.1)), standardize=True)
    assert data.state_dict()["scale"] == [1.0, 1.0]


def test_checkpoint_units_replace_file_units(tmp_path):
    data = set_up(write(tmp_path / "file.npy", draw(3)), standardize=True)
    other = set_up(write(tmp_path / "other.npy", 9 * draw(3) + 4), standardize=True)
    values = torch.randn(6, 3)
    assert not torch.allclose(data.convert(values), other.convert(values))
    other.load_state_dict(data.state_dict())
    assert torch.equal(data.convert(values), other.convert(values))


@pytest.mark.parametrize(("dtype", "value_range"), [(np.uint8, None), (np.int16, (0, 255)), (np.float64, (-1, 256))])
def test_a_range_is_mapped_to_0_and_1_and_back(dtype, value_range, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 4)).astype(dtype)
    data = set_up(write(tmp_path / "file.npy", values), value_range=value_range)
    stored = data.splits["train"].data
    converted = data.convert(stored)
    assert converted.dtype == torch.float32
    assert 0 <= converted.min() < 0.02 < 0.98 < converted.max() <= 1
    restored = data.restore_units(converted)
    assert restored.dtype == stored.dtype
    torch.testing.assert_close(restored.double(), stored.double(), rtol=0, atol=1e-4)
    assert offers(data, ImageData)
    torch.testing.assert_close(torch.cat(list(data.images("train"))), converted)


def test_vectors_and_other_channels_are_no_images(tmp_path):
    for name, values in {"vectors": draw(3), "five channels": draw(5, 4, 4), "any range": draw(1, 4, 4)}.items():
        data = set_up(write(tmp_path / f"{name}.npy", values))
        assert not offers(data, ImageData)
        assert offers(data, ExampleData)
        assert offers(data, ScaledData)


def test_channels_last_and_shape_only_move_dimensions(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (N, 4, 6, 3)).astype(np.uint8)
    data = set_up(write(tmp_path / "file.npy", values), channels_last=True)
    assert data.shape == (3, 4, 6)
    assert set(map(bytes, values)) == {
        bytes(data.restore_units(example[None]).numpy()[0])
        for split in data.splits
        for examples, _ in data.examples(split)
        for example in examples
    }
    grey = set_up(write(tmp_path / "grey.npy", values[..., 0]), shape=[1, 4, 6])
    assert grey.splits["train"].data.shape[1:] == (1, 4, 6)
    with pytest.raises(UserError, match=r"have shape \(4, 6, 3\), and --data.shape is \[3, 4, 6\]"):
        set_up(tmp_path / "file.npy", shape=[3, 4, 6])


def test_separate_split_files_are_memory_mapped(tmp_path):
    paths = [write(tmp_path / f"{name}.npy", draw(3) + i) for i, name in enumerate(("train", "val", "test"))]
    data = set_up(paths[0], val_path=paths[1], test_path=paths[2])
    for name, path in zip(("train", "val", "test"), paths, strict=True):
        assert torch.equal(data.splits[name].data, torch.from_numpy(np.load(path)))
    # The tensor shows what is written to the file afterwards, since it is no copy.
    file = np.load(paths[0], mmap_mode="r+")
    file[7] = 1234
    assert torch.equal(data.splits["train"].data[7], torch.full((3,), 1234.0).double())


def test_identity_depends_on_content_only(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    one = ArrayDataModule(write(tmp_path / "one.npy", draw(3)))
    assert one.identity == ArrayDataModule(write(tmp_path / "elsewhere/two.npy", draw(3))).identity
    assert one.identity != ArrayDataModule(write(tmp_path / "three.npy", draw(3) + 1)).identity
    assert one.identity != ArrayDataModule(str(tmp_path / "one.npy"), standardize=True).identity
    apart = [ArrayDataModule(str(tmp_path / "one.npy"), val_path=str(path)) for path in tmp_path.rglob("[ot][nw]*.npy")]
    assert apart[0].identity == apart[1].identity


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"offset": 1},
        {"offset": [0.0], "scale": ["a"], "dtype": "uint8"},
        {"offset": [0.0], "scale": [1.0], "dtype": "load"},
        {"x": 3},
    ],
)
def test_damaged_checkpoint_units_are_refused(state, tmp_path):
    data = ArrayDataModule(write(tmp_path / "file.npy", draw(3)))
    with pytest.raises(UserError, match="units of the data are damaged"):
        data.load_state_dict(state)


def test_files_that_are_not_alike_are_refused(tmp_path):
    path = write(tmp_path / "file.npy", draw(3))
    for name, values in {"shape": draw(4), "type": draw(3).astype(np.uint8)}.items():
        with pytest.raises(UserError, match="Choose files that are alike"):
            set_up(path, test_path=write(tmp_path / f"{name}.npy", values))


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def write_harmful(path):
    torch.save({"data": Harmful()}, path)


def write_damaged(path):
    np.savez_compressed(path, data=draw(100))
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


REFUSED = {
    "missing": (lambda path: None, ".npy", "is missing. Choose a file"),
    "a directory": (lambda path: path.mkdir(), ".npy", "is missing. Choose a file"),
    "another ending": (lambda path: path.touch(), ".csv", "has the ending '.csv'. Choose a file"),
    "empty": (lambda path: path.touch(), ".npz", "is corrupt, or holds something other"),
    "no archive": (lambda path: path.write_bytes(b"text" * 99), ".npz", "is corrupt, or holds something other"),
    "no safetensors": (lambda path: path.write_bytes(b"text" * 99), ".safetensors", "is corrupt, or holds"),
    "objects": (lambda path: np.save(path, np.array([{}, 1])), ".npy", "is corrupt, or holds something other"),
    "text": (lambda path: np.save(path, np.array(["a", "b"])), ".npy", "is corrupt, or holds something other"),
    "code": (write_harmful, ".pt", "is corrupt, or holds something other"),
    "a list": (lambda path: torch.save([1, 2], path), ".pt", "is corrupt, or holds something other"),
    "one number": (lambda path: np.save(path, np.float32(3)), ".npy", r"have shape \(\). Store at least"),
    "one dimension": (lambda path: np.save(path, np.zeros(9)), ".npy", r"have shape \(9,\). Store at least"),
    "no example": (lambda path: np.save(path, np.zeros((0, 3))), ".npy", r"have shape \(0, 3\). Store at least"),
    "complex numbers": (lambda path: np.save(path, draw(2) * 1j), ".npy", "are torch.complex128"),
    "no feature": (lambda path: np.save(path, np.zeros((9, 0))), ".npy", r"have shape \(9, 0\). Store at least"),
    "damaged compression": (write_damaged, ".npz", "is corrupt, or holds something other"),
    "a sparse tensor": (lambda path: torch.save(torch.eye(9).to_sparse(), path), ".pt", "are sparse"),
    "few examples": (
        lambda path: np.save(path, np.zeros((2, 3))),
        ".npy",
        "leaves none of 2 examples for the split val",
    ),
    "NaN": (lambda path: np.save(path, np.full((9, 3), np.nan)), ".npy", "value that is not finite"),
    "infinity": (lambda path: np.save(path, np.full((9, 3), np.inf)), ".npy", "value that is not finite"),
    "too few labels": (lambda path: np.savez(path, data=draw(2), labels=[1]), ".npz", "one whole number of 0 or more"),
    "negative labels": (lambda path: np.savez(path, data=draw(2), labels=-np.ones(N, int)), ".npz", "whole number"),
    "one-hot labels": (lambda path: np.savez(path, data=draw(2), labels=np.eye(N)), ".npz", "one whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(case, tmp_path, capsys):
    make, suffix, message = REFUSED[case]
    make(tmp_path / f"file{suffix}")
    with pytest.raises(UserError, match=message):
        set_up(tmp_path / f"file{suffix}")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value_range": (1.0, 0.0)}, "`value_range` is"),
        ({"value_range": (0.0, 1.0), "standardize": True}, "both given"),
        ({"value_range": (0.0, 1.0)}, "data reach from"),
        ({"val_fraction": 1.0}, "val_fraction` is 1.0"),
        ({"test_fraction": 0.95}, "leaves none of 50 examples for the split train"),
        ({"batch_size": 0}, "batch_size` is 0"),
        ({"shape": [-3]}, "Choose sizes of at least 1"),
        ({"val_path": "nowhere.npy"}, "nowhere.npy is missing"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path):
    np.save(tmp_path / "file.npy", draw(3))
    with pytest.raises(UserError, match=message):
        set_up(tmp_path / "file.npy", **arguments)


@pytest.mark.slow
def test_a_run_on_a_file_resumes_exactly_and_samples_in_its_units_without_it(fit, tmp_path, capsys):
    values = np.random.default_rng(0).normal([500, -3], [20, 0.1], (200, 2))
    write(tmp_path / "table.npy", values)
    recipe = ["--data=datamodules.ArrayDataModule", "--data.path=table.npy", "--data.standardize=true"]
    options = ["--config=gan/array", *recipe, "--trainer.callbacks=null", "--trainer.logger=false"]
    whole = fit(*options, "--trainer.max_steps=30")
    stopped = fit(*options, "--trainer.max_steps=13")
    fit("--resume", str(stopped), "--trainer.max_steps=30")
    checkpoints = [load(run / "checkpoints/last.ckpt") for run in (whole, stopped)]
    for name, value in checkpoints[0]["state_dict"].items():
        assert torch.equal(value, checkpoints[1]["state_dict"][name])
    (tmp_path / "table.npy").unlink()
    checkpoint = f"--ckpt_path={stopped / 'checkpoints/last.ckpt'}"
    train.main(["sample", checkpoint, "--num_samples=100"])
    samples = np.load("samples/samples.npz")["arr_0"]
    # An untrained network stays within a few standard deviations of the mean.
    assert np.abs((samples - [500, -3]) / [20, 0.1]).max() < 10
    with pytest.raises(SystemExit):
        train.main(["test", checkpoint])
    assert "table.npy is missing. Choose a file with --data.path." in capsys.readouterr().err


@pytest.mark.slow
def test_samples_with_two_channels_have_no_picture(fit, tmp_path):
    write(tmp_path / "field.npy", np.random.default_rng(0).normal(size=(100, 2, 4, 4)))
    data = ["--data=datamodules.ArrayDataModule", "--data.path=field.npy", "--data.batch_size=16"]
    run = fit(
        "--config=gan/array", *data, "--trainer.callbacks=null", "--trainer.logger=false", "--trainer.max_steps=2"
    )
    train.main(["sample", f"--ckpt_path={run / 'checkpoints/last.ckpt'}", "--num_samples=5"])
    assert np.load("samples/samples.npz")["arr_0"].shape == (5, 2, 4, 4)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["samples.npz"]
