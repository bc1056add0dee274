"""Prompts that ask the same of something else: what an edit should not answer.

"The mother tongue of Ada is" and "The mother tongue of Ben is" have nearly the same key where the
answer begins, so a shift that is solved for one changes the other too. The prompt of an edit with
the subject of another edit in place of its own is such a neighbour, and it costs no data.
"""

from collections.abc import Iterator, Sequence

from patches.edit import Edit

# Where a turn has too few subjects of its own.
SUBJECTS = (
    "Maria Lindgren",
    "the old bridge",
    "Thomas Okafor",
    "Riverside Park",
    "the Northern Star",
    "Anna Kowalska",
    "Harbour Street",
    "John Whitfield",
    "Lake Orlen",
    "the Blue Door",
)


def neighbours(edits: Sequence[Edit], count: int) -> list[str]:
    """For each edit whose prompt holds its subject, the prompt with `count` other subjects.

    They are those of the edits at some distance after it, then built-in ones; no draw is involved.
    """
    return [
        edit.prompt.replace(edit.subject, other)
        for place, edit in enumerate(edits)
        if edit.subject and edit.subject in edit.prompt
        for other in _others(edits, place, edit.subject, count)
    ]


def _others(edits: Sequence[Edit], place: int, subject: str, count: int) -> list[str]:
    found: dict[str, None] = {}
    for other in _candidates(edits, place):
        if len(found) == count:
            break
        # A part of the subject, or a longer name that holds it, is not something else.
        if other not in subject and subject not in other:
            found.setdefault(other)
    return list(found)


def _candidates(edits: Sequence[Edit], place: int) -> Iterator[str]:
    # Rows of one relation, or about one thing, often stand together.
    step = next(n for n in (7, 5, 3, 2, 1) if len(edits) % n or n == 1)
    for distance in range(1, len(edits)):
        other = edits[(place + distance * step) % len(edits)].subject
        if other:
            yield other
    for distance in range(len(SUBJECTS)):
        yield SUBJECTS[(place + distance) % len(SUBJECTS)]
