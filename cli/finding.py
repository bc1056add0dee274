"""`ledger search` and `ledger blame`: the edits behind words, and behind an answer."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    at_option,
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    opened,
    print_json,
)
from cli.rendering import json_text, print_table, short, tell, write
from cli.watching import watching
from ledger.wording import NOTHING, counted

if TYPE_CHECKING:
    from ledger.blaming import Blame, Held
    from ledger.blaming_answers import Answers
    from ledger.search_terms import Terms
    from ledger.searching import Hit
    from ledger.workspace import Ledger

_TOGETHER = 500
_COMMIT = 7


@click.command(short_help="Edits whose prompt, target or subject has some words.")
@click.argument("words", nargs=-1, required=True, metavar="TEXT")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="The newest N of them.",
)
@click.option("--in-force", is_flag=True, help="Only those that hold: nothing overrides them.")
@click.option("--everywhere", is_flag=True, help="Also of turns that are not on this branch.")
@branch_option
@ledger_option
@json_option
def search(
    words: tuple[str, ...],
    limit: int,
    in_force: bool,
    everywhere: bool,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Edits whose prompt, target or subject has all the words of TEXT, newest first.

    Upper and lower case are the same. "Words in double quotes" stand beside each other, a word that
    ends in * is the beginning of one, and one with - before it must not occur.

    \b
    Example: ledger search Danielle Darrieux
             ledger search '"mother tongue" darr* -english' --in-force
    """
    from ledger.searching import search as find

    ledger = opened(ledger_dir)
    text = " ".join(words)
    found = find(ledger, text, limit=limit, in_force=in_force, everywhere=everywhere)
    if as_json:
        print_json([hit.to_json() for hit in found.hits])
        return
    if not found.hits:
        where = "the ledger" if everywhere else f"branch {ledger.branch}"
        tell(f"no edit {'in force ' if in_force else ''}of {where} has {text}")
        return
    _print_hits(found.hits, found.terms)
    if found.more:
        tell(f"… and older ones (--limit {2 * limit})")


def _print_hits(hits: Iterable["Hit"], terms: "Terms") -> None:
    headings = ["turn", "state", "row", "prompt", "target"]
    rows = [
        [
            str(hit.turn),
            _hit_state(hit),
            _row(hit.row),
            short(hit.prompt, 100),
            short(hit.target, 40),
            short(hit.subject or NOTHING, 40),
        ]
        for hit in hits
    ]
    # A subject is told where it is not seen anyway.
    if any(hit.subject and hit.subject not in hit.prompt for hit in hits):
        headings.append("subject")
    else:
        rows = [row[:-1] for row in rows]

    def marked(cell: str) -> str:
        return _marked(cell, terms.spans(cell))

    styles = dict.fromkeys(("prompt", "target", "subject"), marked)
    print_table(headings, rows, right="turn|row", styles=styles)


def _marked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    pieces, last = [], 0
    for start, end in spans:
        pieces += [text[last:start], click.style(text[start:end], fg="green", bold=True)]
        last = end
    return "".join([*pieces, text[last:]])


def _hit_state(hit: "Hit") -> str:
    if hit.state == "elsewhere":
        return f"on {hit.branch}"
    return _state(hit.state, hit.overridden_by)


def _state(state: str, by: int | None) -> str:
    return state.replace("_", " ") + ("" if by is None else f" by {by}")


def _row(row: int | None) -> str:
    return NOTHING if row is None else str(row)


@click.command(short_help="Which edits are behind an answer, and whether they hold.")
@click.argument("words", nargs=-1, metavar="[TEXT]")
@click.option(
    "--all", "everything", is_flag=True, help="Every fact in force, a line each, instead of TEXT."
)
@click.option("--model", is_flag=True, help="Ask the base and the states around each edit.")
@at_option
@device_option
@dtype_option
@branch_option
@ledger_option
@json_option
def blame(
    words: tuple[str, ...],
    everything: bool,
    model: bool,
    at: int | str | None,
    device: str,
    dtype: str | None,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """The edits that hit TEXT, a prompt or a subject, oldest first: their turns, and whether each
    is in force, overridden by a later one, or rolled back.

    An edit hits a prompt if it has the same (spaces aside), or tells the same of its subject as an
    edit with that prompt. With --model: what the base, the states just before and just after the
    edit, and the state now answer.

    \b
    Example: ledger blame "The mother tongue of Danielle Darrieux is" --model
             ledger blame Danielle Darrieux
             ledger blame --all --at HEAD~2
    """
    if everything == bool(words) or (everything and model):
        raise click.UsageError("give a prompt or subject, or --all (which asks no model)")
    ledger = opened(ledger_dir)
    if everything:
        _print_all(ledger, at, as_json=as_json)
    elif model:
        _ask(ledger, " ".join(words), at, device=device, dtype=dtype, as_json=as_json)
    else:
        from ledger.blaming import blame as find

        text = " ".join(words)
        found = find(ledger, text, at=at)
        if as_json:
            print_json([edit.to_json() for edit in found.edits])
        else:
            _print_blame(ledger, text, found, at)


def _ask(
    ledger: "Ledger",
    text: str,
    at: int | str | None,
    *,
    device: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    from ledger.blaming import blame as find
    from ledger.blaming_answers import ask_around

    found = find(ledger, text, at=at)
    with watching(quiet=as_json) as progress:
        asked = ask_around(
            ledger, text, found, at=at, device=device, dtype=dtype, progress=progress
        )
    if as_json:
        print_json([edit.to_json() for edit in asked.edits])
        return
    _print_blame(ledger, text, found, at)
    _print_answers(asked, one_prompt=found.is_prompt)


def _print_blame(ledger: "Ledger", text: str, found: "Blame", at: int | str | None) -> None:
    if found.edits:
        print_table(
            ("turn", "state", "row", "prompt", "target", "recorded", "hash", "message"),
            [
                (
                    str(edit.turn),
                    _state(edit.state, edit.overridden_by or edit.undone_by),
                    _row(edit.row),
                    short(edit.prompt, 100),
                    short(edit.target, 40),
                    edit.created_at[:16].replace("T", " "),
                    edit.hash[:_COMMIT],
                    short(edit.message, 40),
                )
                for edit in found.edits
            ],
            right="turn|row",
        )
    else:
        tell(*_no_hit(ledger, text, at))
    if found.without_text:
        what = counted(found.without_text, "edits")
        tell(f"{what} of this branch came without their texts, and can hit nothing here")


def _no_hit(ledger: "Ledger", text: str, at: int | str | None) -> list[str]:
    from ledger.searching import nearest

    near = nearest(ledger, text, at=at)
    where = f"branch {ledger.branch}" if at is None else f"the turns up to {at}"
    line = f"no edit of {where} has this prompt or subject: {text}"
    return [line, *(f"did you mean: {one}" for one in near)]


def _print_answers(asked: "Answers", *, one_prompt: bool) -> None:
    """A table of the answers; the prompt is told where there are several."""
    headings = ["turn", "asked", "base", "before", "after", "now"]
    rows = [
        [
            str(one.edit.turn),
            short(one.asked, 100),
            *(_said(text) for text in (one.base, one.before, one.after, one.now)),
        ]
        for one in asked.edits
    ]
    if one_prompt:
        headings.remove("asked")
        rows = [[row[0], *row[2:]] for row in rows]
    if rows:
        tell("", "answers of the base, of the states before and after each turn, and of now:")
        print_table(headings, rows, right="turn")
    for note in asked.notes:
        tell(f"note: {note}")


def _said(text: str | None) -> str:
    return NOTHING if text is None else short(text, 32) or repr(text)


def _print_all(ledger: "Ledger", at: int | str | None, *, as_json: bool) -> None:
    """One line a fact, as they are read: there may be millions."""
    from ledger.blaming import blame_all

    facts = blame_all(ledger, at=at)
    if as_json:
        _print_list(fact.to_json() for fact in facts)
        return
    told = False
    for part in _parts(map(_line, facts)):
        tell(*part)
        told = True
    if not told:
        tell("no fact is in force")


def _line(fact: "Held") -> str:
    where = f"turn {fact.turn:>5}  {fact.created_at[:10]}  row {_row(fact.row):>7}"
    return f"{fact.hash[:_COMMIT]}  {where}  {short(fact.prompt, 200)} → {fact.target}"


def _print_list(items: Iterable[dict[str, Any]]) -> None:
    """A JSON list, one item a line, each printed when it is there."""
    start = "["
    for part in _parts(json_text(item) for item in items):
        write(start + "\n" + ",\n".join(part), end=False)
        start = ","
    write("\n]" if start == "," else "[]")


def _parts(lines: Iterable[str]) -> Iterator[list[str]]:
    lines = iter(lines)
    while part := list(islice(lines, _TOGETHER)):
        yield part
