"""Text files: how lines become token numbers and back, how they are split, and which files are refused."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import load

import train
from datamodules import TextDataModule
from datamodules.text_files import join_tokens, split_line
from gen_lightning.contracts import ExampleData, IdentifiedData, TextData, WrittenData, offers
from gen_lightning.errors import UserError
from gen_lightning.tokens import END, UNKNOWN, are_texts, count_tokens

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "it", "sleeps", "soundly"]


def draw_lines(n=60, seed=0):
    """Return different lines of 1 to 8 words."""
    generator = np.random.default_rng(seed)
    lines = [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(3 * n)]
    return [*dict.fromkeys(lines)][:n]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def set_up(path, **arguments):
    data = TextDataModule(str(path), **{"batch_size": 8, "length": 80, **arguments})
    data.setup("fit")
    return data


def read(data, split):
    """Return the lines of a split, decoded from what models see."""
    return [line for examples, _ in data.examples(split) for line in data.decode(examples)]


@pytest.mark.parametrize("tokens", ["characters", "words"])
def test_lines_come_back_from_their_numbers(tokens, tmp_path):
    lines = [*draw_lines(), 'Well, he said: "don\'t!" (twice).']
    data = set_up(write(tmp_path / "file.txt", lines), tokens=tokens)
    decoded = [line for split in ("train", "val", "test") for line in read(data, split)]
    if tokens == "characters":
        assert sorted(decoded) == sorted(lines)
    examples, labels = next(iter(data.examples("train")))
    assert (examples.dtype, labels.dtype, labels.any().item()) == (torch.float32, torch.int64, False)
    assert examples.shape == (len(read(data, "train")), *data.shape)
    assert are_texts(examples, data.vocabulary_size)
    assert torch.equal(examples, data.splits["train"].data.float())


def test_the_end_is_after_the_tokens_and_padding_after_the_end(tmp_path):
    data = set_up(write(tmp_path / "file.txt", ["aab"] * 9 + ["b", "bb"] * 9), val_fraction=0.3, test_fraction=0.3)
    examples = torch.cat([split.data for split in data.splits.values()])
    assert sorted(count_tokens(examples).tolist()) == sorted([4] * 9 + [2, 3] * 9)
    assert (examples.gather(1, count_tokens(examples)[:, None] - 1) == END).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("It's a well-known fact, isn't it?", ["It's", "a", "well-known", "fact", ",", "isn't", "it", "?"]),
        ('He said: "no" (3 times)...', ["He", "said", ":", '"', "no", '"', "(", "3", "times", ")", ".", ".", "."]),
        ("Größe  ¿qué?\t今日は", ["Größe", "¿", "qué", "?", "今日は"]),
    ],
)
def test_punctuation_marks_are_words(line, words):
    assert [*split_line(line, "words")] == words
    assert [*split_line(join_tokens(words, "words"), "words")] == words, "joining loses no token"


def test_no_space_is_written_before_closing_marks():
    assert join_tokens(["Yes", ",", "(", "he", ")", "did", "!"], "words") == "Yes, ( he) did!"


def test_the_vocabulary_has_the_most_frequent_training_tokens_first(tmp_path):
    train_lines = ["b a a a", "c b a", "d"]
    paths = {name: write(tmp_path / f"{name}.txt", ["e e e a", "b e e"]) for name in ("val_path", "test_path")}
    data = set_up(write(tmp_path / "file.txt", train_lines), tokens="words", vocabulary_size=6, **paths)
    assert data.vocabulary == ["a", "b", "c"]
    assert read(data, "train") == ["b a a a", "c b a", "<unk>"]
    assert read(data, "test") == ["<unk> <unk> <unk> a", "b <unk> <unk>"]
    assert (data.splits["test"].data == UNKNOWN).sum() == 5


def test_unknown_characters_are_replaced(tmp_path):
    path = write(tmp_path / "test.txt", ["aß", "ba"])
    data = set_up(write(tmp_path / "file.txt", draw_lines()), test_path=path)
    assert read(data, "test") == ["a\N{REPLACEMENT CHARACTER}", "ba"]


@pytest.mark.parametrize("tokens", ["characters", "words"])
def test_long_lines_are_cut_without_an_end(tokens, tmp_path, caplog):
    lines = ["a b c d e", "a b", "b", "c", "d"]
    path = write(tmp_path / "file.txt", lines)
    with caplog.at_level("INFO"):
        data = set_up(path, tokens=tokens, length=3, val_path=path, test_path=path)
    assert data.splits["train"].data[:2, -1].gt(END).sum() == (2 if tokens == "characters" else 1)
    assert read(data, "train")[0] == ("a b" if tokens == "characters" else "a b c")
    cut = 6 if tokens == "characters" else 3
    assert f"{cut} lines have 3 {tokens} or more and are cut. 10 held-out lines are training lines too." in caplog.text


def test_equal_lines_are_held_out_together(tmp_path):
    lines = [line for index, line in enumerate(draw_lines(100)) for _ in range(index % 5 + 1)]
    data = set_up(write(tmp_path / "file.txt", lines))
    splits = {name: read(data, name) for name in ("train", "val", "test")}
    assert sum(map(Counter, splits.values()), Counter()) == Counter(lines)
    assert not set(splits["train"]) & set(splits["val"]) | set(splits["val"]) & set(splits["test"])
    assert [len(set(part)) for part in splits.values()] == [80, 10, 10]
    assert splits["train"] == [line for line in lines if line in set(splits["train"])], "in the order of the file"


def test_lines_that_are_equal_after_the_cut_are_held_out_together(tmp_path):
    lines = [f"{letter * 5} {number}" for letter in "abcdefghij" for number in range(10)]
    data = set_up(write(tmp_path / "file.txt", lines), length=5)
    assert [len(set(read(data, name))) for name in ("train", "val", "test")] == [8, 1, 1]


def test_splits_do_not_depend_on_the_seed_and_spaces_and_empty_lines_do_not_count(tmp_path):
    lines = draw_lines()
    one = set_up(write(tmp_path / "one.txt", lines))
    padded = "\ufeff" + "".join(f"  {line}\t\r\n\n" for line in lines)
    (tmp_path / "two.txt").write_bytes(padded.encode())
    two = set_up(tmp_path / "two.txt", seed=5)
    assert one.identity == two.identity
    assert torch.equal(one.splits["val"].data, two.splits["val"].data)


def test_identity_depends_on_content_and_on_what_becomes_of_it(tmp_path):
    path = write(tmp_path / "one.txt", draw_lines())
    identity = TextDataModule(path).identity
    others = [
        TextDataModule(write(tmp_path / "two.txt", draw_lines(seed=1))),
        TextDataModule(path, tokens="words"),
        TextDataModule(path, length=7),
        TextDataModule(path, test_fraction=0.2),
        TextDataModule(path, test_path=write(tmp_path / "three.txt", draw_lines(seed=2))),
        TextDataModule(path, tokens="words", vocabulary_size=9),
    ]
    assert len({identity, *(one.identity for one in others)}) == 7
    (tmp_path / "elsewhere").mkdir()
    assert TextDataModule(write(tmp_path / "elsewhere/x.txt", draw_lines())).identity == identity


def test_the_vocabulary_of_a_checkpoint_is_used_for_other_files(tmp_path):
    data = set_up(write(tmp_path / "one.txt", draw_lines()))
    state = json.loads(json.dumps(data.state_dict()))
    other = set_up(write(tmp_path / "two.txt", [line.upper() + " the end" for line in draw_lines()]))
    before = other.identity
    other.load_state_dict(state)
    assert other.vocabulary == data.vocabulary
    assert other.identity != before
    assert (other.splits["train"].data == UNKNOWN).any()
    assert all("the" in line for line in read(other, "train"))
    fresh = TextDataModule("nowhere.txt", length=80)
    fresh.load_state_dict(state)
    examples = data.splits["test"].data.float()
    assert fresh.decode(examples) == data.decode(examples), "samples become text without the file"


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"vocabulary": "abc"},
        {"vocabulary": None},
        {"vocabulary": ["a", 1]},
        {"vocabulary": ["a", "bc"]},
        {"vocabulary": ["a", "a"]},
        {"vocabulary": ["a", ""]},
        {"vocabulary": ["a", "\n"]},
    ],
)
def test_a_damaged_vocabulary_is_refused(state):
    with pytest.raises(UserError, match="vocabulary is missing or damaged"):
        TextDataModule("file.txt").load_state_dict(state)


def test_a_vocabulary_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"`--data\.vocabulary_size` is 5, and the checkpoint's vocabulary needs 6"):
        TextDataModule("file.txt", vocabulary_size=5).load_state_dict({"vocabulary": ["a", "b", "c"]})


def test_it_fulfils_the_contracts(tmp_path):
    data = set_up(write(tmp_path / "file.txt", draw_lines()))
    assert all(offers(data, contract) for contract in (TextData, WrittenData, ExampleData, IdentifiedData))


REFUSED = {
    "missing": (lambda path: None, "is missing. Choose a text file with --data.path."),
    "a directory": (lambda path: path.mkdir(), "is missing. Choose a text file"),
    "empty": (lambda path: path.touch(), "holds no text"),
    "spaces": (lambda path: path.write_text(" \n\t\n"), "holds no text"),
    "one line": (lambda path: path.write_text("One. Two. Three."), "has one line, and each line is an example"),
    "latin1": (lambda path: path.write_bytes(b"one\ntwo\ncaf\xe9\n"), "is not UTF-8: byte 12, in line 3, is 0xe9"),
    "zero bytes": (lambda path: path.write_text("one\ntwo\n", encoding="utf-16-le"), "contains zero bytes"),
    "two lines": (lambda path: path.write_text("a\nb\n"), "leaves none of 2 examples for the split val"),
    "equal lines": (lambda path: path.write_text("a\n" * 99), "leaves none of 1 examples for the split val"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(case, tmp_path):
    make, message = REFUSED[case]
    make(tmp_path / "file.txt")
    with pytest.raises(UserError, match=message):
        set_up(tmp_path / "file.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "length` is 1. Choose at least 2"),
        ({"vocabulary_size": 3}, "vocabulary_size` is 3. Choose at least 4"),
        ({"vocabulary_size": 10}, r"`--data\.vocabulary_size` is 10, .* Choose at least 30, for the model too"),
        ({"tokens": "letters"}, "`tokens` is 'letters'. Choose characters or words"),
        ({"val_fraction": 0.0}, "val_fraction` is 0.0"),
        ({"test_fraction": 0.95}, "leaves none of 60 examples for the split train"),
        ({"batch_size": 0}, "batch_size` is 0"),
        ({"val_path": "nowhere.txt"}, "nowhere.txt is missing"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        set_up(write(tmp_path / "file.txt", draw_lines()), **arguments)


def test_without_a_path_the_option_is_named():
    with pytest.raises(UserError, match=r"Give the file of the training lines with --data\.path"):
        TextDataModule().setup("fit")


@pytest.mark.slow
def test_a_run_on_a_file_resumes_exactly_and_samples_text_without_it(fit, tmp_path, capsys):
    write(tmp_path / "lines.txt", draw_lines(150))
    options = [
        *("--config=vae/text", "--data.path=lines.txt", "--data.batch_size=16", "--trainer.logger=false"),
        *("--trainer.callbacks=null", "--trainer.log_every_n_steps=3", "--model.likelihood.word_dropout=0.3"),
    ]
    whole = fit(*options, "--trainer.max_steps=20")
    stopped = fit(*options, "--trainer.max_steps=9")
    fit("--resume", str(stopped), "--trainer.max_steps=20")
    checkpoints = [load(run / "checkpoints/last.ckpt") for run in (whole, stopped)]
    for name, value in checkpoints[0]["state_dict"].items():
        assert torch.equal(value, checkpoints[1]["state_dict"][name])
    (tmp_path / "lines.txt").unlink()
    checkpoint = f"--ckpt_path={stopped / 'checkpoints/last.ckpt'}"
    train.main(["sample", checkpoint, "--num_samples=9"])
    (file,) = (tmp_path / "samples").iterdir()
    lines = file.read_text().splitlines()
    assert (file.name, len(lines)) == ("samples.txt", 9)
    assert set("".join(lines)) <= set("".join(WORDS) + " \N{REPLACEMENT CHARACTER}")
    with pytest.raises(SystemExit):
        train.main(["test", checkpoint])
    assert "lines.txt is missing. Choose a text file with --data.path." in capsys.readouterr().err


def test_held_out_lines_of_a_sorted_file_are_not_sorted(tmp_path):
    """So the first lines, on which the likelihood may be estimated, stand for all."""
    data = set_up(write(tmp_path / "file.txt", sorted(draw_lines(100))))
    for name in ("val", "test"):
        assert read(data, name) != sorted(read(data, name))
