"""Files of series: what is read, how it is cut in time, and which files are refused."""

import numpy as np
import pytest
import torch
from helpers import load
from scipy.io import wavfile

import train
from datamodules import SignalDataModule
from gen_lightning.errors import UserError

N, T = 50, 12


def draw(*shape):
    return np.random.default_rng(0).normal(3, 2, shape)


def set_up(path, **arguments):
    data = SignalDataModule(str(path), **{"batch_size": 8, **arguments})
    data.setup("fit")
    return data


def write_text(path, series, labels):
    """Write series [N, T] with their labels as the UCR archive does."""
    lines = ("\t".join([str(label), *map(repr, map(float, one))]) for one, label in zip(series, labels, strict=True))
    path.write_text("\n".join(lines) + "\n")


def restore(data, split):
    """Return a split in the units of the file, and its labels."""
    series, labels = (torch.cat(parts) for parts in zip(*data.examples(split), strict=True))
    return data.restore_units(series), labels


def test_series_without_channels_have_one(tmp_path):
    values = draw(N, T)
    np.save(tmp_path / "series.npy", values)
    data = set_up(tmp_path / "series.npy")
    assert data.shape == (1, T)
    restored = torch.cat([restore(data, split)[0] for split in ("train", "val", "test")])
    expected = torch.from_numpy(values)[values[:, 0].argsort(), None]
    torch.testing.assert_close(restored[restored[:, 0, 0].argsort()], expected, rtol=0, atol=1e-6)
    assert torch.equal(torch.cat(list(data.signals("val"))), next(data.examples("val"))[0])


def test_each_channel_is_standardized_by_the_training_series(tmp_path):
    np.save(tmp_path / "series.npy", draw(N, 3, T) * np.array([1, 100, 0.01])[:, None])
    data = set_up(tmp_path / "series.npy")
    series = torch.cat(list(data.signals("train"))).double()
    torch.testing.assert_close(series.mean([0, 2]), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(series.var([0, 2], correction=0), torch.ones(3).double(), rtol=0, atol=1e-5)
    assert torch.cat(list(data.signals("test"))).mean().abs() > 1e-4


def test_channels_last_is_the_same_data(tmp_path):
    values = draw(N, T, 2)
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", values.transpose(0, 2, 1))
    last, first = set_up(tmp_path / "last.npy", channels_last=True), set_up(tmp_path / "first.npy")
    assert last.shape == (2, T)
    assert torch.equal(next(last.signals("train")), next(first.signals("train")))
    torch.testing.assert_close(restore(last, "val")[0], restore(first, "val")[0].mT)


@pytest.mark.parametrize("ending", [".tsv", ".txt", ".ts"])
def test_text_files_have_labels_in_sorted_order(ending, tmp_path):
    """Labels of the UCR archive need not be 0, 1, 2, ..., nor numbers."""
    values, names = draw(N, T), np.array(["10", "-1.0000000e+00", "2"])[np.arange(N) % 3]
    path = tmp_path / f"series{ending}"
    if ending == ".ts":
        rows = (f"{','.join(map(repr, map(float, one)))}:{name}" for one, name in zip(values, names, strict=True))
        path.write_text("\n".join(["#note", "@problemName X", "@classLabel true 10 -1 2", "@data", *rows]))
    else:
        write_text(path, values, names)
    data = set_up(path)
    for split in ("train", "val", "test"):
        series, labels = restore(data, split)
        found = names[np.abs(values[:, 0] - series[:, 0, :1].numpy()).argmin(1)]
        assert [{"10": 2, "2": 1}.get(name, 0) for name in found] == labels.tolist()


def test_text_labels_have_the_same_numbers_in_all_files(tmp_path):
    write_text(tmp_path / "train.tsv", draw(N, T), ["a", "b", "c", "d", "e"] * 10)
    write_text(tmp_path / "test.tsv", draw(5, T), ["e", "c", "c", "e", "c"])
    write_text(tmp_path / "other.tsv", draw(5, T), ["e", "f", "c", "e", "c"])
    assert restore(set_up(tmp_path / "train.tsv", test_path=str(tmp_path / "test.tsv")), "test")[1].tolist() == [
        *(4, 2, 2, 4, 2)
    ]
    with pytest.raises(UserError, match=r"other.tsv contain 'f', and the training file has a, b, c, d, e\. Remove"):
        set_up(tmp_path / "train.tsv", test_path=str(tmp_path / "other.tsv"))


def write_recording(path, values):
    """Write a recording [C, T] in the format that the file's ending names."""
    if path.suffix == ".wav":
        wavfile.write(path, 100, values.T)
    elif path.suffix == ".csv":
        np.savetxt(path, values.T, delimiter=",", header="left,right", comments="", fmt="%d")
    else:
        np.save(path, values)


@pytest.mark.parametrize("ending", [".npy", ".wav", ".csv"])
@pytest.mark.parametrize("hop", [None, 3, 7])
def test_windows_of_different_splits_share_no_time(ending, hop, tmp_path):
    """The values are the times, so a window tells where it is from."""
    times = np.stack([np.arange(1000), 5000 + np.arange(1000)]).astype(np.int16)
    write_recording(tmp_path / f"recording{ending}", times)
    data = set_up(tmp_path / f"recording{ending}", window=20, hop=hop)
    assert data.shape == (2, 20)
    windows = {split: restore(data, split)[0].round().long() for split in ("train", "val", "test")}
    for split, (first, last) in {"train": (0, 800), "val": (800, 900), "test": (900, 1000)}.items():
        starts = windows[split][:, 0, 0].sort().values
        step = hop if hop and split == "train" else 20
        assert starts.tolist() == list(range(first, last - 19, step))
    every = torch.cat(list(windows.values()))
    assert torch.equal(every[:, 1], every[:, 0] + 5000)
    assert (every.diff(dim=-1) == 1).all()


def test_windows_of_one_recording_need_no_memory_of_their_own(tmp_path):
    np.save(tmp_path / "recording.npy", draw(1000))
    data = set_up(tmp_path / "recording.npy", window=100, hop=1)
    train_split = data.splits["train"].data
    assert train_split.shape == (701, 1, 100)
    assert train_split.untyped_storage().nbytes() == 8 * 1000


def test_a_directory_of_wav_files_is_cut_file_by_file(tmp_path):
    (tmp_path / "sounds/more").mkdir(parents=True)
    for name, start, length in (("a", 0, 400), ("more/b", 10_000, 250), ("c", 20_000, 30)):
        wavfile.write(tmp_path / f"sounds/{name}.wav", 8000, np.arange(start, start + length, dtype=np.int16))
    (tmp_path / "sounds/notes.txt").write_text("no sound")
    data = set_up(tmp_path / "sounds", window=25)
    starts = {split: restore(data, split)[0][:, 0, 0].sort().values.tolist() for split in ("train", "val", "test")}
    # Of 400 values, 40 are validation data. Of 250 values, 25 are. 30 values are too short for another window.
    assert starts["val"] == [320, 10_200]
    assert starts["test"] == [360, 10_225]
    assert starts["train"] == [*range(0, 320, 25)][:12] + [*range(10_000, 10_200, 25)][:8]


def test_wav_samples_are_restored_as_integers_within_their_range(tmp_path):
    wavfile.write(tmp_path / "loud.wav", 100, (20_000 * np.sin(np.arange(4000))).astype(np.int16))
    data = set_up(tmp_path / "loud.wav", window=16)
    assert data.restore_units(torch.full((1, 1, 16), 9.0)).unique().tolist() == [32767]
    assert data.restore_units(torch.full((1, 1, 16), -9.0)).unique().tolist() == [-32768]


def test_equal_wav_files_are_series_without_a_window(tmp_path):
    for number in range(10):
        wavfile.write(tmp_path / f"{number}.wav", 100, np.full(16, number, np.int16))
    data = set_up(tmp_path, batch_size=2)
    assert sorted(int(one[0, 0]) for split in data.splits.values() for one in split.data) == list(range(10))


def test_columns_are_channels(tmp_path):
    lines = [f"2020-01-01 {i},{i},{2 * i},x" for i in range(500)]
    (tmp_path / "log.csv").write_text("\n".join(["time,a,b,note", *lines]))
    data = set_up(tmp_path / "log.csv", window=10, columns=["b", "a"])
    assert data.splits["train"].data[1, :, 0].tolist() == [20, 10]
    with pytest.raises(UserError, match=r"has a column `time` that holds no numbers. Name the columns"):
        set_up(tmp_path / "log.csv", window=10)
    with pytest.raises(UserError, match=r"has no column `c`. Choose --data.columns among time, a, b, note"):
        set_up(tmp_path / "log.csv", window=10, columns=["c"])


def test_files_of_their_own_are_cut_without_overlap(tmp_path):
    for name, length in (("train", 300), ("val", 90), ("test", 55)):
        np.save(tmp_path / f"{name}.npy", np.arange(length, dtype=np.float32))
    paths = {f"{name}_path": str(tmp_path / f"{name}.npy") for name in ("val", "test")}
    data = set_up(tmp_path / "train.npy", window=10, hop=5, **paths)
    assert [len(data.splits[name].data) for name in ("train", "val", "test")] == [59, 9, 5]


def test_identity_depends_on_content_and_windows(tmp_path):
    np.save(tmp_path / "one.npy", draw(1000))
    np.save(tmp_path / "two.npy", draw(1000))
    identities = [
        SignalDataModule(str(tmp_path / f"{name}.npy"), window=window, hop=hop).identity
        for name, window, hop in (("one", 10, 5), ("two", 10, 5), ("one", 20, 5), ("one", 10, None))
    ]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def gap(values, *place):
    values[place] = np.nan
    return values


def save(values):
    return ".npy", lambda path: np.save(path, values)


def write(text, ending):
    return ending, lambda path: path.write_text(text)


REFUSED = {
    "missing": (".npy", lambda path: None, {}, "is missing. Choose a file"),
    "missing wav": (".wav", lambda path: None, {"window": 9}, "is missing. Choose a file"),
    "an empty directory": ("", lambda path: path.mkdir(), {"window": 9}, "holds no .wav file. Choose another"),
    "a gap": (*save(gap(draw(N, 2, T), 7, 1, 3)), {}, "1 value.s. of series 7 are not finite.*channel 1 at time 3"),
    "a gap in a recording": (*save(gap(draw(999), slice(5, 9))), {"window": 9}, r"4 value\(s\).*channel 0 at time 5"),
    "a gap in text": (*write("1 0 1\n1 nan 3\n", ".txt"), {}, "1 value.s. of series 1 are not finite"),
    "a missing value": (*write("@classLabel true 1\n1,2:1\n?,3:1\n", ".ts"), {}, "of series 1 are not finite"),
    "unequal lengths": (*write("1 0 1 2\n2 0 1 nan\n", ".tsv"), {}, "unequal lengths, from 2 to 3. Cut them into"),
    "unequal channels": (*write("1,2:1,2\n1,2\n", ".ts"), {}, "have 1 to 2 channels. Make them equal"),
    "words": (*write("1 a b\n", ".txt"), {}, "cannot be read: could not convert string to float: 'a'. Store a line"),
    "no series": (*write("", ".txt"), {}, "holds no series. Store a line"),
    "an image": (*save(draw(9, 1, 4, 4)), {}, r"shape \(9, 1, 4, 4\). Store series as \[N, T\] or"),
    "images as recordings": (*save(draw(9, 1, 4, 4)), {"window": 2}, r"shape \(9, 1, 4, 4\). Store a recording as"),
    "one recording": (
        *write("a\n1\n2\n3\n", ".csv"),
        {},
        "one recording of 3 values. Cut it into series with",
    ),
    "a short recording": (*save(draw(30)), {"window": 40}, "`window` is 40, and .* at most 30 values in a row"),
    "a short part": (*save(draw(300)), {"window": 40}, "`window` is 40, and the val part of .* at most 30 values"),
    "no sound": (*write("text", ".wav"), {"window": 4}, "cannot be read as WAV: File format .* Convert it to PCM"),
    "no table": (*write('a,b\n"1', ".csv"), {"window": 4}, "cannot be read as CSV"),
    "an empty table": (*write("a,b\n", ".csv"), {"window": 4}, "has no values|holds no numbers"),
    "another shape": (*save(draw(N, T)), {"shape": [1, 7]}, r"shape \[1, 12\], and --data.shape is \[1, 7\]"),
    "few series": (*save(draw(2, T)), {}, "leaves none of 2 examples for the split"),
    "an array of one recording": (*save(draw(30)), {}, "one recording of 30 values. Cut it into series with"),
    "another ending": (
        ".mat",
        lambda path: path.touch(),
        {},
        r"has the ending '.mat'. Choose a file that ends",
    ),
    "no part for training": (
        *save(draw(300)),
        {"window": 9, "val_fraction": 0.6, "test_fraction": 0.4},
        "are 0.6 and 0.4, which leaves nothing for training",
    ),
    "a large batch": (*save(draw(N, T)), {"batch_size": 99}, "`batch_size` is 99"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(case, tmp_path):
    ending, make, arguments, message = REFUSED[case]
    make(tmp_path / f"file{ending}")
    with pytest.raises(UserError, match=message):
        set_up(tmp_path / f"file{ending}", **arguments).train_dataloader()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, r"`SignalDataModule.window` is 0. Choose at least 2"),
        ({"window": 4, "hop": 0}, r"`SignalDataModule.hop` is 0. Choose at least 1"),
        ({"hop": 4}, "`hop` is 4, and `window` is not given"),
        ({"val_fraction": 0}, "`SignalDataModule.val_fraction` is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        SignalDataModule("file.npy", **arguments)


def test_different_wav_files_are_refused(tmp_path):
    wavfile.write(tmp_path / "a.wav", 100, np.zeros((50, 2), np.int16))
    wavfile.write(tmp_path / "b.wav", 100, np.zeros(50, np.int16))
    with pytest.raises(UserError, match=r"a.wav has 2 channel\(s\) of int16, and .*b.wav has 1 of int16"):
        set_up(tmp_path, window=5)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gan/signal", "vae/signal"])
def test_a_run_on_windows_resumes_exactly_and_samples_without_its_file(recipe, fit, tmp_path, capsys):
    times = np.arange(3000)
    np.save("recording.npy", 500 + 20 * np.stack([np.sin(times / 3), np.cos(times / 5)]))
    options = [f"--config={recipe}", "--data.path=recording.npy", "--data.window=25", "--data.hop=5"]
    options += ["--data.batch_size=32", "--trainer.logger=false", "--trainer.val_check_interval=8"]
    whole = fit(*options, "--trainer.max_steps=20")
    stopped = fit(*options, "--trainer.max_steps=13")
    fit("--resume", str(stopped), "--trainer.max_steps=20")
    checkpoints = [load(run / "checkpoints/last.ckpt") for run in (whole, stopped)]
    for name, value in checkpoints[0]["state_dict"].items():
        assert torch.equal(value, checkpoints[1]["state_dict"][name])
    assert (stopped / "samples/iteration_0000020.png").is_file()
    checkpoint = f"--ckpt_path={stopped / 'checkpoints/last.ckpt'}"
    train.main(["test", checkpoint])
    table = capsys.readouterr().out
    for metric in ("log_spectral_distance", "correlation_difference", "two_sample_accuracy"):
        assert metric in table
    (tmp_path / "recording.npy").unlink()
    train.main(["sample", checkpoint, "--num_samples=30"])
    samples = np.load("samples/samples.npz")["arr_0"]
    assert samples.shape == (30, 2, 25)
    # The units are those of the recording, although the networks have hardly been trained.
    assert np.median(np.abs(samples - 500) / 20) < 5
