"""Alembic's environment. Alembic runs this file; nobody imports it.

The connection comes from `migrations.configuration`, already in a transaction that holds the whole
upgrade (see `migrations.transaction`), so that a killed or failed one leaves the old schema on both
databases. Alembic sees the transaction, and neither begins nor ends one of its own.

To write a revision:

1. Change ``ledger/orm.py``, and give `ledger.database.SCHEMA` the next number.
2. In a scratch database at the old revision::

       with transaction(engine) as connection:
           command.revision(configuration(connection), "what it does", autogenerate=True)

3. Read what came out. A revision is frozen in time: it imports nothing from ``ledger``. It opens no
   transaction (no ``autocommit_block``).
4. Write changes with ``op.batch_alter_table``: on SQLite most of them make the table anew, with all
   constraints that have names. Alembic does not notice a changed check constraint; write it by
   hand. The tests compare them, on both databases.
5. Foreign keys are off on SQLite while it runs, so a table that others refer to may be rebuilt, and
   no row is deleted because of another. At the end every reference is checked.
"""

from collections.abc import Iterable
from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from ledger import full_text
from ledger.database import VERSION_TABLE
from ledger.orm import Table, UtcTime


def number(
    migration: MigrationContext,  # noqa: ARG001 (Alembic passes it)
    revision: str | Iterable[str | None] | Iterable[str],  # noqa: ARG001
    scripts: list[MigrationScript],
) -> None:
    """Give a new revision the next number, instead of a random one."""
    newest = ScriptDirectory.from_config(context.config).get_current_head()
    for script in scripts:
        script.rev_id = f"{int(newest or 0) + 1:04d}"


def plain_type(kind: str, item: object, _: AutogenContext) -> str | Literal[False]:
    """Write our own types as SQLAlchemy's, so that a revision need not import them."""
    if kind == "type" and isinstance(item, UtcTime):
        return "sa.DateTime(timezone=True)"
    return False


def known(name: str | None, kind: str, _: object) -> bool:
    """Whether Alembic is to compare it: not what is beside the ORM's tables, for searching."""
    return kind not in ("table", "index") or not full_text.belongs(name)


def migrate(connection: Connection) -> None:
    """Run what Alembic's command asked for."""
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        version_table=VERSION_TABLE,
        compare_type=True,
        render_as_batch=True,
        transactional_ddl=True,
        process_revision_directives=number,
        render_item=plain_type,
        include_name=known,
    )
    with context.begin_transaction():
        context.run_migrations()


migrate(context.config.attributes["connection"])
