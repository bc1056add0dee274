"""Options that many commands share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cli import completing
from cli.rendering import json_text, tell, write
from ledger.refs import HASH_DIGITS
from ledger.waiting import Waiting
from ledger.workspace import Ledger, open_ledger

F = TypeVar("F", bound=Callable[..., Any])

ledger_option = click.option(
    "--ledger",
    "ledger_dir",
    envvar="LEDGER_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The ledger's folder (default: .ledger here or above). [env: LEDGER_DIR]",
)
_LOCK_TIMEOUT = "ledger.lock-timeout"


def _choose_branch(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[completing.BRANCH] = value


def _choose_timeout(context: click.Context, _option: click.Parameter, value: float) -> None:
    context.meta[_LOCK_TIMEOUT] = value


class _TurnName(click.ParamType[int | str]):
    """What names a turn: its number, or a text that `ledger.refs.resolve` looks up."""

    name = "turn"

    def __init__(self, first: int = 0) -> None:
        """first: the smallest number that makes sense."""
        self._first = first

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        text = str(value).strip()
        if text.lstrip("-").isdecimal() and len(text) < HASH_DIGITS:
            number = int(text)
            if number < self._first:
                self.fail(f"{number} is not a turn: the first is {self._first}", param, ctx)
            return number
        if not text:
            self.fail("an empty text names no turn", param, ctx)
        return text

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 (click's signature)
        incomplete: str,
    ) -> completing.Offered:
        return completing.turns(ctx, incomplete, base=self._first == 0)


TURN = _TurnName(1)
"""A number from 1, a branch or tag, HEAD, HEAD~2, or the beginning of a hash."""
STATE = _TurnName(0)
"""The same, or 0 for the base."""
at_option = click.option(
    "--at",
    type=STATE,
    metavar="TURN",
    help="The state after this turn: a number (0: the base), tag, branch, HEAD~2 or the beginning "
    "of a hash (default: now).",
)

branch_option = click.option(
    "--branch",
    metavar="NAME",
    expose_value=False,
    callback=_choose_branch,
    shell_complete=completing.branches,
    help="The branch to work on (default: the one that ledger switch has chosen, at first main).",
)
lock_timeout_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(0, 10**6),
    default=30.0,
    show_default=True,
    envvar="LEDGER_LOCK_TIMEOUT",
    metavar="SECONDS",
    expose_value=False,
    callback=_choose_timeout,
    help="How long to wait while another process works on the branch, or writes to the ledger; 0: "
    "not at all. [env: LEDGER_LOCK_TIMEOUT]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
message_option = click.option("-m", "--message", default="", help="Why; kept with the turn.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:1 …, auto, or split: over all accelerators, for a model larger than one.",
)
workers_option = click.option(
    "--workers",
    metavar="N|ray://HOST:PORT",
    help="Spread the work over N processes here, or over a Ray cluster, where the ledger and the "
    "model must be found at the same paths (needs edit-ledger[ray]). The results are the same.",
)
# What fits into the database, and into the generators of random numbers.
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Run the model in this dtype (default: that of the checkpoint).",
)


def opened(ledger_dir: Path | None, *, working: bool = False) -> Ledger:
    """The ledger, at the branch, that the options name; it is closed when the command ends.

    working: the command is going to change the branch, and first waits for others that do.
    """
    context = click.get_current_context()
    ledger = context.with_resource(open_ledger(ledger_dir))
    ledger.branch = context.meta.get(completing.BRANCH, ledger.branch)
    seconds = context.meta.get(_LOCK_TIMEOUT, ledger.waiting.seconds)
    ledger.waiting = Waiting(seconds=seconds, told=_tell_waiting)
    if working:
        from ledger.branch_lock import working_on

        context.with_resource(working_on(ledger, ledger.branch))
    return ledger


def _tell_waiting(what: str) -> None:
    tell(f"{what}: another process is writing to it; waiting for it", err=True)


def chosen_branch() -> str | None:
    """What --branch says."""
    found: str | None = click.get_current_context().meta.get(completing.BRANCH)
    return found


def print_json(content: object) -> None:
    """The result for programs."""
    write(json_text(content, indent=2))


def pairs(
    _context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> Mapping[str, str]:
    """``key=value`` texts as a mapping, for a click callback."""
    found: dict[str, str] = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param=option)
        found[key.strip()] = value.strip()
    return found
