"""What tests of a failing Hub have in common: ledgers to push from and pull into, and what must
hold whatever went wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.reporting import log
from ledger.sharing.publishing import Pushed
from ledger.verifying import verify
from ledger.workspace import Ledger
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts
from tests.loopback_hub import Hub

REPO = "me/published"
FETCHED = ("incoming/", "patches/")


def make_ledgers(folder: Path, model: Path) -> Path:
    """A ledger with two turns, ``full``, and one without, ``empty``; use copies of them."""
    source = write_facts(folder / "facts.json", facts(4))
    with new_ledger(folder / "full", model) as ledger:
        add(ledger, source, turn_size=2, evaluate=False)
    new_ledger(folder / "empty", model).close()
    return folder


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client does not wait before it tries again; how long it would have."""
    waited: list[float] = []
    for module in ("huggingface_hub.utils._http.time", "huggingface_hub.file_download.time"):
        monkeypatch.setattr(module, SimpleNamespace(sleep=waited.append))
    return waited


@contextmanager
def failing(hub: Hub, method: str, path: str, **how: Any) -> Iterator[None]:
    """Inside, all such requests fail, however often the client tries."""
    hub.fail(method, path, times=999, **how)
    yield
    hub._failures.clear()


def published(hub: Hub) -> dict[str, object]:
    """What is on the Hub; of repositories in which nothing is, not even the name."""
    return {
        name: ([commit.oid for commit in one.commits()], dict(one.branches), dict(one.tags))
        for (_, name), one in hub.repositories.items()
        if set(one.files()) != {".gitattributes"}
    }


def kept(ledger: Ledger, *but: str) -> tuple[object, ...]:
    """What a fault must not change: all that is recorded, and all files but these."""
    there = files(ledger.folder).items()
    but = ("ledger.db", ".ledger.db", *but)
    return contents(ledger), {k: v for k, v in there if not k.startswith(but)}


def check_pushed(hub: Hub, ledger: Ledger, done: Pushed) -> None:
    """The push is there, in one commit, and recorded, once; nothing else is left of it."""
    there = hub.repository(REPO)
    assert there.tags == {"turn-2": done.commit}
    assert [commit.oid for commit in there.commits()][:-1] == [done.commit]
    assert [p["commit"] for p in log(ledger)[-1].to_json()["published"]] == [done.commit]
    assert verify(ledger).problems == []
    assert not list(ledger.folder.glob(".pushing*"))


def check_pulled(ledger: Ledger, other: Ledger, branch: str = REPO) -> None:
    """The other ledger has all turns; nothing is left of having fetched them."""
    other.branch = branch
    assert [turn.row.hash for turn in log(other)] == [turn.row.hash for turn in log(ledger)]
    assert verify(other).problems == []
    assert not (other.folder / "incoming").exists()
