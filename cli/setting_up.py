"""`ledger init`: create a ledger."""

from pathlib import Path

import click

from cli.options import json_option, ledger_option, print_json
from cli.rendering import print_facts
from cli.watching import watching
from ledger.wording import size


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
@click.option(
    "--store",
    metavar="DIR|URL",
    help="Folder for patches (default: in the ledger's), or the address of any store that fsspec "
    "knows, as s3://BUCKET/PREFIX. Its credentials are not kept.",
)
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
             ledger init --model ./SmolLM2-135M-Instruct --store s3://bucket/prefix
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
