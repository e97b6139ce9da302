"""Lines of text files as a LightningDataModule."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeGuard, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.array_files import remember
from datamodules.base import DATA_SEED, SplitDataModule
from datamodules.sources import Split
from datamodules.splits import choose_fractions, draw_splits, refuse_empty_splits
from datamodules.text_files import Line, Tokens, join_tokens, read_lines, split_line
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError
from gen_lightning.tokens import END, NUM_RESERVED, UNKNOWN

_UNKNOWN_TEXT = {"characters": "\N{REPLACEMENT CHARACTER}", "words": "<unk>"}
# Above this number, float32 and the checks of the values reach their limits.
_LARGEST_VOCABULARY = 1_000_000


class TextDataModule(SplitDataModule):
    """Lines of a UTF-8 text file, delivered as (data, labels): float32 `[N, T]` and int64 `[N]`, all labels 0.

    Each line that is not empty is an example. Its data are the numbers of its tokens, then 1 for the end of the line,
    then 0 up to T. 2 is any token that is not in the vocabulary; `gen_lightning.tokens` names these numbers. A line
    with T tokens or more is cut to T, without an end.

    The vocabulary has the tokens of the training split, the most frequent ones first, from number 3 on. Checkpoints
    store it, so that samples become text without the file.

    Equal lines are held out together, so that no line of `path` is in two splits. Lines that are equal up to T tokens
    count as equal. Lines of `val_path` and `test_path` that are training lines are counted when the data are
    read.

    Args:
        path: text file of the training lines
        val_path: text file of the validation lines; default: a part of `path`
        test_path: text file of the test lines; default: a part of `path`
        tokens: characters or words; punctuation marks are words of their own
        length: number of tokens of an example, T, the end of the line included; at least 2
        vocabulary_size: number of token numbers, those for padding, the end and unknown tokens included; 4 to
            1,000,000. Characters must all have a number.
        val_fraction: fraction of the different lines of `path` that is held out for validation, without `val_path`;
            above 0 and below 1
        test_fraction: fraction of the different lines of `path` that is held out for tests, without `test_path`; above
            0 and below 1
        batch_size: number of examples per iteration and device; at least 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training examples

    Raises:
        UserError: an argument is out of range; in `setup`, a file is missing, is no UTF-8 text or has too few lines, or
            vocabulary_size is too small for the characters.
    """

    def __init__(
        self,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        tokens: Tokens = "characters",
        length: int = 64,
        vocabulary_size: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 128,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        check_range(self, above=0, below=1, val_fraction=val_fraction, test_fraction=test_fraction)
        check_range(self, at_least=2, length=length)
        check_range(self, at_least=NUM_RESERVED + 1, at_most=_LARGEST_VOCABULARY, vocabulary_size=vocabulary_size)
        if tokens not in get_args(Tokens):
            raise UserError(f"`tokens` is {tokens!r}. Choose characters or words.")
        self.path = Path(path) if path else None
        self.val_path = Path(val_path) if val_path else None
        self.test_path = Path(test_path) if test_path else None
        self.tokens = tokens
        self.length = length
        self.vocabulary_size = vocabulary_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self._vocabulary: list[str] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, `(T,)`."""
        return (self.length,)

    @property
    def vocabulary(self) -> list[str]:
        """The tokens from number 3 on: those of the checkpoint, or else of the training lines."""
        if self._vocabulary is None:
            self._vocabulary = self._choose_vocabulary(self._read_splits()["train"])
        return self._vocabulary

    @property
    def identity(self) -> str:
        """A text that names the examples of the splits."""
        vocabulary = hashlib.sha256("\n".join(self.vocabulary).encode()).hexdigest()
        return f"{type(self).__name__} {self._digests} {self.tokens} {self.length} {vocabulary}"

    @cached_property
    def _digests(self) -> str:
        fractions = (not self.val_path and self.val_fraction, not self.test_path and self.test_fraction)
        paths = [path for path in (self._get_path(), self.val_path, self.test_path) if path]
        return f"{[hashlib.sha256(chr(10).join(read_lines(path)).encode()).hexdigest() for path in paths]} {fractions}"

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the files, hold out parts of the training file, and number the tokens."""
        lines = self._read_splits()
        for path in (self.path, self.val_path, self.test_path):
            if path:
                remember(path)
        if self._vocabulary is None:
            self._vocabulary = self._choose_vocabulary(lines["train"])
        splits = {name: self._encode(part) for name, part in lines.items()}
        rank_zero_info(self._describe(lines, splits))
        return splits

    def convert(self, data: Tensor) -> Tensor:
        """Return token numbers as models see them, float32."""
        return data.float()

    @property
    def samples_suffix(self) -> str:
        """The ending of the file of samples."""
        return ".txt"

    def write_samples(self, samples: Tensor, file: IO[bytes]) -> None:
        """Write the texts of token numbers `[N, T]`, one a line."""
        file.write("".join(f"{line}\n" for line in self.decode(samples)).encode())

    def decode(self, data: Tensor) -> list[str]:
        """Return the texts of token numbers `[N, T]`, one line each; "\ufffd" and "<unk>" are unknown tokens."""
        unknown = _UNKNOWN_TEXT[self.tokens]
        names = dict(enumerate(self.vocabulary, NUM_RESERVED))
        rows = data.long().tolist()
        return [join_tokens([names.get(one, unknown) for one in row if one > END], self.tokens) for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """Return the vocabulary, for the checkpoint."""
        return {"vocabulary": self._vocabulary} if self._vocabulary is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the vocabulary of a checkpoint; token numbers of other files become those of this vocabulary.

        Raises:
            UserError: the checkpoint holds no vocabulary, or one that does not fit the arguments.
        """
        vocabulary = state_dict.get("vocabulary")
        if not _is_vocabulary(vocabulary, self.tokens):
            raise UserError("The checkpoint's vocabulary is missing or damaged. Give another checkpoint.")
        if len(vocabulary) > self.vocabulary_size - NUM_RESERVED:
            raise UserError(
                f"`--data.vocabulary_size` is {self.vocabulary_size}, and the checkpoint's vocabulary needs"
                f" {len(vocabulary) + NUM_RESERVED}. Remove the option."
            )
        changed = vocabulary != self._vocabulary
        self._vocabulary = vocabulary
        if self.splits and changed:
            self.splits = self.make_splits()

    def _get_path(self) -> Path:
        if self.path is None:
            raise UserError("`path` is not given. Give the file of the training lines with --data.path.")
        return self.path

    def _read_splits(self) -> dict[SplitName, list[Line]]:
        """Return the lines of each split, cut to T tokens."""
        splits = self._carve(self._read(self._get_path()))
        held_out: dict[SplitName, Path | None] = {"val": self.val_path, "test": self.test_path}
        return splits | {name: self._read(path) for name, path in held_out.items() if path}

    def _read(self, path: Path) -> list[Line]:
        return [split_line(line, self.tokens)[: self.length] for line in read_lines(path)]

    def _carve(self, lines: list[Line]) -> dict[SplitName, list[Line]]:
        """Return the training lines, and those that are held out of their file in random order, by a fixed seed."""
        fractions = choose_fractions(self.val_path, self.test_path, self.val_fraction, self.test_fraction)
        different = list(dict.fromkeys(lines))
        parts = draw_splits(torch.zeros(len(different), dtype=torch.int64), fractions)
        refuse_empty_splits({name: len(part) for name, part in parts.items()}, fractions)
        names = {different[index]: name for name, part in parts.items() for index in part.tolist()}
        splits: dict[SplitName, list[Line]] = {"train": [], **{name: [] for name in fractions}}
        for line in lines:
            splits[names[line]].append(line)
        # The first lines of a sorted file, such as a word list, are no fair sample of it.
        generator = torch.Generator().manual_seed(DATA_SEED)
        shuffled = {name: torch.randperm(len(splits[name]), generator=generator).tolist() for name in fractions}
        return splits | {name: [splits[name][place] for place in order] for name, order in shuffled.items()}

    def _choose_vocabulary(self, lines: Iterable[Line]) -> list[str]:
        """Return the most frequent tokens, as many as have a number.

        Raises:
            UserError: the tokens are characters, and there are more of them.
        """
        counts = Counter(token for line in lines for token in line)
        size = self.vocabulary_size - NUM_RESERVED
        if self.tokens == "characters" and len(counts) > size:
            raise UserError(
                f"`--data.vocabulary_size` is {self.vocabulary_size}, and the training lines have {len(counts):,}"
                f" different characters. Choose at least {len(counts) + NUM_RESERVED}, for the model too."
            )
        return [token for token, _ in counts.most_common(size)]

    def _encode(self, lines: Sequence[Line]) -> Split:
        numbers = {token: number for number, token in enumerate(self.vocabulary, NUM_RESERVED)}
        data = np.zeros((len(lines), self.length), dtype=np.int32)
        for row, line in zip(data, lines, strict=True):
            encoded = [*(numbers.get(token, UNKNOWN) for token in line), END][: self.length]
            row[: len(encoded)] = encoded
        return Split(torch.from_numpy(data), torch.zeros(len(lines), dtype=torch.int64))

    def _describe(self, lines: dict[SplitName, list[Line]], splits: dict[SplitName, Split]) -> str:
        """Return the numbers of lines, and how many of them are cut, shared or not covered by the vocabulary."""
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in lines.items())
        cut = sum(len(line) == self.length for part in lines.values() for line in part)
        known = set(lines["train"])
        shared = sum(line in known for name, part in lines.items() if name != "train" for line in part)
        shares = {name: float((one.data == UNKNOWN).sum() / (one.data > END).sum()) for name, one in splits.items()}
        unknown = ", ".join(f"{share:.2%} {name}" for name, share in shares.items())
        return (
            f"{self.path}: {sizes} lines. The vocabulary has {len(self.vocabulary):,} {self.tokens}; unknown are"
            f" {unknown}. {cut:,} lines have {self.length} {self.tokens} or more and are cut. {shared:,} held-out lines"
            " are training lines too."
        )


def _is_vocabulary(vocabulary: Any, tokens: Tokens) -> TypeGuard[list[str]]:
    """Return whether a value from a checkpoint is a list of different tokens."""
    if not (isinstance(vocabulary, list) and all(isinstance(token, str) for token in vocabulary)):
        return False
    whole = all(tuple(split_line(one, tokens)) == (one,) == tuple(one.splitlines()) for one in vocabulary)
    return whole and len(set(vocabulary)) == len(vocabulary)
