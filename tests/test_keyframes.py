"""Keyframes: states cost the same however long the history, to the same bits, and never depend on
files that may go."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text

from ledger import database, keyframes
from ledger.applying import choose_state
from ledger.branching import create_tag, delete_tag
from ledger.cleaning import collect_garbage
from ledger.orm import KeyframeRow
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.store import Store
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.application import patched_bytes
from patches.canonical import sha256
from tests.ledgers import add as add_edits
from tests.ledgers import facts, write_facts
from tests.ledgers import new_ledger as model_ledger
from tests.plain_ledgers import (
    FIRST,
    SECOND,
    TURNED,
    add,
    add_several,
    build,
    change,
    deltas,
    line,
    new_ledger,
    recorded,
    state,
    summed,
)

EVERY, AT_MOST = 4, 8


@dataclass(frozen=True, kw_only=True)
class CountingStore(Store):
    """A store that writes down what is opened."""

    opened: list[str] = field(default_factory=list)

    def open(self, digest: str) -> Path:
        self.opened.append(digest)
        return super().open(digest)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build(tmp_path / "model")


@pytest.fixture
def ledger(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """An empty ledger with a keyframe after every few turns."""
    monkeypatch.setattr(keyframes, "_EVERY", EVERY)
    monkeypatch.setattr(keyframes, "_AT_MOST", AT_MOST)
    with new_ledger(tmp_path / "ledger", model) as ledger:
        ledger.store = CountingStore(folder=ledger.store.folder)
        yield ledger


def frames(ledger: Ledger) -> list[str]:
    """Digests of the files of all keyframes."""
    with database.reading(ledger.engine) as session:
        return list(session.scalars(select(KeyframeRow.digest).order_by(KeyframeRow.key)))


def opened(ledger: Ledger, at: int | None = None) -> int:
    """How many patch files are opened to build the state."""
    assert isinstance(ledger.store, CountingStore)
    before = len(ledger.store.opened)
    state(ledger, at)
    return len(ledger.store.opened) - before


def expected(ledger: Ledger, model: Path, *numbers: int) -> dict[str, str]:
    """The tensors of base + the patches of these turns, from their files."""
    steps = (line(ledger)[number - 1] for number in numbers)
    return summed(model, [deltas(ledger.store.path(s.patch_digest or "")) for s in steps])


def test_states_through_keyframes_have_the_bytes_of_the_sum_of_all_patches(
    ledger: Ledger, model: Path
) -> None:
    kinds = ("low-rank", "dense", "sparse", "low-rank", "dense")
    for seed in range(18):
        name = (FIRST, SECOND, TURNED)[seed % 3]
        add(ledger, {name: change(name, kinds[seed % 5], seed), FIRST: change(FIRST, "dense", 99)})
    assert frames(ledger)
    for number in range(1, 19):
        through = state(ledger, number)
        assert through == state(ledger, number, whole=True)
        assert through == expected(ledger, model, *range(1, number + 1))


def test_the_patches_that_a_state_opens_do_not_grow_with_the_history(ledger: Ledger) -> None:
    add_several(ledger, 40)
    state(ledger)
    assert {opened(ledger, number) for number in (*range(20, 25), *range(36, 41))} <= set(
        range(AT_MOST + 1)
    )
    assert opened(ledger) <= AT_MOST


def test_after_undoing_an_old_turn_states_are_right_and_soon_bounded_again(
    ledger: Ledger, model: Path
) -> None:
    add_several(ledger, 20)
    rollback_turn(ledger, 3)
    others = [number for number in range(1, 21) if number != 3]
    assert recorded(ledger) == state(ledger) == expected(ledger, model, *others)
    assert opened(ledger) <= AT_MOST
    add_several(ledger, 6, start=100)
    assert state(ledger) == expected(ledger, model, *others, *range(22, 28))
    assert opened(ledger) <= AT_MOST
    rollback_turn(ledger, 21)
    assert state(ledger) == expected(ledger, model, *range(1, 21), *range(22, 28))


def test_a_damaged_or_missing_keyframe_is_passed_over_and_made_anew(
    ledger: Ledger, model: Path
) -> None:
    add_several(ledger, 18)
    whole = expected(ledger, model, *range(1, 19))
    made = frames(ledger)
    assert len(made) > 1
    ledger.store.path(made[0]).unlink()
    for digest in made[1:]:
        path = ledger.store.path(digest)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "damaged keyframe" in verify(ledger).problems[0].subject
    assert opened(ledger) == 18
    assert state(ledger) == whole
    assert opened(ledger) == 0
    collect_garbage(ledger)
    assert verify(ledger).problems == []
    assert all(ledger.store.problem(digest) is None for digest in frames(ledger))


def test_a_keyframe_of_another_sum_is_never_taken_for_this_one(ledger: Ledger, model: Path) -> None:
    add_several(ledger, 8)
    state(ledger)
    rollback_to(ledger, 2)
    add_several(ledger, 6, start=50)
    assert state(ledger) == expected(ledger, model, 1, 2, *range(10, 16))


@contextmanager
def full_disk() -> Iterator[None]:
    """Nothing of more than a few bytes can be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def forget_all(ledger: Ledger) -> None:
    with database.writing(ledger.engine) as session:
        session.execute(delete(KeyframeRow))


def test_a_store_that_cannot_be_written_gives_states_all_the_same(
    ledger: Ledger, model: Path
) -> None:
    add_several(ledger, 12)
    forget_all(ledger)
    with full_disk():
        assert state(ledger) == expected(ledger, model, *range(1, 13))
    assert frames(ledger) == []
    assert not list(ledger.store.folder.glob(".writing-*"))
    state(ledger)
    assert len(frames(ledger)) == 1


def test_a_database_that_cannot_be_written_gives_states_all_the_same(
    ledger: Ledger, model: Path
) -> None:
    add_several(ledger, 12)
    forget_all(ledger)
    with ledger.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER stop BEFORE INSERT ON keyframes "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        )
    assert state(ledger) == expected(ledger, model, *range(1, 13))
    assert frames(ledger) == []


def test_gc_removes_those_that_no_head_goes_through_and_keeps_the_others(
    ledger: Ledger, model: Path
) -> None:
    add_several(ledger, 16)
    state(ledger)
    before = set(frames(ledger))
    squash(ledger, 5, 16)
    state(ledger)
    gone = collect_garbage(ledger).heaps["keyframes"]
    kept = set(frames(ledger))
    assert len(gone.files) > 1
    assert {Path(name).stem for name in gone.files} == before - kept
    assert not any(Path(name).exists() for name in gone.files)
    # What is left are beginnings of turns 1 to 4 and the squash.
    assert all(ledger.store.problem(digest) is None for digest in kept)
    assert state(ledger) == expected(ledger, model, 1, 2, 3, 4, 17)
    assert verify(ledger).problems == []
    rollback_turn(ledger, 17)
    assert state(ledger) == expected(ledger, model, *range(1, 17))


def test_a_state_that_is_in_use_stays_whole_while_its_keyframe_is_removed(
    ledger: Ledger, model: Path
) -> None:
    add_several(ledger, 16)
    state(ledger)
    chosen = choose_state(ledger, None)
    assert len(chosen.state.patches) < AT_MOST
    builders = patched_bytes(ledger.checkpoint, chosen.state.patches)
    for digest in frames(ledger):
        ledger.store.remove(digest)
    found = {name: sha256(build()) for name, build in builders.items()}
    assert found == expected(ledger, model, *range(1, 17))


def test_gc_keeps_what_a_tag_or_another_branch_goes_through(ledger: Ledger) -> None:
    add_several(ledger, 12)
    state(ledger)
    made = set(frames(ledger))
    create_tag(ledger, "kept")
    rollback_to(ledger, 0)
    assert collect_garbage(ledger).heaps["keyframes"].files == ()
    delete_tag(ledger, "kept")
    gone = collect_garbage(ledger).heaps["keyframes"].files
    assert {Path(name).stem for name in gone} == made
    assert frames(ledger) == []


def test_add_edits_keeps_them_as_it_goes(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyframes, "_EVERY", 2)
    monkeypatch.setattr(keyframes, "_AT_MOST", 3)
    source = write_facts(tmp_path / "facts.json", facts(7))
    with model_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add_edits(ledger, source, turn_size=1, evaluate=False)
        assert len(frames(ledger)) == 2
        ledger.store = CountingStore(folder=ledger.store.folder)
        assert state(ledger) == recorded(ledger) == state(ledger, whole=True)
        assert opened(ledger) == 1
