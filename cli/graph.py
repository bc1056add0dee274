"""`ledger log --graph`: the tree of turns in lanes, as git draws it.

* 5d0f3a1 4 (HEAD -> main) ultraedit, 100 edits: Capitals
| * 93c2b7e 4 (try) ultraedit, 20 edits: Rivers
|/
* 1a2b3c4 3 (tag: v1) undo 2: roll back turn 2
"""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len

from cli.fitting import cut
from cli.rendering import echo, short, terminal_width
from ledger.wording import counted, visible

if TYPE_CHECKING:
    from ledger.tree import Node

_MESSAGE = 60


def print_graph(nodes: Sequence["Node"], current: str) -> None:
    """One line per turn, on a terminal cut to fit, and what connects the lanes. current: the branch
    at hand."""
    columns = terminal_width()
    for lanes, node in drawn(nodes):
        if node is None:
            echo(lanes)
            continue
        names = decorated(node.refs, node.tags, current)
        digest, names = node.hash[:7], visible(f"{names} ") if names else ""
        told = visible(_told(node))
        if columns is not None:
            told = cut(told, columns - cell_len(f"{lanes} {digest} {node.turn} {names}"))
        digest, names = click.style(digest, fg="yellow"), click.style(names, bold=True)
        echo(f"{lanes} {digest} {node.turn} {names}{told}")


def decorated(refs: Collection[str], tags: Collection[str], current: str) -> str:
    """The names of a turn in brackets, as git shows them; empty if there are none."""
    names = [f"tag: {name}" if name in tags else name for name in refs if name != current]
    if current in refs:
        names.insert(0, f"HEAD -> {current}")
    return f"({', '.join(names)})" if names else ""


def drawn(nodes: Sequence["Node"]) -> Iterator[tuple[str, "Node | None"]]:
    """Lanes of each node, which come before their parents, and lines in between without a node.

    Every lane waits for one turn. A turn that no lane waits for begins a new one on the right;
    lanes that come to wait for the same turn run into one, and those right of it move up.
    """
    lanes: list[int] = []
    ended: int | None = None
    for node in nodes:
        if node.id not in lanes:
            if ended == len(lanes):
                # Or it would look like the parent of the one above it.
                yield " ".join("|" * ended), None
            lanes.append(node.id)
        at = lanes.index(node.id)
        yield " ".join("*" if lane == at else "|" for lane in range(len(lanes))), node
        ended = at if node.parent_id is None else None
        if node.parent_id is None:
            yield from ((line, None) for line in _closing(at, at, len(lanes)))
            del lanes[at]
        elif node.parent_id in lanes:
            left, right = sorted((at, lanes.index(node.parent_id)))
            yield from ((line, None) for line in _closing(left, right, len(lanes)))
            lanes[left] = node.parent_id
            del lanes[right]
        else:
            lanes[at] = node.parent_id


def _closing(left: int, right: int, count: int) -> Iterator[str]:
    """The lines in which lane `right` of `count` runs into lane `left`; it just ends if they are
    the same."""
    moves_up = [2 * lane - 1 for lane in range(right + 1, count)]
    if left < right or moves_up:
        yield _line(
            [*range(0, 2 * right, 2)], [*([2 * right - 1] if left < right else ()), *moves_up]
        )
    for lane in range(right - 1, left, -1):
        yield _line([*range(0, 2 * (count - 1), 2)], [2 * lane - 1])


def _line(upright: Sequence[int], slanted: Sequence[int]) -> str:
    """Columns of ``|`` and of ``/``."""
    marks = {**dict.fromkeys(upright, "|"), **dict.fromkeys(slanted, "/")}
    return "".join(marks.get(column, " ") for column in range(max(marks) + 1))


def _told(node: "Node") -> str:
    what = [node.method or node.kind]
    if node.method and node.kind != "edit":
        what = [f"{node.kind} ({node.method})"]
    if node.edits:
        what.append(counted(node.edits, "edits"))
    if node.is_rolled_back:
        what.append("rejected" if node.is_rejected else "rolled back")
    elif node.rolled_back_on:
        what.append(f"rolled back on {', '.join(node.rolled_back_on)}")
    if node.copied_from is not None:
        what.append(f"from {node.copied_from[:7]}")
    told = ", ".join(what)
    return f"{told}: {short(node.message, _MESSAGE)}" if node.message else told
