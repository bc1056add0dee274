"""Revisions that do not exist, for what may go right and wrong in an upgrade."""

import subprocess
import sys
from pathlib import Path

from sqlalchemy import Engine

import migrations
from ledger.database import SCHEMA

# On SQLite this makes anew the table that most others refer to.
REBUILD = """
def upgrade():
    with op.batch_alter_table("turns") as batch:
        batch.add_column(sa.Column("reviewer", sa.Text(), server_default="nobody"))
        batch.alter_column("message", existing_type=sa.Text(), nullable=True)

def downgrade():
    with op.batch_alter_table("turns") as batch:
        batch.alter_column("message", existing_type=sa.Text(), nullable=False)
        batch.drop_column("reviewer")
"""
_HALF = """
import os
import signal

def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer(), primary_key=True))
    op.add_column("turns", sa.Column("half", sa.Text()))
    op.execute("UPDATE turns SET message = 'half'")
"""
FAILS = _HALF + '    op.execute("SELECT * FROM no_such_table")\n'
DIES = _HALF + "    os.kill(os.getpid(), signal.SIGKILL)\n"
ORPHANS = """
def upgrade():
    op.execute("DELETE FROM turns WHERE id = 1")
"""
# Goes on only when two processes are about to upgrade, and gives the second time to come in.
MEETS = """
import pathlib
import time

def upgrade():
    folder = pathlib.Path(__file__).parent.parent
    until = time.monotonic() + 60
    while len(list(folder.glob("ready-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)
    op.create_table("made_once", sa.Column("id", sa.Integer(), primary_key=True))
"""
_UPGRADE = """
import os, pathlib, sys
import migrations
from ledger import database
engine = database.connect(database.parse_url(sys.argv[1]))
folder = pathlib.Path(sys.argv[2])
(folder / f"ready-{os.getpid()}").touch()
print(*migrations.upgrade(engine, folder=folder))
"""


REAL = [f"{number:04}" for number in range(1, int(SCHEMA) + 1)]
"""The revisions that exist, oldest first."""
NEXT = f"{int(SCHEMA) + 1:04}"


def add_revision(environment: Path, body: str) -> None:
    """Write revision `NEXT`, with the functions in `body`, into a copy of the environment."""
    (environment / "versions" / f"{NEXT}_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '{NEXT}'\ndown_revision = '{SCHEMA}'\n{body}"
    )


def remove_all(environment: Path) -> None:
    """Take all revisions out of a copy of the environment."""
    for path in (environment / "versions").glob("0*.py"):
        path.unlink()


def upgrade_elsewhere(engine: Engine, environment: Path) -> subprocess.Popen[str]:
    """Start an upgrade in a process of its own, which prints what it applied."""
    url = engine.url.render_as_string(hide_password=False)
    return subprocess.Popen(
        [sys.executable, "-c", _UPGRADE, url, str(environment)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=migrations.FOLDER.parent,
    )
