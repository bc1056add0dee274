"""When a free answer counts as the right one, whatever its case, punctuation and articles.

As SQuAD compares answers (Rajpurkar et al., arXiv 1606.05250), with two changes: letters of all
scripts and their compatibility forms are treated alike, and a dash or slash parts words. A free
answer goes on after the answer, so it is right if it *begins* with the expected words.
"""

import unicodedata

VERSION = 1
"""Of the rules; part of the protocol of what is scored with them."""
_ARTICLES = frozenset({"a", "an", "the"})
# Categories of Unicode: punctuation and symbols, of which dashes part words.
_DASH, _MARKS = "Pd", ("P", "S")


def words(text: str) -> list[str]:
    """The words of `text` without case, punctuation, symbols and articles.

    A text that would be nothing without its articles, or without its marks, keeps them.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(_without_mark(character) for character in folded).split()
    return [word for word in bare if word not in _ARTICLES] or bare or folded.split()


def begins_with(given: str, expected: str) -> bool:
    """Whether the words of `given` begin with those of `expected`; nothing begins with nothing."""
    wanted = words(expected)
    return bool(wanted) and words(given)[: len(wanted)] == wanted


def _without_mark(character: str) -> str:
    category = unicodedata.category(character)
    if category == _DASH or character == "/":
        return " "
    return "" if category.startswith(_MARKS) else character
