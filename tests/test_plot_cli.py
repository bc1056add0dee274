"""`ledger plot`: what it writes, what it says of it, and what it refuses."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ledger.plots import FORMATS, KINDS
from ledger.rolling_back import rollback_turn
from tests.command_line import call, done
from tests.ledgers import add, facts, new_ledger, write_facts

Capture = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"
STARTS = {"svg": b"<svg ", "png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A ledger of two turns of edits and a rollback."""
    found = tmp_path_factory.mktemp("plots") / "ledger"
    with new_ledger(found, tiny_llama) as made:
        add(made, write_facts(found.parent / "facts.json", facts(4)), turn_size=2)
        rollback_turn(made, 1)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_draws_every_kind_from_a_real_history(
    capsys: Capture, folder: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "chart.svg"
    words = ("plot", kind, "--ledger", str(folder), "--out", str(out))
    told = done(capsys, *words).out.splitlines()
    content = done(capsys, *words, "--json").json()
    assert told[0].startswith(f"{out}: {kind}, ")
    assert told[2:] == [f"note: {note}" for note in content["notes"]]
    assert told[1] == ElementTree.fromstring(out.read_bytes()).findtext(f"{SVG}title")


def test_the_command_writes_what_the_name_ends_in_over_what_is_there(
    capsys: Capture, folder: Path, tmp_path: Path
) -> None:
    for form in FORMATS:
        out = tmp_path / f"chart.{form}"
        out.write_text("an older one")
        words = ("plot", "scores", "--ledger", str(folder), "--out", str(out))
        done(capsys, *words, "--dpi", "40", "--dark")
        assert out.read_bytes().startswith(STARTS[form])
    assert {path.name for path in tmp_path.iterdir()} == {f"chart.{form}" for form in FORMATS}


def test_the_command_s_json_is_what_the_chart_shows(capsys: Capture, folder: Path) -> None:
    words = ("plot", "timeline", "--ledger", str(folder), "--json")
    content = done(capsys, *words).json()
    shown = [(p["turn"], p["kind"], p["undoes"], p["edits_in_force"]) for p in content["points"]]
    assert shown == [(1, "edit", [], 2), (2, "edit", [], 4), (3, "rollback", [1], 2)]
    last = done(capsys, *words, "--last", "2").json()
    assert [p["turn"] for p in last["points"]] == [2, 3]


def test_the_command_writes_the_size_that_it_is_told(
    capsys: Capture, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "CHART.SVG"
    words = ("plot", "scores", "--ledger", str(folder), "--out", str(out))
    done(capsys, *words, "--width", "5", "--height", "6")
    root = ElementTree.fromstring(out.read_bytes())
    assert (root.get("width"), root.get("height")) == ("360pt", "432pt")


def test_a_chart_goes_to_where_a_link_leads(capsys: Capture, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.svg"
    link.symlink_to(tmp_path / "there" / "chart.svg")
    done(capsys, "plot", "scores", "--ledger", str(folder), "--out", str(link))
    assert link.is_symlink()
    assert (tmp_path / "there" / "chart.svg").read_bytes().startswith(STARTS["svg"])


def test_a_chart_that_cannot_be_written_leaves_the_old_one(
    capsys: Capture, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "chart.svg"
    out.write_text("an older one")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr("os.fsync", refuse)
    failed = call(capsys, "plot", "scores", "--ledger", str(folder), "--out", str(out))
    assert (failed.status, failed.out) == (1, "")
    assert "No space left" in failed.err
    assert [path.name for path in tmp_path.iterdir()] == ["chart.svg"]
    assert out.read_text() == "an older one"


def test_the_command_refuses_before_it_works(capsys: Capture, tmp_path: Path) -> None:
    for out, why in (("chart.gif", "ends in one of"), ("no/chart.svg", "there is no folder")):
        nowhere = str(tmp_path / "no ledger is here")
        failed = call(capsys, "plot", "scores", "--ledger", nowhere, "--out", str(tmp_path / out))
        assert failed.status == 2
        assert why in failed.err
