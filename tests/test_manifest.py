"""The manifest of a published history: its bytes, and whatever else may come in its place."""

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.main import main
from ledger.chain import content_hash
from ledger.orm import EMPTY
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.sharing.manifest import MANIFEST, parse_manifest
from ledger.sharing.pulling import pull
from ledger.sharing.staging import Push, staged
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditLedgerError, HistoryError, ManifestError
from tests.ledgers import add, contents, copied, facts, new_ledger, write_facts

Json = dict[str, Any]
_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**80, 0.5, float("1e308"), 10**400),
        *("", "x", "../evil", "0" * 64, "\x00", "\x1b[31m", "\u202e", "\ud800", "é" * 300),
        *([], [1], [None], [[]], {}, {"x": 1}, {"base": {}}, ["a", "b"]),
    ]
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A folder with a history of three turns, its facts among it, as a push would send it."""
    folder = tmp_path_factory.mktemp("published")
    source = write_facts(folder / "facts.json", facts(6))
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, source)
        rollback_turn(ledger, 1)
        push = Push(repo="me/edits", form="patch", include_edits=True)
        words = {"repo": "me/edits", "tag": "turn-3"}
        staged(ledger, push, log(ledger), 3, folder / "out", progress=lambda *_: None, **words)
    return folder / "out"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A ledger without turns; read only."""
    with new_ledger(tmp_path_factory.mktemp("empty") / "ledger", tiny_llama) as ledger:
        return ledger.folder


@pytest.fixture
def other(empty: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(empty, tmp_path / "other") as ledger:
        yield ledger


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, but for the list of the base's tensors."""
    if path:
        yield path
    if path[-1:] == ("tensors",) and path[0] == "base":
        return
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield from places(value[key], (*path, key))


def put(manifest: Json, path: tuple[Any, ...], value: Any) -> None:
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value


def hashed_anew(manifest: Json) -> Json:
    """With hashes that fit whatever the turns hold now: whoever writes it can do that too."""
    parent = EMPTY
    for turn in manifest["turns"]:
        turn["content"]["parent"] = parent
        turn["hash"] = parent = content_hash(turn["content"])
    manifest["head"] = parent
    return manifest


def test_equal_histories_have_equal_bytes_and_come_back_as_they_were(published: Path) -> None:
    data = (published / MANIFEST).read_bytes()
    found = parse_manifest(data, "here")
    assert found.encode() == data
    assert [turn.number for turn in found.turns] == [1, 2, 3]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"nonsense", b"\xff\xfe", b"{", b'{"format": "other"}', b"[" * 100_000),
        b'{"format": "edit-ledger-manifest", "version": 1, "version": 1}',
        b'{"format": "edit-ledger-manifest", "version": NaN}',
        b'{"format": "edit-ledger-manifest", "version": 1}',
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^here: "):
        parse_manifest(data, "here")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_odd_value_anywhere_is_refused_or_read_but_never_a_crash(
    published: Path, data: st.DataObject
) -> None:
    manifest = json.loads((published / MANIFEST).read_bytes())
    put(manifest, data.draw(st.sampled_from(list(places(manifest)))), data.draw(_ODD))
    try:
        text = json.dumps(hashed_anew(manifest) if data.draw(st.booleans()) else manifest)
        content = text.encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        return  # the hypothetical writer could not write it
    try:
        found = parse_manifest(content, "here")
    except ManifestError:
        return
    assert parse_manifest(found.encode(), "here") == found


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_what_is_pulled_can_be_shown_and_verified(
    published: Path,
    empty: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    """Values of the right type that nobody expects, with hashes that fit."""
    manifest = json.loads((published / MANIFEST).read_bytes())
    inside = [path for path in places(manifest) if path[:1] == ("turns",) and len(path) > 3]
    put(manifest, data.draw(st.sampled_from(inside)), data.draw(_ODD))
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(published, folder / "history")
    try:
        text = json.dumps(hashed_anew(manifest))
    except (ValueError, TypeError, KeyError, AttributeError):
        return
    (folder / "history" / MANIFEST).write_text(text)
    with copied(empty, folder / "ledger") as ledger:
        before = contents(ledger)
        try:
            pull(ledger, str(folder / "history"), branch="main")
        except EditLedgerError:
            assert contents(ledger) == before
            return
        assert verify(ledger).problems == []
        for turn in log(ledger):
            assert json.dumps(show(ledger, turn.number).to_json())
        for words in (["log"], ["status"], *(["show", str(t.number)] for t in log(ledger))):
            with contextlib.suppress(SystemExit):
                main([*words, "--ledger", str(folder / "ledger")])
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_two_histories_of_one_ledger_do_not_fit_together(
    published: Path, other: Ledger, tmp_path: Path
) -> None:
    pull(other, str(published))
    shutil.copytree(published, tmp_path / "anew")
    manifest = json.loads((published / MANIFEST).read_bytes())
    anew = copy.deepcopy(manifest)
    anew["turns"][2]["content"]["message"] = "another reason"
    (tmp_path / "anew" / MANIFEST).write_text(json.dumps(hashed_anew(anew)))
    before = contents(other)
    with pytest.raises(EditLedgerError, match=r"turn 3 there is another one than .* written anew"):
        pull(other, str(tmp_path / "anew"))
    assert contents(other) == before


def test_a_history_that_claims_to_be_ours_is_refused(
    published: Path, other: Ledger, tmp_path: Path
) -> None:
    shutil.copytree(published, tmp_path / "claims")
    manifest = json.loads((published / MANIFEST).read_bytes())
    for turn in manifest["turns"]:
        turn["origin"] = other.base.ledger_id
    (tmp_path / "claims" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(HistoryError, match="says that it was made in this ledger, which has no"):
        pull(other, str(tmp_path / "claims"))
