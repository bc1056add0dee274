"""What a full-text search asks for, and where a text has it.

    danielle darrieux    both words, in any order
    "mother tongue"      these words beside each other, in one text
    darri*               a word that begins so
    -french              without this word; also before a phrase or a beginning

A word is a run of letters, digits and accents, whatever its case. What is written together, as in
``AC/DC``, is a phrase. The indexes of the databases give candidates (`ledger.full_text`); what is
said here decides, so that both give the same.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from patches.errors import SettingError

_PIECE = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))(\*?)')
MOST_WORDS = 64
"""More of them are no search that a person has written."""
_ASCII_WORD = re.compile(r"[0-9A-Za-z]+")


class Word(NamedTuple):
    """A word of a text, in lower case, and where it stands."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Term:
    """Words that stand beside each other. is_beginning: of the last, only its beginning is told."""

    words: tuple[str, ...]
    is_beginning: bool = False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """From where to where `text` has it, each time."""
        found = words_of(text)
        for first in range(len(found) - len(self.words) + 1):
            here = found[first : first + len(self.words)]
            if self._is_at([word.text for word in here]):
                yield here[0].start, here[-1].end

    def _is_at(self, words: list[str]) -> bool:
        *before, last = words
        if before != list(self.words[:-1]):
            return False
        return last.startswith(self.words[-1]) if self.is_beginning else last == self.words[-1]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """All of `required`, each in one of the texts of an edit; none of `excluded` in any."""

    required: tuple[Term, ...]
    excluded: tuple[Term, ...] = ()

    @property
    def count(self) -> int:
        """How many words there are in all."""
        return sum(len(term.words) for term in (*self.required, *self.excluded))

    def are_in(self, texts: Iterable[str | None]) -> bool:
        """Whether an edit with these texts is what is asked for."""
        given = [text for text in texts if text]
        return all(_occurs(term, given) for term in self.required) and not any(
            _occurs(term, given) for term in self.excluded
        )

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where `text` has something that is asked for: from, to; in order, apart."""
        apart: list[tuple[int, int]] = []
        for start, end in sorted(span for term in self.required for span in term.spans(text)):
            if apart and start <= apart[-1][1]:
                apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
            else:
                apart.append((start, end))
        return apart


def parse(text: str) -> Terms:
    """What a person wrote. SettingError if a quote is not closed, or there is nothing to find."""
    if text.count('"') % 2:
        raise SettingError(f"{text!r}: a double quote is not closed; close it, or leave it out")
    required: list[Term] = []
    excluded: list[Term] = []
    for minus, phrase, single, star in _PIECE.findall(text):
        words = tuple(word.text for word in words_of(phrase or single))
        if words:
            is_beginning = bool(star) or single.endswith("*")
            term = Term(words=words, is_beginning=is_beginning)
            (excluded if minus else required).append(term)
    if not required:
        what = "only words to leave out" if excluded else "no words to search for"
        raise SettingError(f"{text!r} holds {what}; give some letters or digits to look for")
    return Terms(required=tuple(required), excluded=tuple(excluded))


def words_of(text: str) -> list[Word]:
    """The words of a text, in order."""
    if text.isascii():
        return [Word(m[0].lower(), *m.span()) for m in _ASCII_WORD.finditer(text)]
    words, start = [], None
    for place, character in enumerate((*text, " ")):
        if _is_in_word(character):
            start = place if start is None else start
        elif start is not None:
            words.append(Word(_folded(text[start:place]), start, place))
            start = None
    return words


def _is_in_word(character: str) -> bool:
    category = unicodedata.category(character)
    # Private characters are words to FTS5.
    return category[0] in "LNM" or category == "Co"


def _folded(word: str) -> str:
    """In lower case, letter by letter, as the databases do it."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in word)


def _occurs(term: Term, texts: Iterable[str]) -> bool:
    return any(True for text in texts for _ in term.spans(text))
