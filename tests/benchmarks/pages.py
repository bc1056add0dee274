"""How fast the pages of `ledger serve` are, over HTTP, in a running server."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from patches.edit import Edit
from tests.benchmarks.measurement import Measurement
from tests.serving import Served, serving

_RUNS = 3
_MADE_LATER = ("/", "/retention")
_LONGEST = 600.0


def pages(folder: Path, name: str, *, turns: int, fact: Edit) -> list[Measurement]:
    """Seconds of each page of a ledger, once it was looked at; and of those that are put together
    in the background, until they are there for the first time. fact: one of its edits."""
    with serving(folder) as served:
        first = [_first(served, name, path) for path in _MADE_LATER]
        later = [_again(served, name, path) for path in _paths(turns, fact)]
    return [*first, *later]


def _paths(turns: int, fact: Edit) -> Iterator[str]:
    yield from _MADE_LATER
    yield "/turns"
    yield f"/turns?page={turns // 50}"
    yield f"/turns/{turns // 2}"
    yield f"/turns/{turns // 2}/edits/7"
    yield "/search?q=mother+tongue"
    yield "/search?q=nowhere+at+all"
    yield f"/blame?prompt={quote(fact.prompt)}"
    yield f"/diff?a={turns - 1}&b={turns}"
    yield "/branches"
    yield "/datasets"


def _first(served: Served, name: str, path: str) -> Measurement:
    started = time.perf_counter()
    while served.ask(path).status == 202:
        if time.perf_counter() - started > _LONGEST:
            raise TimeoutError(path)
        time.sleep(0.1)
    took = time.perf_counter() - started
    return Measurement(what=f"{name}: page {path}, the first time", value=took, unit="s")


def _again(served: Served, name: str, path: str) -> Measurement:
    """The median, after a look that is not counted."""
    took = []
    for _ in range(_RUNS + 1):
        started = time.perf_counter()
        answer = served.ask(path)
        took.append(time.perf_counter() - started)
        assert answer.status == 200, (path, answer.status)
    middle = sorted(took[1:])[_RUNS // 2]
    return Measurement(what=f"{name}: page {path}", value=middle, unit="s")
