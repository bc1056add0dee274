"""`ledger import` and `ledger export`: what other tools have made, and what they can take."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import completing
from cli.options import (
    at_option,
    branch_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    message_option,
    opened,
    print_json,
)
from cli.rendering import tell
from cli.starting import importing
from cli.states import link_option, print_applied, to_option, write_state
from cli.watching import watching
from ledger.wording import counted, size, turn_numbers

if TYPE_CHECKING:
    from ledger.exporting import Exported
    from ledger.import_turn import Imported

# Neither none nor all of a change may be missing.
_ERROR = click.FloatRange(min=0, max=1, min_open=True, max_open=True)


@click.command("import", short_help="Record an adapter, or the difference of two checkpoints.")
@click.argument("source", required=False, metavar="[ADAPTER]", shell_complete=completing.files)
@click.option("--edited", metavar="MODEL", help="A checkpoint that another tool has changed.")
@click.option(
    "--base",
    metavar="MODEL",
    help="The checkpoint that it was made from (default: the base of the ledger).",
)
@click.option(
    "--max-error",
    type=_ERROR,
    help="Record tensors as low-rank factors where these are smaller and their relative error "
    "(Frobenius) is not larger.",
)
@to_option
@link_option
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def import_(
    source: str | None,
    edited: str | None,
    base: str | None,
    max_error: float | None,
    to: Path | None,
    link: bool,
    message: str,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Record what another tool has made as a turn, which can be rolled back like any other.

    ADAPTER is a LoRA adapter in PEFT's form: a folder, or a Hub id OWNER/NAME with optional
    @REVISION. With --edited, the difference of two checkpoints of the same form is recorded,
    exactly unless --max-error allows more. Only safetensors and JSON are read.

    \b
    Example: ledger import ./lora-adapter -m "From the tuning of May" --to ./patched
             ledger import --edited ./finetuned
             ledger import --base ./before --edited ./after --max-error 0.01
    """
    if (source is None) == (edited is None):
        raise click.UsageError("give an adapter, or a changed checkpoint with --edited")
    if source is not None and (base is not None or max_error is not None):
        raise click.UsageError("--base and --max-error go with --edited")
    with importing():
        from ledger.applying import check_folder
        from ledger.importing import import_adapter, import_difference
    with watching(quiet=as_json) as progress:
        ledger = opened(ledger_dir, working=True)
        if to is not None:
            check_folder(ledger, to)
        if source is not None:
            done = import_adapter(ledger, source, message=message, progress=progress)
        else:
            assert edited is not None
            done = import_difference(
                ledger, edited, base=base, max_error=max_error, message=message, progress=progress
            )
    applied = None if to is None else write_state(ledger, to, at=None, link=link, as_json=as_json)
    if as_json:
        written = None if applied is None else applied.to_json()
        print_json({**done.to_json(), "applied": written})
        return
    _print_imported(done)
    if applied is None:
        tell("write the model with: ledger apply --to DIR")
    else:
        print_applied(applied)


def _print_imported(done: "Imported") -> None:
    what = "the adapter" if done.method == "lora" else "the difference of"
    tell(
        f"turn {done.turn} is {what} {done.source}: {counted(len(done.ranks), 'tensors')}"
        f"{_ranks([rank for rank in done.ranks.values() if rank is not None])}, "
        f"patch {size(done.patch_bytes)}, {_error(list(done.errors.values()))}"
    )
    for note in done.notes:
        tell(f"note: {note}")


@click.command(short_help="The changes without the base: a LoRA adapter, or plain tensors.")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["peft", "safetensors"]),
    help="peft: a LoRA adapter. safetensors: the sum of the changes of every tensor, float32.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new or empty folder.",
)
@at_option
@click.option("--rank", type=click.IntRange(min=1), help="The largest rank of a tensor's factors.")
@click.option(
    "--max-error",
    type=_ERROR,
    help="The smallest rank with which the relative error (Frobenius) is not larger.",
)
@click.option(
    "--base-model",
    metavar="OWNER/NAME[@REV]",
    help="What the adapter names as its base (default: that of the ledger, if it is on the Hub).",
)
@branch_option
@ledger_option
@json_option
def export(
    form: str,
    out: Path,
    at: int | str | None,
    rank: int | None,
    max_error: float | None,
    base_model: str | None,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Write what is in force without the base model.

    An adapter has the exact factors of all turns, or with --rank or --max-error fewer, and says how
    large the error is. Side memories (WISE) cannot be part of one.

    \b
    Example: ledger export --format peft --out ./adapter
             ledger export --format peft --max-error 0.01 --out ./small-adapter
             ledger export --format safetensors --out ./changes --at 3
    """
    from ledger.exporting import export as write

    with watching(quiet=as_json) as progress:
        done = write(
            opened(ledger_dir),
            form,
            out,
            at=at,
            rank=rank,
            max_error=max_error,
            base_model=base_model,
            progress=progress,
        )
    if as_json:
        print_json(done.to_json())
    else:
        _print_exported(done)


def _print_exported(done: "Exported") -> None:
    what = "the adapter" if done.format == "peft" else "the changes"
    tell(f"{done.folder}: {what} of {turn_numbers(done.in_force)} ({done.hash[:12]})")
    told = f"{counted(len(done.tensors), 'tensors')}{_ranks(list(done.ranks.values()))}"
    if done.errors:
        told += f", {_error(list(done.errors.values()))}"
    tell(f"{told}; {', '.join(f'{name} {size(n)}' for name, n in done.files.items())}")
    for note in done.notes:
        tell(f"note: {note}")


def _ranks(ranks: list[int]) -> str:
    if not ranks:
        return ""
    lowest, highest = min(ranks), max(ranks)
    return f" of rank {lowest}" + (f" to {highest}" if highest > lowest else "")


def _error(errors: list[float]) -> str:
    return f"error {max(errors):.2g} at the most" if any(errors) else "exact"
