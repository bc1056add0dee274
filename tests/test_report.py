"""`ledger report`: one file that tells all, and in which nothing runs and nothing is loaded."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ledger.page.report import Report, report
from ledger.workspace import Ledger
from tests import full_ledgers, told_edits
from tests.command_line import call, done

_LOADING = ("src", "href", "srcset", "data", "action", "poster", "background")
_HOSTILE = '<script>window.ran=1</script>"><img src=x onerror=alert(1)>{{7*7}}'


class _Parsed(HTMLParser):
    """What is in a page. elements: (name, attributes). text: outside of style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger with a row in every table."""
    with full_ledgers.build(tmp_path_factory.mktemp("full")) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def made(full: Ledger) -> Report:
    return report(full)


@pytest.fixture(scope="module")
def page(made: Report) -> _Parsed:
    return _Parsed(made.to_html())


def test_nothing_is_loaded_and_no_script_is_there(page: _Parsed) -> None:
    for name, attributes in page.elements:
        assert name not in ("script", "iframe", "object", "embed", "link", "base", "form"), name
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in _LOADING:
                assert value.startswith("data:image/svg+xml;base64,"), (name, key, value[:60])
    [policy] = [
        attributes["content"]
        for name, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_it_tells_every_turn_fact_dataset_and_publication(page: _Parsed, made: Report) -> None:
    content = made.to_json()
    assert [point["turn"] for point in content["timeline"]["points"]] == [1, 2, 3, 4, 5]
    for expected in (
        *(point["hash"][:12] for point in content["timeline"]["points"]),
        *(edit["prompt"] for edits in content["examples"].values() for edit in edits),
        *(origin["sha256"] for origin in content["origins"]),
        *(one["repo"] for one in content["publications"]),
        content["status"]["fingerprint"],
        content["journal"],
    ):
        assert expected in page.text, expected
    assert content["origins"]
    assert content["publications"]


def test_every_chart_is_there_in_all_forms_with_words_for_it(page: _Parsed) -> None:
    images = [attributes for name, attributes in page.elements if name == "img"]
    others = [attributes["media"] for name, attributes in page.elements if name == "source"]
    assert len(images) == 4
    assert len(others) == 3 * len(images)
    assert all(len(image["alt"]) > 10 for image in images)
    assert sum("prefers-color-scheme: dark" in media for media in others) == 2 * len(images)
    assert sum("max-width" in media for media in others) == 2 * len(images)


def test_a_history_that_was_altered_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(ledger, [told_edits.edit("a", "b")])
        victim = next((ledger.folder / "patches").rglob("*.safetensors"))
        victim.chmod(0o644)
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)
    out = tmp_path / "report.html"
    words = ("--ledger", str(ledger.folder), "--no-weights", "--out", str(out))
    said = call(capsys, "report", *words)
    assert said.status == 1
    assert "look at: 1 problem of the history itself" in said.out
    page = _Parsed(out.read_text(encoding="utf-8"))
    assert "The history is not as it was recorded" in page.text


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(
            ledger,
            [told_edits.edit(f"{_HOSTILE} is", f"{_HOSTILE}\u202e"), told_edits.edit("a", "b")],
            [told_edits.edit("a", _HOSTILE)],
            message=_HOSTILE,
        )
        page = _Parsed(report(ledger, weights=False, title=_HOSTILE).to_html())
    names = {name for name, _ in page.elements}
    assert "script" not in names
    assert not [a for name, a in page.elements if name == "img" and "onerror" in a]
    assert page.text.count(_HOSTILE) >= 6
    assert "\\u202e" in page.text
    assert "\u202e" not in page.text


def test_an_empty_ledger_has_a_report(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        page = _Parsed(report(ledger).to_html())
    assert "0 edits in force" in page.text
    assert "No turn has a dataset" in page.text


def test_the_command_writes_the_file_and_says_what_is_in_it(
    full: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    words = ("--ledger", str(full.folder), "--no-weights", "--out", str(out))
    said = done(capsys, "report", *words)
    assert str(out) in said.out
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_gives_the_content_as_json_and_leaves_out_what_is_not_wanted(
    full: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("report", "--ledger", str(full.folder), "--json", "--no-verify", "--no-weights")
    content = done(capsys, *words, "--last", "2").json()
    assert content["verified"] is None
    assert content["weights"] is None
    assert [point["turn"] for point in content["timeline"]["points"]] == [4, 5]


@pytest.mark.parametrize("place", ["no/such/folder/report.html", "."])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    full: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    said = call(capsys, "report", "--ledger", str(full.folder), "--out", str(tmp_path / place))
    assert said.status == 2
    assert str(tmp_path) in said.err
    assert not list(tmp_path.iterdir())


def test_the_report_is_the_same_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    with full_ledgers.build(tmp_path / "one", postgres_url) as ledger:
        there = report(ledger, weights=False).to_json()
    assert there["verified"]["ok"]
    assert len(there["timeline"]["points"]) == 5
