"""Evaluation of texts: known samples have known metrics, the perplexity is exact, and samples are written as text."""

import math
from functools import partial

import pytest
import torch
from helpers import GivenModel, adam, load, run_test
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks import ImportanceSampledLikelihood, SampleText, TextEvaluation
from datamodules import MNISTDataModule, TextDataModule
from gen_lightning import VAEModule
from gen_lightning.errors import UserError
from gen_lightning.evaluation import BETTER
from gen_lightning.networks import MLPDecoder, RecurrentEncoder
from gen_lightning.tokens import END, NUM_RESERVED, UNKNOWN, count_tokens
from gen_lightning.vae import ELBO, AutoregressiveCategorical

WORDS = ("ant", "bee", "cat", "doe", "elk", "fox", "gnu", "hen", "ibis", "jay")
LINES = [f"{one} {other}" for one in WORDS for other in WORDS]


@pytest.fixture
def data(tmp_path) -> TextDataModule:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in LINES))
    data = TextDataModule(str(path), length=10, vocabulary_size=40, batch_size=16)
    data.setup("test")
    return data


class Writer(GivenModel):
    """A model whose samples are given texts `[M, 10]`, in rotation."""

    data_shape = (10,)
    levels = 40
    likelihood_kind = "a probability"

    def __init__(self, lines: Tensor) -> None:
        super().__init__()
        self.lines = lines.float()

    def sample(self, n, *, generator, labels=None):
        return self.lines[torch.arange(n) % len(self.lines)]

    def log_weights(self, x, k):
        """A uniform guess of 20 tokens, and the noise of the latent."""
        return -count_tokens(x) * math.log(20) + torch.randn(k, 1)


def encode(data: TextDataModule, *lines: str) -> Tensor:
    """Return the token numbers of lines of characters."""
    numbers = {character: number for number, character in enumerate(data.vocabulary, NUM_RESERVED)}
    texts = torch.zeros(len(lines), 10)
    for text, line in zip(texts, lines, strict=True):
        text[: len(line) + 1] = torch.tensor([*(numbers.get(one, UNKNOWN) for one in line), END])[:10]
    return texts


def build(**arguments) -> VAEModule:
    torch.manual_seed(0)
    return VAEModule(
        partial(RecurrentEncoder, vocabulary_size=40, embedding_dim=4, hidden_dim=8),
        MLPDecoder,
        partial(AutoregressiveCategorical, vocabulary_size=40, context_dim=4),
        ELBO(),
        adam,
        (10,),
        latent_dim=2,
        **arguments,
    )


def test_real_lines_are_as_good_as_the_floor(data):
    lines = data.splits["test"].data
    rows = run_test(TextEvaluation(), Writer(lines), data)
    for n in (1, 2, 3, 4):
        assert rows[f"ngram_divergence/{n}"].value == pytest.approx(0, abs=1e-12)
        assert rows[f"ngram_divergence/{n}"].floor > 0
        assert rows[f"distinct/{n}"].n == len(lines)
    assert rows["length_divergence"].value == pytest.approx(0, abs=1e-12)
    assert (rows["training_lines"].value, rows["training_lines"].floor) == (0, 0), "splits share no line"
    assert (rows["known_words"].value, rows["known_words"].floor) == (1, 1)


def test_one_line_again_and_again_has_little_diversity(data):
    rows = run_test(TextEvaluation(50), Writer(encode(data, "ant xyz")), data)
    assert rows["distinct/4"].value == pytest.approx(4 / 200)
    assert rows["distinct/4"].value < rows["distinct/4"].floor / 5
    assert rows["ngram_divergence/4"].value > rows["ngram_divergence/4"].floor
    assert rows["known_words"].value == 0.5
    assert rows["training_lines"].value == 0


def test_training_lines_are_recognized(data):
    rows = run_test(TextEvaluation(20), Writer(encode(data, "zzz")), data)
    assert (rows["training_lines"].value, rows["training_lines"].floor) == (0, 0)
    rows = run_test(TextEvaluation(80), Writer(data.splits["train"].data), data)
    assert (rows["training_lines"].value, rows["training_lines"].floor_n) == (1, 40)


def test_empty_samples_have_no_words(data):
    rows = run_test(TextEvaluation(20), Writer(encode(data, "")), data)
    assert (rows["known_words"].value, rows["distinct/1"].value, rows["ngram_divergence/1"].value) == (0, 0, 1)


def test_only_characters_make_words_that_may_be_unknown(tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in LINES))
    data = TextDataModule(str(tmp_path / "lines.txt"), tokens="words", length=10, batch_size=16)
    data.setup("test")
    rows = run_test(TextEvaluation(20), Writer(data.splits["test"].data), data)
    assert "known_words" not in rows
    assert rows["distinct/2"].floor > 0


def test_rows_of_perplexity_divide_by_the_number_of_tokens_with_the_end(data):
    rows = run_test(ImportanceSampledLikelihood(300), Writer(encode(data, "ant")), data)
    assert rows["nats_per_token/1"].value == pytest.approx(math.log(20), abs=0.02)
    examples = data.splits["test"].data
    tokens = count_tokens(examples)
    assert tokens.tolist() == [len(line) + 1 for line in data.decode(examples)]
    for k in (1, 300):
        nats = -rows[f"bound/{k}"].value * len(tokens) / tokens.sum().item()
        assert rows[f"nats_per_token/{k}"].value == pytest.approx(nats, rel=1e-12)
        assert rows[f"perplexity/{k}"].value == pytest.approx(math.exp(nats), rel=1e-12)
        expected = rows[f"nats_per_token/{k}"].error * math.exp(nats)
        assert rows[f"perplexity/{k}"].error == pytest.approx(expected, rel=1e-12)
    assert rows["perplexity/1"].better == BETTER["nats_per_token"] == "lower"
    assert not any("bits" in name for name in rows)


def test_perplexity_is_that_of_the_bound(data):
    model = build().eval()
    rows = run_test(ImportanceSampledLikelihood(200), model, data)
    texts = data.splits["test"].data.float()
    torch.manual_seed(0)
    with torch.no_grad():
        bound = model.log_weights(texts, 200).mean(0)
    assert rows["perplexity/1"].value == pytest.approx(
        math.exp(-bound.sum().item() / count_tokens(texts).sum().item()), rel=0.01
    )


def test_images_have_no_perplexity():
    model = Writer(torch.zeros(1, 10))
    model.log_weights = lambda x, k: torch.randn(k, 1)
    rows = run_test(ImportanceSampledLikelihood(2, num_images=4), model, MNISTDataModule("digits"))
    assert not any("token" in name or "perplexity" in name for name in rows)


def test_validation_logs_metrics_and_the_perplexity_of_the_bound(data, tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
    trainer = Trainer(
        default_root_dir=tmp_path, callbacks=[TextEvaluation(20), SampleText(2, num_samples=3)], max_steps=3, **options
    )
    trainer.fit(build(), data)
    trainer.validate(trainer.lightning_module, data, verbose=False)
    logged = trainer.callback_metrics
    tokens = count_tokens(data.splits["val"].data).double().mean().item()
    assert logged["val/perplexity"].item() == pytest.approx(math.exp(-logged["val/elbo"].item() / tokens), rel=1e-5)
    assert 0 < logged["val/ngram_divergence/2"] <= 1
    files = sorted(tmp_path.glob("samples/iteration_*.txt"))
    assert [path.name for path in files] == ["iteration_0000002.txt", "iteration_0000003.txt"]
    assert all(len(path.read_text().split("\n")) == 4 for path in files)


@pytest.mark.slow
def test_weights_are_bit_equal_with_and_without_the_callbacks(fit, tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in LINES))
    options = ["--config=vae/text", "--data.path=lines.txt", "--data.batch_size=16", "--trainer.max_steps=8"]
    options += ["--trainer.logger=false"]
    often = fit(
        *options, "--trainer.callbacks=callbacks.SampleText", "--trainer.callbacks.every_n_iterations=2",
        "--trainer.callbacks+=callbacks.TextEvaluation",
    )  # fmt: skip
    never = fit(*options, "--trainer.callbacks=null", "--trainer.limit_val_batches=0")
    one, other = (load(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (often, never))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("callback", [TextEvaluation, SampleText])
def test_data_that_are_no_texts_are_refused_before_training(callback):
    trainer = Trainer(callbacks=[callback()], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(UserError, match=f"{callback.__name__} needs a data module of texts as token numbers"):
        trainer.fit(build(), MNISTDataModule("digits"))


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"every_n_iterations": 0}])
def test_numbers_that_are_too_small_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UserError, match=rf"`SampleText\.{name}` is 0\. Choose at least 1"):
        SampleText(**arguments)
