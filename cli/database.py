"""`ledger db`: the schema of the database, upgrading it, and moving the ledger to another."""

from pathlib import Path

import click

from cli.options import json_option, ledger_option, lock_timeout_option, opened, print_json
from cli.rendering import print_facts, tell
from cli.watching import watching
from ledger.wording import counted


@click.group(short_help="The database: its schema, upgrading it, moving it.")
def db() -> None:
    """The ledger's database: its schema revision, bringing it up to date, and moving the ledger to
    another.

    \b
    Example: ledger db current
    """


@db.command()
@ledger_option
@json_option
def current(ledger_dir: Path | None, as_json: bool) -> None:
    """The schema revision of the database, and the one that this program needs.

    \b
    Example: ledger db current
    """
    import migrations
    from ledger import database

    ledger = opened(ledger_dir)
    ledger.check_database_file()
    engine = database.connect(ledger.url, waiting=ledger.waiting)
    found, needed = migrations.current(engine), migrations.head()
    if found is None:
        database.check_schema(engine)
    engine.dispose()
    if as_json:
        print_json({"database": database.masked(ledger.url), "current": found, "needed": needed})
        return
    tell(f"{database.masked(ledger.url)}: schema {found}, this program needs {needed}")


@db.command()
@ledger_option
@lock_timeout_option
@json_option
def upgrade(ledger_dir: Path | None, as_json: bool) -> None:
    """Bring the database to the schema that this program needs; all of it, or nothing.

    An SQLite database is copied first, to FILE.schema-REVISION beside it. To go back to an older
    program, put the copy in the place of FILE while nobody uses the ledger, and remove FILE-wal
    and FILE-shm. What was recorded after the upgrade is not in it.

    \b
    Example: ledger db upgrade
    """
    import migrations
    from ledger import database

    ledger = opened(ledger_dir)
    ledger.check_database_file()
    engine = database.connect(ledger.url, waiting=ledger.waiting)
    before = migrations.current(engine)
    if before is None:
        database.check_schema(engine)
    applied = migrations.upgrade(engine)
    copy = migrations.safety_copy.path_of(engine, str(before)) if applied else None
    engine.dispose()
    if as_json:
        found = {"database": database.masked(ledger.url), "applied": applied}
        print_json({**found, "copy": None if copy is None else str(copy)})
    elif applied:
        tell(f"upgraded to schema {applied[-1]} ({counted(len(applied), 'revisions')})")
        if copy is not None:
            tell(f"as it was before: {copy}")
    else:
        tell(f"schema {migrations.head()} already; nothing to do")


@db.command()
@click.option(
    "--to",
    "address",
    required=True,
    metavar="URL",
    help="An empty database: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME. Its password "
    "is not kept: give it again with PGPASSWORD or LEDGER_DATABASE.",
)
@click.option(
    "--switch/--no-switch",
    default=True,
    show_default=True,
    help="Work on the copy from now on, or keep it beside the ledger's database.",
)
@ledger_option
@lock_timeout_option
@json_option
def copy(address: str, switch: bool, ledger_dir: Path | None, as_json: bool) -> None:
    """Move the ledger to another database, which must be empty.

    Every row is copied while nobody writes, read again, counted and compared, and the chain of
    hashes is verified there. Only then does the ledger's config.json name the new database; the
    old one stays as it is. Patches stay where they are. Stop it at any time: the same command does
    what is left.

    Folders of other machines that name the old database must be changed there.

    \b
    Example: ledger db copy --to postgresql+psycopg://me@db/ledger
             ledger db copy --to sqlite:///backup.db --no-switch
    """
    from ledger.moving_database import copy_database

    with watching(quiet=as_json) as progress:
        copied = copy_database(opened(ledger_dir), address, switch=switch, progress=progress)
    if as_json:
        print_json(copied.to_json())
        return
    tables = counted(len(copied.tables), "tables")
    print_facts(
        [
            ("copied", f"{counted(copied.rows, 'rows')} of {tables}"),
            ("", f"{counted(copied.turns, 'turns')}, the chain of hashes is whole"),
            ("from", copied.source),
            ("to", copied.target),
            ("used now", copied.target if copied.switched else copied.source),
            *[("note", note) for note in copied.notes],
        ]
    )
