"""`ledger settings`: what counts for a method when nothing is said."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, ledger_option, lock_timeout_option, opened, print_json
from cli.rendering import print_facts
from cli.rendering import settings as settings_text
from ledger.wording import score

if TYPE_CHECKING:
    from ledger.setting_origins import InForce
    from ledger.workspace import Ledger

_SOURCES = {
    "family": "tuned for this family and size",
    "rule": "by rule: nobody has tuned them for this model",
    "chosen": "chosen in this ledger",
}


@click.command(short_help="The settings that count, and why; back to the defaults.")
@click.option(
    "--reset",
    metavar="METHOD",
    help="Give a method its built-in defaults back; what was chosen stays in the record.",
)
@ledger_option
@lock_timeout_option
@json_option
def settings(reset: str | None, ledger_dir: Path | None, as_json: bool) -> None:
    """Show for each editing method which settings count when none are given, and where they come
    from: built in for a family of models, by rule, or chosen by ledger tune --apply.

    \b
    Example: ledger settings
             ledger settings --reset ultraedit
    """
    from ledger.setting_origins import in_force

    ledger = opened(ledger_dir)
    if reset is not None:
        _reset(ledger, reset)
    found = in_force(ledger)
    if as_json:
        print_json({"settings": [one.to_json() for one in found]})
        return
    for one in found:
        _print(one)


def _reset(ledger: "Ledger", method: str) -> None:
    from ledger import settings as chosen
    from patches.editors import EDITORS

    if method not in EDITORS:
        raise click.BadParameter(
            f"{method!r} is not one of {', '.join(EDITORS)}", param_hint="--reset"
        )
    chosen.reset(ledger, method)


def _print(one: "InForce") -> None:
    span = one.modules[0] + (f" … {one.modules[-1]}" if len(one.modules) > 1 else "")
    facts = [
        ("method", one.method),
        ("modules", f"{len(one.modules)}: {span} ({_SOURCES[one.source]})"),
        ("values", settings_text(one.values) or "built-in defaults"),
    ]
    if one.chosen is not None:
        facts.append(("because", f"{one.chosen.origin} ({one.chosen.created_at:%Y-%m-%d})"))
        facts += _evidence(one.chosen.evidence)
    print_facts(facts)


def _evidence(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    """Scores on the held-out rows, a line for each of the settings compared."""
    return [
        (
            "",
            f"{held['name']}: "
            + ", ".join(
                f"{name.replace('_', ' ')} {score(found['value'])}"
                for name, found in held["scores"].items()
            ),
        )
        for held in evidence.get("held_out", [])
    ]
