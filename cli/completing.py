"""What a shell offers for the word that is being typed: names that are in the ledger, and files.

Every function is a click callback for an option's or argument's `shell_complete`. Whatever goes
wrong, nothing is offered: the command itself will say what it is, once it is run.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from cli.rendering import short
from ledger.wording import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ledger.branching import Ref
    from ledger.workspace import Ledger

BRANCH = "ledger.branch"
"""Where the option --branch leaves its value, in the context's meta."""
_NEWEST = 20
_LONGEST = 60

Offered = list["CompletionItem[str]"]
_Named = Iterator[tuple[str, str]]


def branches(context: click.Context, _parameter: click.Parameter, begun: str) -> Offered:
    """Names of branches."""
    return _offered(context, begun, _branches)


def tags(context: click.Context, _parameter: click.Parameter, begun: str) -> Offered:
    """Names of tags."""
    return _offered(context, begun, _tags)


def refs(context: click.Context, _parameter: click.Parameter, begun: str) -> Offered:
    """Names of branches and tags."""
    return _offered(context, begun, _refs)


def turns(context: click.Context, begun: str, *, base: bool) -> Offered:
    """What names a turn: the numbers of the newest, HEAD, tags and branches. base: 0, too."""
    return _offered(context, begun, lambda ledger: _turns(ledger, base=base))


def files(_context: click.Context, _parameter: click.Parameter, begun: str) -> Offered:
    """Files, which the shell knows itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def _offered(context: click.Context, begun: str, named: Callable[["Ledger"], _Named]) -> Offered:
    from click.shell_completion import CompletionItem

    from ledger.workspace import open_ledger

    # There is nobody to tell: a shell shows whatever is printed in the middle of the line.
    try:
        with open_ledger(context.params.get("ledger_dir")) as ledger:
            ledger.branch = context.meta.get(BRANCH, ledger.branch)
            found = [(name, told) for name, told in named(ledger) if name.startswith(begun)]
    except Exception:
        return []
    return [
        CompletionItem(name, help=visible(short(told, _LONGEST)) or None) for name, told in found
    ]


def _turns(ledger: "Ledger", *, base: bool) -> _Named:
    from ledger.newest_turns import newest_turns

    newest = newest_turns(ledger, _NEWEST)
    yield from ((str(number), message) for number, message in newest)
    if base:
        yield "0", "the base"
    if newest:
        yield "HEAD", "the newest turn"
    yield from _refs(ledger)


def _refs(ledger: "Ledger") -> _Named:
    yield from _tags(ledger)
    yield from _branches(ledger)


def _branches(ledger: "Ledger") -> _Named:
    from ledger.branching import list_branches

    yield from map(_told, list_branches(ledger))


def _tags(ledger: "Ledger") -> _Named:
    from ledger.branching import list_tags

    yield from map(_told, list_tags(ledger))


def _told(ref: "Ref") -> tuple[str, str]:
    return ref.name, f"{ref.kind} at turn {ref.turn}" if ref.turn else f"{ref.kind} at the base"
