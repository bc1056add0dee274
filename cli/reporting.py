"""`ledger report` and `ledger plot`: what a history looks like, as files."""

import sys
from pathlib import Path
from typing import Any

import click

from cli.options import branch_option, json_option, ledger_option, opened, print_json
from cli.rendering import tell
from cli.starting import importing
from cli.watching import watching
from ledger.plots import KINDS, described, draw, format_of, read
from ledger.whole_files import check_folder, write_whole
from ledger.wording import counted, size


@click.command(short_help="A chart of the history as SVG, PNG or PDF.")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to, e.g. chart.svg, chart.png or chart.pdf; a file that is there is replaced.",
)
@click.option(
    "-n", "--last", type=click.IntRange(min=1), help="Only the last N turns (timeline: 2,000)."
)
@click.option("--dark", is_flag=True, help="Colours for a dark background.")
@click.option(
    "--width",
    type=click.FloatRange(3, 24),
    default=8.0,
    show_default=True,
    metavar="INCHES",
    help="Texts keep their size: 4 is for phones.",
)
@click.option(
    "--height",
    type=click.FloatRange(1, 36),
    metavar="INCHES",
    help="Default: as high as it needs.",
)
@click.option(
    "--dpi",
    type=click.IntRange(30, 1200),
    default=150,
    show_default=True,
    help="Dots per inch of a PNG.",
)
@branch_option
@ledger_option
@json_option
def plot(
    kind: str,
    out: Path | None,
    last: int | None,
    dark: bool,
    width: float,
    height: float | None,
    dpi: int,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Draw a chart of the branch's history, for papers and slides.

    \b
    timeline   what each turn did: edits, what was rolled back, what is in force
    scores     how well each turn's edits were learnt, with the base as a line
    retention  how each turn's edits fare in later states, as far as it was recorded
    weights    how much each turn changes each tensor

    An SVG has no background, and nothing in it is loaded from elsewhere. With --json, what the
    chart shows is printed; then --out can be left out.

    \b
    Example: ledger plot timeline --out timeline.svg
             ledger plot scores --out scores.png --dark --dpi 300
             ledger plot retention --json
    """
    if out is None and not as_json:
        raise click.UsageError("give --out FILE, or --json")
    if out is not None:
        format_of(out.name)
        check_folder(out)
    with watching(quiet=as_json) as progress:
        content = read(opened(ledger_dir), kind, last=last, progress=progress)
    if out is not None:
        theme = "dark" if dark else "light"
        with importing():
            chart = draw(
                kind,
                content,
                theme=theme,
                format=format_of(out.name),
                width=width,
                height=height,
                dpi=dpi,
            )
        write_whole(out, chart)
    if as_json:
        print_json(content.to_json())
    else:
        assert out is not None
        _print_drawn(out, kind, content)


@click.command(short_help="The whole history as one HTML file.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to, e.g. report.html; a file that is there is replaced.",
)
@click.option("--title", help="Its heading (default: the name of the model).")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Tell at most the last N turns one by one.",
)
@click.option(
    "--weights/--no-weights",
    default=True,
    help="How much each turn changed each tensor; reads patches and the base.  [default: weights]",
)
@click.option(
    "--verify/--no-verify",
    "verified",
    default=True,
    help="Check the whole history first, as ledger verify does.  [default: verify]",
)
@branch_option
@ledger_option
@json_option
def report(
    out: Path | None,
    title: str | None,
    last: int,
    weights: bool,
    verified: bool,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Write what was edited, whether it worked and what was forgotten into one HTML file, which
    needs no network: timeline, scores, retention, conflicts, weights, datasets, state of the chain.

    It tells what is recorded, and asks no model; it holds the texts of edits. With --json the same
    is printed; then --out can be left out. Exit status 1: the history is not as it was recorded.

    \b
    Example: ledger report --out report.html
             ledger report --out release-7.html --title "Release 7" --branch release
    """
    if out is None and not as_json:
        raise click.UsageError("give --out FILE, or --json")
    if out is not None:
        check_folder(out)
    with importing():
        from ledger.page.report import report as make
    with watching(quiet=as_json) as progress:
        made = make(
            opened(ledger_dir),
            title=title,
            last=last,
            weights=weights,
            verified=verified,
            progress=progress,
        )
    if out is not None:
        write_whole(out, made.to_html().encode())
    if as_json:
        print_json(made.to_json())
    else:
        assert out is not None
        _print_written(out, made.to_json())
    if not made.is_sound:
        sys.exit(1)


def _print_written(out: Path, content: dict[str, Any]) -> None:
    stands = content["status"]
    edits = counted(stands["edits_in_force"], "edits")
    tell(f"{out}: {counted(stands['turn'], 'turns')}, {edits} in force, {size(out.stat().st_size)}")
    for concern in content["concerns"]:
        tell(f"look at: {concern}")
    checked = content["verified"]
    if checked and not checked["ok"]:
        tell(f"look at: {counted(len(checked['problems']), 'problems')} of the history itself")


def _print_drawn(out: Path, kind: str, content: Any) -> None:
    tell(f"{out}: {kind}, {size(out.stat().st_size)}", described(kind, content))
    for note in content.notes:
        tell(f"note: {note}")
