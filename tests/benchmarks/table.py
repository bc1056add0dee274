"""Figures as a table, under the machine that they were measured on."""

import json
import sys

from rich.console import Console
from rich.table import Table

from tests.benchmarks import machine
from tests.benchmarks.measurement import Measurement

_WIDTH = 150


def tell(figures: list[Measurement], *, as_json: bool) -> int:
    """Print the figures; the exit status of a program: 1 if a promise is not kept."""
    if as_json:
        content = {"machine": machine.describe(), "figures": [f.to_json() for f in figures]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _print_table(figures)
    return 0 if all(figure.kept for figure in figures) else 1


def _print_table(figures: list[Measurement]) -> None:
    """One line per figure, on stdout."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    for name, value in machine.describe().items():
        console.print(f"{name:<13}{value}", markup=False)
    table = Table("what", box=None, pad_edge=False)
    table.add_column("measured", justify="right")
    table.add_column("beside it", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("which is")
    for figure in figures:
        table.add_row(
            figure.what,
            _number(figure.value, figure.unit),
            "" if figure.other is None else _number(figure.other, figure.unit),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.beside + _promise(figure),
        )
    console.print(table)


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _promise(figure: Measurement) -> str:
    if figure.limit is not None:
        return f" (at least {figure.limit:.2f})"
    return "" if figure.ceiling is None else f" (at most {figure.ceiling:.2f})"
