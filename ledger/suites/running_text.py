"""Running text that suites read: the file of the user's, or the one that comes with the program.

That is the first chapter of Alice's Adventures in Wonderland by Lewis Carroll (1865), which is in
the public domain, and which most models have read. It is read to compare states, not models.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ledger.models import load_tokenizer
from ledger.workspace import Ledger
from patches import text_scores
from patches.errors import DatasetError
from patches.tokens import Encoded, context_length

WINDOW = 512
"""Tokens that are read at once, where the model takes so many."""
BLOCK = 64
"""Neighbouring tokens that intervals keep together: what is hard about one is so about the next."""
_TOGETHER = 4


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text with the name of its file, and the digest of its bytes."""

    name: str
    content: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A text cut into windows for a model. protocol: which text, and how it is cut."""

    text: Text
    windows: Sequence[Encoded]
    protocol: dict[str, Any]


def read_text(path: Path | None) -> Text:
    """The text of a UTF-8 file, or the program's own. DatasetError if it cannot be read."""
    source: Traversable = files("ledger.suites") / "texts" / "alice.txt" if path is None else path
    try:
        data = source.read_bytes()
        content = data.decode()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    digest = hashlib.sha256(data).hexdigest()
    return Text(name=source.name, content=content, sha256=digest, bytes=len(data))


def cut(ledger: Ledger, text: Text) -> Windows:
    """The windows in which the ledger's model reads the text: as many tokens as it takes, WINDOW at
    most, of which at least a quarter come before what is predicted.

    DatasetError if the text has too few tokens to predict one.
    """
    from transformers import AutoConfig

    folder = ledger.checkpoint.folder
    tokenizer = load_tokenizer(folder)
    longest = context_length(AutoConfig.from_pretrained(folder, local_files_only=True))
    window = WINDOW if longest is None else min(WINDOW, longest)
    stride = window - window // 4
    windows = text_scores.windows(tokenizer, text.content, window=window, stride=stride)
    tokens = sum(len(one.answer) for one in windows)
    if not tokens:
        raise DatasetError(f"{text.name}: has no tokens to predict; give it some text")
    protocol = {
        "text": text.name,
        "sha256": text.sha256,
        "bytes": text.bytes,
        "tokens": tokens,
        "window": window,
        "stride": stride,
    }
    return Windows(text=text, windows=windows, protocol=protocol)


def in_jobs(windows: Sequence[Encoded]) -> Iterator[tuple[Encoded, ...]]:
    """The windows of each job."""
    for start in range(0, len(windows), _TOGETHER):
        yield tuple(windows[start : start + _TOGETHER])


def tokens_of(windows: Sequence[Encoded]) -> int:
    """How many tokens are predicted."""
    return sum(len(one.answer) for one in windows)


def in_blocks(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The means of BLOCK neighbours each, and how many these are: the last may be fewer."""
    blocks = [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]
    return [sum(block) / len(block) for block in blocks], [float(len(block)) for block in blocks]
