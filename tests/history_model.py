"""A plain model of a history, beside a ledger to which the same is done.

What each turn adds are float64 matrices, read from the files by the tests' own code; what is in
force follows from the rule in its plainest form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ledger.branching import create_branch, create_tag, delete_branch, switch
from ledger.cleaning import collect_garbage
from ledger.joining import merge_branch
from ledger.merge_plan import MergeBranch, plan_merge
from ledger.picking import cherry_pick
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditLedgerError, StoreError
from tests.plain_ledgers import (
    FIRST,
    SECOND,
    TURNED,
    Matrix,
    add,
    change,
    deltas,
    line,
    recorded,
    state,
    summed,
)

SMALL = ("dense", "sparse")
NOW = -60.0
"""Seconds of grace: none."""


@dataclass(eq=False, kw_only=True)
class Node:
    """A turn in the model. root: the turn that it goes back to, itself if it is no copy."""

    hash: str = ""
    digest: str | None = None
    adds: dict[str, Matrix] = field(default_factory=dict)
    undoes: frozenset["Node"] = frozenset()
    replaces: frozenset["Node"] = frozenset()
    root: "Node | None" = None

    @property
    def origin(self) -> "Node":
        return self.root or self


class Torn(Exception):
    """A part of a squash in force is not in force."""


Path_ = Sequence[Node]


def in_force(path: Path_) -> set[Node]:
    """The rule in its plainest form: no later turn that is itself in force undoes it."""

    @cache
    def holds(place: int) -> bool:
        later = range(place + 1, len(path))
        return not any(path[place] in path[by].undoes and holds(by) for by in later)

    return {node for place, node in enumerate(path) if holds(place)}


def replaced(path: Path_) -> set[Node]:
    """The turns whose place squashes in force have taken."""
    return {part for node in in_force(path) for part in node.replaces}


def surviving(path: Path_) -> list[Node]:
    """The turns whose patches make up the state at the end of the path."""
    active, gone = in_force(path), replaced(path)
    if gone - active:
        raise Torn
    return [node for node in path if node in active and node not in gone and node.digest]


class World:
    """A ledger, and beside it the model: the path of turns to each branch and tag."""

    def __init__(self, ledger: Ledger, model: Path) -> None:
        self.ledger = ledger
        self.model = model
        self.paths: dict[str, list[Node]] = {"main": []}
        self.tags: dict[str, list[Node]] = {}
        self.nodes: list[Node] = []
        self.pruned: set[str] = set()
        self.steps = 0

    @property
    def path(self) -> list[Node]:
        return self.paths[self.ledger.branch]

    def can_be_built(self, path: Path_) -> bool:
        try:
            return not self.pruned & {node.digest for node in surviving(path)}
        except Torn:
            return False

    def attempt(self, works: bool, act: Callable[[], object]) -> bool:
        """Do it, or see it refused with nothing recorded; whether it works."""
        if works:
            act()
            return True
        before = line(self.ledger)
        with pytest.raises(EditLedgerError):
            act()
        assert line(self.ledger) == before
        return False

    def append(self, *nodes: Node) -> None:
        """What was recorded last, in the model."""
        for step, node in zip(line(self.ledger)[len(self.path) :], nodes, strict=True):
            node.hash = step.hash
            self.path.append(node)
            self.nodes.append(node)

    def newest(self) -> tuple[str, dict[str, Matrix]]:
        """Digest and content of the patch of the newest turn."""
        digest = line(self.ledger)[-1].patch_digest
        assert digest is not None
        return digest, deltas(self.ledger.store.path(digest))

    def act(self, what: str, first: int, second: int) -> None:
        """Do one thing, which two numbers describe further."""
        act: Callable[[int, int], None] = getattr(self, what)
        act(first, second)
        self.steps += 1

    def add(self, seed: int, kinds: int) -> None:
        one, other = ("low-rank", "sparse", "low-rank", "dense")[kinds % 4], SMALL[kinds % 2]
        name = TURNED if kinds % 3 == 0 else FIRST
        add(self.ledger, {name: change(name, one, seed), SECOND: change(SECOND, other, seed)})
        digest, adds = self.newest()
        self.pruned.discard(digest)
        self.append(Node(digest=digest, adds=adds))

    def undo(self, pick: int, _: int) -> None:
        """Of a rollback: a redo."""
        if not self.path:
            return
        number = pick % len(self.path)
        target = self.path[number]
        node = Node(undoes=frozenset({target}))
        works = target in in_force(self.path) and self.can_be_built([*self.path, node])
        if self.attempt(works, lambda: rollback_turn(self.ledger, number + 1)):
            self.append(node)

    def go_back(self, pick: int, _: int) -> None:
        number = pick % (len(self.path) + 1)
        then = self.path[:number]
        works = surviving(then) != surviving(self.path) and self.can_be_built(then)
        if self.attempt(works, lambda: rollback_to(self.ledger, number)):
            self.append(Node(undoes=frozenset(self.path[number:])))
            assert surviving(self.path) == surviving(then)

    def squash(self, first: int, length: int) -> None:
        if not self.path:
            return
        start = first % len(self.path)
        end = min(start + 1 + length % 9, len(self.path) - 1)
        alive = surviving(self.path)
        chosen = [node for node in self.path[start : end + 1] if node in alive]
        works = len(chosen) > 1
        if self.attempt(works, lambda: squash(self.ledger, start + 1, end + 1)):
            digest, adds = self.newest()
            for name, delta in adds.items():
                whole = sum((n.adds[name] for n in chosen if name in n.adds), np.zeros(delta.shape))
                assert np.allclose(delta, whole, rtol=2**-23, atol=0)
            self.append(Node(digest=digest, adds=adds, replaces=frozenset(chosen)))

    def branch(self, pick: int, _: int) -> None:
        then = self.path[: pick % (len(self.path) + 1)]
        name = f"branch-{self.steps}"
        works = self.can_be_built(then)
        if self.attempt(works, lambda: create_branch(self.ledger, name, len(then))):
            self.paths[name] = then
            switch(self.ledger, name)

    def tag(self, pick: int, _: int) -> None:
        if not self.path:
            return
        then = self.path[: 1 + pick % len(self.path)]
        name = f"tag-{self.steps}"
        works = self.can_be_built(then)
        if self.attempt(works, lambda: create_tag(self.ledger, name, len(then))):
            self.tags[name] = then

    def switch(self, pick: int, _: int) -> None:
        switch(self.ledger, sorted(self.paths)[pick % len(self.paths)])

    def delete(self, pick: int, _: int) -> None:
        others = sorted({*self.paths} - {"main", self.ledger.branch})
        if not others:
            return
        name = others[pick % len(others)]
        delete_branch(self.ledger, name)
        del self.paths[name]

    def cherry_pick(self, pick: int, which: int) -> None:
        name = self.other(which)
        if name is None:
            return
        theirs = self.paths[name]
        number = pick % len(theirs)
        copies = self.copies(theirs[number])
        trial = [*self.path, *copies]
        works = bool(copies) and all(
            self.can_be_built(trial[: len(self.path) + done + 1]) for done in range(len(copies))
        )
        back = len(theirs) - 1 - number
        if self.attempt(works, lambda: cherry_pick(self.ledger, [f"{name}~{back}"])):
            self.append(*copies)

    def other(self, which: int) -> str | None:
        """Another branch that has turns which this one has not."""
        others = sorted(name for name, path in self.paths.items() if path != self.path[: len(path)])
        return others[which % len(others)] if others else None

    def copies(self, source: Node) -> list[Node]:
        """What picking a turn brings, itself last; nothing where that is refused."""
        made: list[Node] = []

        def here(node: Node) -> Node | None:
            path = [*self.path, *made]
            active = in_force(path)
            same = [n for n in path if n in active and n.origin is node.origin]
            return same[-1] if same else None

        def copied(node: Node) -> Node:
            parts = []
            for part in sorted(node.replaces, key=self.nodes.index):
                found = here(part)
                if found in replaced([*self.path, *made]):
                    raise Torn
                parts.append(found or copied(part))
            copy = Node(
                digest=node.digest, adds=node.adds, replaces=frozenset(parts), root=node.origin
            )
            made.append(copy)
            return copy

        if source.digest is None or here(source) is not None:
            return []
        try:
            copied(source)
        except Torn:
            return []
        return made

    def merge(self, which: int, _: int) -> None:
        name = self.other(which)
        if name is None:
            return
        before, theirs = list(self.path), self.paths[name]
        try:
            merge_branch(self.ledger, name, MergeBranch(evaluate=False))
        except EditLedgerError:
            # A squash of the one side would be torn by the other, or what is needed is gone.
            assert any(node.replaces for node in (*before, *theirs))
            assert len(line(self.ledger)) == len(before)
            return
        self.append(*self.merged())
        assert plan_merge(self.ledger, name).apart.is_merged
        active, known = in_force(self.path), {node.origin for node in before}
        new = {n for n in in_force(theirs) if n.digest and not n.replaces} - known
        assert {node.origin for node in new} - known <= {node.origin for node in active}
        shared = {node.origin for node in theirs}
        own = {node for node in in_force(before) if node.digest and node.origin not in shared}
        assert own <= active

    def merged(self) -> list[Node]:
        """The turns that a merge has recorded. Their relations are taken from the ledger."""
        by_hash = {node.hash: node for node in self.nodes}
        made: list[Node] = []
        for step in line(self.ledger)[len(self.path) :]:
            path = [*self.path, *made]
            undoes = frozenset(path[number - 1] for number in step.undoes)
            replaces = frozenset(path[number - 1] for number in step.replaces)
            node = Node(undoes=undoes, replaces=replaces)
            if step.copied_from is not None:
                source = by_hash[step.copied_from]
                node.digest, node.adds, node.root = source.digest, source.adds, source.origin
            assert node.digest == step.patch_digest
            made.append(node)
        return made

    def clean(self, *_: int) -> None:
        collect_garbage(self.ledger, grace=NOW)
        self.check_files()

    def prune(self, *_: int) -> None:
        heads = [*self.paths.values(), *self.tags.values()]
        kept = {node.digest for path in heads for node in path if node not in replaced(path)}
        self.pruned |= {node.digest for node in self.nodes if node.digest} - kept
        collect_garbage(self.ledger, prune=True, grace=NOW)
        self.check_files()

    def check_files(self) -> None:
        """Every patch is there but those that were pruned, and nothing beside them that is old."""
        for digest in {node.digest for node in self.nodes if node.digest}:
            assert self.ledger.store.path(digest).exists() == (digest not in self.pruned)

    def check(self) -> None:
        """The state is the sum of what survives, an earlier one likewise, and verify is clean."""
        path = self.path
        alive = surviving(path)
        assert len(line(self.ledger)) == len(path)
        expected = summed(self.model, [node.adds for node in alive])
        assert state(self.ledger) == expected
        assert recorded(self.ledger) == expected
        earlier = path[: self.steps % (len(path) + 1)]
        if self.can_be_built(earlier):
            then = summed(self.model, [node.adds for node in surviving(earlier)])
            assert state(self.ledger, len(earlier)) == then
        else:
            with pytest.raises(StoreError, match="was pruned"):
                state(self.ledger, len(earlier))
        assert verify(self.ledger).problems == []
