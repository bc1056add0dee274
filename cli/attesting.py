"""`ledger attest`: what to remember of a history."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option, ledger_option, opened, print_json
from cli.rendering import print_table, tell
from ledger.wording import counted

if TYPE_CHECKING:
    from ledger.attesting import Attestation


@click.command(short_help="What to remember, to prove later that history has only grown.")
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Sign it with this private key (PEM, elliptic curve); needs edit-ledger[signing].",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write it to this file, for ledger verify --since FILE.",
)
@ledger_option
@json_option
def attest(key: Path | None, out: Path | None, ledger_dir: Path | None, as_json: bool) -> None:
    """Print the hash that covers all that is recorded up to now, and where branches and tags are.

    Keep it where those who can write to the ledger cannot. Nothing is checked: run ledger verify
    first.

    \b
    Example: ledger attest
             ledger attest --sign key.pem --out 2026-03.json
             ledger verify --since 2026-03.json --key public.pem
    """
    from ledger.attesting import attest as attested
    from ledger.attesting import write_attestation

    found = attested(opened(ledger_dir), key=key)
    if out is not None:
        write_attestation(found, out)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, out)


def _print(found: "Attestation", out: Path | None) -> None:
    tell(found.hash)
    counts = ", ".join(counted(number, what) for what, number in found.counts.items())
    tell(f"journal entry {found.entry} of ledger {found.ledger}: {counts}")
    tell(f"base model {found.base}")
    print_table(
        ("kind", "name", "turn", "hash"),
        [(ref.kind, ref.name, str(ref.turn), ref.hash) for ref in found.refs],
        right="turn",
        whole="hash",
    )
    if found.signature is not None:
        tell(f"signed with the key {found.signature.key}")
    remembered = found.hash[:16] if out is None else str(out)
    tell(f"to compare with it later: ledger verify --since {remembered}")
