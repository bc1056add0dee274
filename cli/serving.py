"""`ledger serve`: the ledger in a browser."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import click

from cli.options import (
    branch_option,
    chosen_branch,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    opened,
)
from cli.rendering import json_text, tell, write

if TYPE_CHECKING:
    from ledger.workspace import Ledger


@click.command(short_help="Look at the ledger in a browser; only those with the token, read-only.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8350,
    show_default=True,
    help="Where to listen; 0: any port that is free.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Of this machine; 127.0.0.1 is reached from here alone, 0.0.0.0 from everywhere.",
)
@click.option(
    "--token",
    envvar="LEDGER_SERVE_TOKEN",
    metavar="TOKEN",
    help="What to ask visitors for (default: a new random one at each start). Others on this "
    "machine can see what a command is given: better set the variable. [env: LEDGER_SERVE_TOKEN]",
)
@click.option(
    "--model",
    "with_model",
    is_flag=True,
    help="Let prompts be answered, too: the base model is loaded when the first one is asked.",
)
@device_option
@dtype_option
@click.option("--open", "opening", is_flag=True, help="Open the browser there.")
@branch_option
@ledger_option
@json_option
def serve(
    port: int,
    host: str,
    token: str | None,
    with_model: bool,
    device: str,
    dtype: str | None,
    opening: bool,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Show turns, edits, scores, diffs, blame, branches and datasets as web pages, until Ctrl-C.

    Only who has the token gets in: open the address that is printed, or send it as
    "Authorization: Bearer TOKEN". Nothing can be changed there, and nothing is loaded from
    elsewhere. Every page is also JSON, with .json after its path.

    \b
    Example: ledger serve --open
             ledger serve --model --port 0 --json
    """
    ledger = opened(ledger_dir)
    _check(ledger, with_model)
    from ledger.page import listening
    from ledger.page.app import create_app

    # It warns when pages wait for a thread, which is no matter.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    token = listening.checked_token(token)
    with contextlib.closing(listening.listen(host, port)) as at, _until_told_to_end():
        app = create_app(
            ledger,
            token=token,
            hosts=listening.names(host, at),
            branch=chosen_branch(),
            model=with_model,
            device=device,
            dtype=dtype,
        )
        address = listening.address(host, at)
        if not listening.is_loopback(at):
            tell(_WARNING.format(address=address), err=True)
        _tell(address, token, as_json=as_json)
        if opening:
            _open(_link(address, token))
        listening.serve(app, at)


_WARNING = (
    "warning: whoever reaches {address} from elsewhere and has the token can read all facts; "
    "nothing is encrypted on the way"
)


def _check(ledger: "Ledger", with_model: bool) -> None:
    """That there is something to show, before anybody is told where."""
    from ledger.reporting import status

    status(ledger)
    if with_model:
        # Of no tensor the bytes, but that the base's files have all of them.
        ledger.check_base_tensors([])


def _tell(address: str, token: str, *, as_json: bool) -> None:
    if as_json:
        port = urlsplit(address).port
        write(json_text({"url": address, "token": token, "port": port}))
    else:
        tell(_link(address, token), "stop with Ctrl-C")


def _link(address: str, token: str) -> str:
    return f"{address}?token={token}"


def _open(link: str) -> None:
    """In a thread: some browsers run in the terminal until they are left."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()


@contextlib.contextmanager
def _until_told_to_end() -> Iterator[None]:
    """Inside, a request to end is as Ctrl-C is; neither is an error."""

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
