"""The application behind `ledger serve`, which only reads: nothing in it can record or move."""

from copy import copy

from flask import Flask
from sqlalchemy import Connection, event
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from ledger.page.access import guard
from ledger.page.kept import PATIENCE, Kept, NotYet
from ledger.page.site import Site
from ledger.page.views import (
    blaming,
    branches,
    charts,
    differing,
    edits,
    origins,
    overview,
    retention,
    searching,
    trying,
    turns,
    verifying,
)
from ledger.workspace import Ledger
from patches.errors import DatabaseError, EditLedgerError

_VIEWS = (
    charts,
    overview,
    turns,
    edits,
    searching,
    branches,
    origins,
    differing,
    blaming,
    retention,
    verifying,
    trying,
)


def create_app(
    ledger: Ledger,
    *,
    token: str,
    hosts: frozenset[str] = frozenset(),
    branch: str | None = None,
    model: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    patience: float = PATIENCE,
) -> Flask:
    """The pages of a ledger, as a WSGI application.

    token: opens them. hosts: the names under which it answers; none: under every name. branch: the
    one that is shown where an address names none; None: the one that commands work on. model:
    prompts may be asked, which loads the base model when the first one is, on `device`, in `dtype`.
    patience: seconds that a page waits for what takes long, before it comes without.
    """
    app = Flask("ledger.page", static_folder="static", template_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
    site = Site(
        app=app,
        ledger=read_only(ledger),
        has_model=model,
        branch=branch,
        device=device,
        dtype=dtype,
        kept=Kept(patience=patience),
    )
    guard(app, token=token, hosts=hosts)
    for view in _VIEWS:
        view.add(site)

    @app.errorhandler(HTTPException)
    @app.errorhandler(EditLedgerError)
    def fail(error: Exception) -> Response:
        return site.fail(error)

    @app.errorhandler(NotYet)
    def wait(_error: NotYet) -> Response:
        return site.wait()

    @app.errorhandler(Exception)
    def fail_unexpectedly(error: Exception) -> Response:
        app.logger.exception("a page could not be made")
        return site.fail(error)

    return app


def read_only(ledger: Ledger) -> Ledger:
    """The same ledger on the same connections, refusing every transaction that would write; the one
    that was given may go on writing."""
    found = copy(ledger)
    found.engine = ledger.engine.execution_options()

    @event.listens_for(found.engine, "begin")
    def refuse(connection: Connection) -> None:
        if connection.get_execution_options().get("writing", False):
            raise DatabaseError("the pages of a ledger only read; nothing was changed")

    return found
