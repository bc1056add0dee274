"""`ledger init` and `ledger db`: create a ledger, keep its database up to date."""

from pathlib import Path

import click

from cli.options import json_option, ledger_option, opened, print_json
from cli.rendering import print_facts, size
from cli.watching import watching


@click.command(short_help="Create a ledger for a base model.")
@click.option(
    "--model", required=True, metavar="PATH_OR_ID", help="Folder, or Hub id with @revision."
)
@click.option(
    "--database",
    "database_url",
    metavar="URL",
    help="SQLAlchemy URL (default: SQLite in the ledger's folder). Its password is not kept: "
    "give it again with PGPASSWORD or LEDGER_DATABASE.",
)
@click.option("--store", metavar="DIR", help="Folder for patches (default: in the ledger's).")
@ledger_option
@json_option
def init(
    model: str,
    database_url: str | None,
    store: str | None,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Create a ledger for a base model, and record the model's fingerprint.

    The model is never changed. Without options the ledger is .ledger/ here, with an SQLite
    database and the patches in it.

    \b
    Example: ledger init --model ./SmolLM2-135M-Instruct
             ledger init --model owner/name@main --database postgresql+psycopg://me@db/ledger
    """
    from ledger.initialising import init as create

    with watching(quiet=as_json) as progress:
        made = create(
            model, folder=ledger_dir, database_url=database_url, store=store, progress=progress
        )
    found = made.to_json()
    made.ledger.close()
    if as_json:
        print_json(found)
        return
    print_facts(
        [
            ("ledger", found["ledger"]),
            ("database", found["database"]),
            ("patches", found["store"]),
            ("base", f"{found['model']} ({found['architecture']})"),
            ("", f"{found['tensors']} tensors, {size(found['bytes'])}"),
            ("fingerprint", found["fingerprint"]),
        ]
    )


@click.group(short_help="The database: its schema, and upgrading it.")
def db() -> None:
    """The ledger's database: its schema revision, and bringing it up to date.

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
    engine = database.connect(ledger.url)
    found, needed = migrations.current(engine), migrations.head()
    engine.dispose()
    if as_json:
        print_json({"database": database.masked(ledger.url), "current": found, "needed": needed})
        return
    click.echo(f"{database.masked(ledger.url)}: schema {found}, this program needs {needed}")


@db.command()
@ledger_option
@json_option
def upgrade(ledger_dir: Path | None, as_json: bool) -> None:
    """Bring the database to the schema that this program needs; all of it, or nothing.

    \b
    Example: ledger db upgrade
    """
    import migrations
    from ledger import database

    ledger = opened(ledger_dir)
    engine = database.connect(ledger.url)
    if migrations.current(engine) is None:
        database.check_schema(engine)
    applied = migrations.upgrade(engine)
    engine.dispose()
    if as_json:
        print_json({"database": database.masked(ledger.url), "applied": applied})
    elif applied:
        click.echo(f"upgraded to schema {applied[-1]} ({len(applied)} revisions)")
    else:
        click.echo(f"schema {migrations.head()} already; nothing to do")
