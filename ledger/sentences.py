"""Sentences about other things: a text file, one sentence a line."""

from pathlib import Path

from patches.errors import DatasetError

# They are recorded with every turn.
_MOST, _LONGEST = 1000, 2000
_LARGEST = 1 << 24


def read_sentences(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 file, without repeats and empty ones.

    Raises DatasetError if it cannot be read, holds none, too many, or one that no database stores.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise DatasetError(f"{path} is larger than {_LARGEST >> 20} MiB; write fewer sentences")
        # A byte order mark is no part of the first sentence.
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is not UTF-8: byte {error.start} cannot be decoded; convert the file"
        ) from error
    sentences = tuple(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
    if not sentences:
        raise DatasetError(f"{path} holds no sentences; write one a line")
    if len(sentences) > _MOST:
        raise DatasetError(
            f"{path} holds {len(sentences):,} sentences; {_MOST:,} are enough, since they are "
            "recorded with every turn"
        )
    for number, line in enumerate(text.split("\n"), start=1):
        if "\0" in line or len(line) > _LONGEST:
            what = "holds a NUL character" if "\0" in line else f"is longer than {_LONGEST}"
            raise DatasetError(f"{path}: line {number} {what}; is it a text file of sentences?")
    return sentences
