"""What people see on terminals of any width and kind: tables, facts, colours, lines of scores."""

import io
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cli.bars import rate, span
from cli.fitting import NARROWEST, arranged, cut, fitted, wrapped
from cli.rendering import is_styled, print_facts, print_table
from cli.sparklines import print_scores_over_turns, sparkline
from ledger.rolling_back import rollback_turn
from tests.command_line import call, done, on_terminal, process
from tests.ledgers import add, fact, facts, new_ledger, write_facts

Capture = pytest.CaptureFixture[str]
READING = [
    *("log", "log --graph", "show 2", "status", "search France", "reflog", "branch", "tag"),
    *("blame The capital of France is", "diff 1 3", "attest", "settings", "log --scores"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> str:
    """A ledger of two scored turns and a rollback, with long messages."""
    folder = tmp_path_factory.mktemp("terminal") / "ledger"
    wide = fact(0, target="a very long answer in 日本語 that no terminal has room for")
    source = write_facts(folder.parent / "facts.json", [wide, *facts(3, 1)])
    with new_ledger(folder, tiny_llama) as made:
        add(made, source, turn_size=2)
        rollback_turn(made, 1, message="they were not to be changed in this way by anybody")
    return str(folder)


@pytest.fixture
def ledger(made: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LEDGER_DIR", made)
    return made


def seen(capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int, *words: str) -> list[str]:
    """The lines that a command shows on a terminal of that width, without their styles."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = done(capsys, *words).out
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()


@pytest.mark.parametrize("line", READING)
@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.usefixtures("ledger")
def test_tables_and_facts_fit_the_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, line: str, columns: int
) -> None:
    lines = seen(capsys, monkeypatch, columns, *line.split())
    # Sentences are broken by the terminal; a hash to be copied stays in one piece.
    sentences = (
        "journal entry",
        "base model",
        "facts:",
        "scores",
        "weights:",
        "no tags",
        "note:",
        "no edit",
    )
    rows = [row for row in lines if not row.startswith(sentences) and not _is_hash(row)]
    assert [row for row in rows if cell_len(row) > columns] == []


def _is_hash(line: str) -> bool:
    return re.fullmatch(r"\s*[0-9a-f]{64}|to compare with it later: .*", line) is not None


@pytest.mark.usefixtures("ledger")
def test_no_figure_hash_or_time_is_cut_on_a_narrow_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = done(capsys, "log", "--json").json()
    narrow = "\n".join(seen(capsys, monkeypatch, 40, "log"))
    for turn in turns:
        assert turn["hash"][:7] in narrow
        assert turn["created_at"][:16].replace("T", " ") in narrow
        for metric in ("edit_success", "generalization", "stability"):
            if turn["scores"]:
                assert f"{turn['scores']['state'][metric]:.3f}" in narrow
    moves = "\n".join(seen(capsys, monkeypatch, 40, "reflog"))
    whens = done(capsys, "reflog", "--json").json()
    assert all(move["created_at"][:19].replace("T", " ") in moves for move in whens)


@pytest.mark.parametrize("line", ["log", "show 2", "status", "log --graph", "log --scores"])
@pytest.mark.usefixtures("ledger")
def test_what_is_piped_does_not_depend_on_the_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    narrow = done(capsys, *line.split()).out
    monkeypatch.setenv("COLUMNS", "400")
    assert done(capsys, *line.split()).out == narrow
    assert "…" not in narrow or line == "show 2"  # its modules are told as first … last


def test_a_row_goes_on_below_only_where_cutting_is_not_enough() -> None:
    natural, least = [4, 30, 7, 40], [4, 16, 7, 16]
    assert arranged(natural, least, None) == [{0: 4, 1: 30, 2: 7, 3: 40}]
    assert arranged(natural, least, 100) == [{0: 4, 1: 30, 2: 7, 3: 40}]
    # The widest gives way first.
    assert arranged(natural, least, 80) == [{0: 4, 1: 30, 2: 7, 3: 33}]
    assert arranged(natural, least, 60) == [{0: 4, 1: 21, 2: 7, 3: 21}]
    assert arranged(natural, least, 48) == [{0: 4, 1: 30, 2: 7}, {3: 40}]


@given(st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1), st.integers(24, 200))
def test_every_column_is_on_one_line_and_every_line_fits(
    columns: list[tuple[int, bool]], room: int
) -> None:
    natural = [width for width, _ in columns]
    least = [min(width, NARROWEST) if is_text else width for width, is_text in columns]
    lines = arranged(natural, least, room)
    assert [column for line in lines for column in line] == list(range(len(columns)))
    for number, line in enumerate(lines):
        widths = sum(line.values()) + 2 * (len(line) - 1) + (6 if number else 0)
        assert widths <= room or len(line) == 1
        assert all(least[column] <= width <= natural[column] for column, width in line.items())


@given(st.text("ab 日本 ", max_size=80), st.integers(4, 40))
def test_a_wrapped_text_fits_and_loses_nothing(text: str, room: int) -> None:
    lines = wrapped(text, room)
    assert all(cell_len(line) <= room for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wide_signs_count_twice_when_a_cell_is_cut() -> None:
    assert cut("日本語", 6) == "日本語"
    assert cell_len(fitted("日本語の文", 6, right=False)) == 6
    assert fitted("日本", 6, right=True) == "  日本"


def test_facts_hang_below_their_beginning(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    print_facts([("name", "one two three four five"), ("", "six"), ("hash", "0123456789" * 3)])
    assert capsys.readouterr().out.splitlines() == [
        "name  one two three four five",
        "      six",
        "hash  012345678901234567890123",
        "      456789",
    ]
    print_facts([("a name that leaves no room", "one two three"), ("x", "y")])
    assert capsys.readouterr().out.splitlines() == [
        "a name that leaves no room",
        "      one two three",
        "x",
        "      y",
    ]


def test_a_row_has_no_empty_line_for_cells_that_are_empty(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "24")
    print_table(("turn", "prompt", "answer of it"), [("1", "p" * 30, ""), ("2", "q", "r")])
    assert capsys.readouterr().out.splitlines() == [
        "turn  prompt",
        "      answer of it",
        "1     ppppppppppppppppp…",
        "2     q",
        "      r",
    ]


@pytest.mark.parametrize(
    ("terminal", "environment", "styled"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (False, {"TERM": "xterm"}, False),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_styles_are_for_terminals_that_have_them_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], styled: bool
) -> None:
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert is_styled(stream) == styled


@pytest.mark.usefixtures("ledger")
def test_a_command_that_is_piped_has_styles_only_if_they_are_forced(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[1m" in process("log", FORCE_COLOR="1", TERM="xterm").out
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in done(capsys, "search", "France").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in done(capsys, "log").out


def test_progress_keeps_to_the_terminal_and_says_how_fast_it_goes(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tiny_llama: Path, tmp_path: Path
) -> None:
    """Standard error is a terminal, standard output a file."""
    folder = tmp_path / "ledger"
    with new_ledger(folder, tiny_llama):
        source = write_facts(tmp_path / "facts.json", facts(4))
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    words = ("add-edits", source, "--turn-size", "2", "--no-evaluate", "--ledger", str(folder))
    told = call(capsys, *words)
    assert told.status == 0
    assert "loading the model" in told.err
    assert "editing" in told.err
    assert not re.search(r"\x1b\[[0-9;]*m", told.err)  # the cursor is moved, nothing is coloured
    # What the command tells meanwhile is in the file, and there alone.
    assert "turn 1: 2 edits" in told.out
    assert "turn 2: 2 edits" in told.out
    assert ": 2 edits" not in told.err  # but maybe "32 edits/s"


@pytest.mark.usefixtures("ledger")
def test_no_bars_or_styles_where_nobody_sees_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = on_terminal("verify", columns=80, TERM="dumb")
    assert "checking" not in shown
    assert "\x1b" not in shown
    monkeypatch.setenv("FORCE_COLOR", "1")
    done(capsys, "verify")


@pytest.mark.parametrize(
    ("speed", "unit", "told"),
    [
        (None, "edits", ""),
        (0.0, "edits", ""),
        (2.0, "", ""),
        (1.71, "edits", "1.7 edits/s"),
        (1234.5, "rows", "1,234 rows/s"),
        (0.25, "edits", "4.0 s/edit"),
        (12_300_000.0, "bytes", "12.3 MB/s"),
    ],
)
def test_rates_have_units_that_mean_something(speed: float | None, unit: str, told: str) -> None:
    assert rate(speed, unit) == told


def test_the_time_left_is_told_like_a_clock() -> None:
    assert [span(seconds) for seconds in (0.4, 7, 754, 5025)] == [
        "0:00",
        "0:07",
        "12:34",
        "1:23:45",
    ]


def test_a_sparkline_has_one_scale_for_all_scores() -> None:
    assert sparkline([0.0, 0.49, None, 0.51, 1.0]) == "▁▄·▅█"
    assert sparkline([-0.5, 1.5]) == "▁█"
    assert sparkline([0.0, 0.25, None, 1.0], "-0123456789") == "02-9"


@pytest.mark.usefixtures("ledger")
def test_the_log_draws_the_scores_that_the_turns_were_recorded_with(capsys: Capture) -> None:
    plain = done(capsys, "log").out
    drawn = done(capsys, "log", "--scores").out
    assert drawn.startswith(plain)
    turns = done(capsys, "log", "--json").json()
    assert done(capsys, "log", "--scores", "--json").json() == turns
    table = drawn.removeprefix(plain).strip().splitlines()
    assert re.split(r"\s{2,}", table[0]) == [
        *("score", "turns 1 to 3", "first", "last", "lowest", "highest", "base"),
    ]
    values = [turn["scores"]["state"]["edit_success"] for turn in turns[:2]]
    bases = [turn["scores"]["base"]["edit_success"] for turn in turns[:2]]
    figures = (*values, min(values), max(values), sum(bases) / 2)
    assert re.split(r"\s{2,}", table[1]) == [
        "edit success",
        f"{sparkline(values)}·",
        *(f"{value:.3f}" for value in figures),
    ]
    kept = turns[1]["retention"]["now"]
    last = re.split(r"\s{2,}", table[-1])
    assert last == ["earlier edits kept", f"·{sparkline([kept])}·", *[f"{kept:.3f}"] * 4, "-"]


@pytest.mark.usefixtures("ledger")
def test_scores_are_drawn_in_ascii_where_blocks_cannot_be_written() -> None:
    shown = process("log", "--scores", PYTHONIOENCODING="ascii")
    assert shown.status == 0
    assert shown.out.isascii()
    assert re.search(r"edit success +\d\d- ", shown.out)


def test_turns_without_scores_are_told_of(capsys: Capture) -> None:
    print_scores_over_turns([{"turn": 1, "scores": None, "retention": None}])
    assert capsys.readouterr().out == (
        "\nno scores: none of these turns was evaluated when it was recorded\n"
    )


def test_many_turns_are_drawn_as_means(capsys: Capture) -> None:
    def turn(number: int) -> dict[str, object]:
        success = {"edit_success": 1.0 if number % 2 else 0.0}
        scores = {"state": success, "base": {"edit_success": 0.25}}
        return {"turn": number, "scores": scores, "retention": None}

    print_scores_over_turns([turn(number) for number in range(1, 2001)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "each sign is the mean of 34 turns"
    assert re.split(r"\s{2,}", lines[2]) == [
        "edit success",
        "▅" * 59,
        *("1.000", "0.000", "0.000", "1.000", "0.250"),
    ]


@pytest.mark.usefixtures("ledger")
def test_a_tree_has_no_room_for_scores(capsys: Capture) -> None:
    outcome = call(capsys, "log", "--graph", "--scores")
    assert outcome.status == 2
    assert "--graph shows no scores; leave out --scores" in outcome.err
