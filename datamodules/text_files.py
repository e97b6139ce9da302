"""Text files: their lines, and the tokens of a line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gen_lightning.errors import UserError
from gen_lightning.storage import describe_os_error

Tokens = Literal["characters", "words"]

Line = Sequence[str]
"""The tokens of a line: a text if they are characters, else a tuple of words."""

# A word may have apostrophes and hyphens within it. Any other sign is a token of its own.
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
_SPACE_BEFORE_SIGN = re.compile(r" (?=[,.;:!?)])")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file that are not empty, without spaces at their ends.

    Raises:
        UserError: the file is missing, cannot be read, is no text in UTF-8, or has less than two such lines.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. Choose a text file with --data.path.")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte {error.start + 1:,}, in line {line:,}, is 0x{content[error.start]:02x}. Convert"
            f" it, such as by `iconv -f latin1 -t utf-8 {path.name} > utf8.txt`."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {describe_os_error(error)}. Choose another file.") from error
    if "\0" in text:
        raise UserError(f"{path} contains zero bytes, and is no text in UTF-8. Convert it, or choose another file.")
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines:
        raise UserError(f"{path} holds no text. Choose a file with one example a line.")
    if len(lines) == 1:
        raise UserError(
            f"{path} has one line, and each line is an example. Write one sentence a line, such as by"
            rf" `sed 's/\([.!?]\) /\1\n/g' {path.name} > lines.txt`."
        )
    return lines


def split_line(line: str, tokens: Tokens) -> Line:
    """Return the tokens of a line; equal lines have equal ones."""
    return line if tokens == "characters" else tuple(_WORD.findall(line))


def join_tokens(line: Sequence[str], tokens: Tokens) -> str:
    """Return a line of text whose tokens are `line`; words are separated by spaces."""
    return "".join(line) if tokens == "characters" else _SPACE_BEFORE_SIGN.sub("", " ".join(line))
