"""`ledger log` finds turns: by edits, data, time, method, kind, scores and what is in force."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.datasets import Dataset
from ledger.finding import Wanted, moment
from ledger.new_turn import Blob, NewEvaluation, NewTurn, RecordedEdit
from ledger.recording import record_turn, record_turns
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.sharing.pulling import pull
from ledger.workspace import Ledger, open_ledger
from patches.edit import Edit
from patches.errors import SettingError
from patches.patch import PatchHeader, describe, encode_patch
from tests import plain_ledgers
from tests.command_line import call, done
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.test_push import push

Capture = pytest.CaptureFixture[str]
HIRST, DARRIEUX = "Damien Hirst", "Danielle Darrieux"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_ledgers.build(tmp_path_factory.mktemp("filters") / "model")


@pytest.fixture
def ledger(tmp_path: Path, model: Path, database_url: str) -> Iterator[Ledger]:
    """Turns 1 to 4 of edits, 5 undoes 2, 6 is an import. Turn 4 has no scores."""
    capitals = dataset("/data/Capitals.json", "ab" * 32)
    people = dataset("hf://someone/people", "cd" * 32)
    with plain_ledgers.new_ledger(tmp_path / "ledger", model, database_url) as made:
        record(made, [edit("France", "Rome"), edit("Japan", "Kyoto")], capitals, success=1.0)
        record(made, [edit("France", "Lyon")], capitals, success=0.5, method="wise")
        record(made, [tongue(DARRIEUX, "English"), tongue(HIRST, "Rome")], people, success=0.75)
        record(made, [tongue(DARRIEUX, "Zürich"), edit("Perú", "!?")], None)
        rollback_turn(made, 2)
        plain_ledgers.add_several(made, 1)
        yield made


def dataset(uri: str, digest: str) -> Dataset:
    return Dataset(
        uri=uri, revision=None, sha256=digest, format="json", layout="canonical", licence=None
    )


def edit(country: str, target: str) -> Edit:
    return Edit(prompt=f"The capital of {country} is", target=target, subject=country)


def tongue(person: str, target: str) -> Edit:
    return Edit(prompt=f"The mother tongue of {person} is", target=target, subject=person)


def record(
    ledger: Ledger,
    edits: Sequence[Edit],
    source: Dataset | None,
    *,
    success: float | None = None,
    method: str = "ultraedit",
) -> None:
    """Record a turn of these edits, which gets this edit success."""
    turns = plain_ledgers.line(ledger)
    changes = {plain_ledgers.FIRST: plain_ledgers.change(plain_ledgers.FIRST, "sparse", len(turns))}
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=method,
        hyperparameters={},
        turn=len(turns) + 1,
        parent=turns[-1].patch_digest if turns else None,
    )
    content = encode_patch(header, changes)
    described = {name: describe(change).to_json() for name, change in changes.items()}
    record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].id if turns else None,
            kind="edit",
            method=method,
            seed=0,
            message="",
            dataset=source,
            edits=[RecordedEdit(edit=one, row=row) for row, one in enumerate(edits)],
            patch=Blob(digest=ledger.store.put(content), bytes=len(content), changes=described),
            evaluation=None if success is None else scores(success, len(edits)),
        ),
    )


def scores(success: float, count: int) -> NewEvaluation:
    return NewEvaluation(
        protocol={},
        seed=0,
        base={"edit_success": 0.0},
        state={"edit_success": success},
        outcomes=[({"edit_success": 0.0}, {"edit_success": success})] * count,
        environment={},
        seconds=0.0,
    )


def numbers(ledger: Ledger, **wanted: Any) -> list[int]:
    return [turn.number for turn in log(ledger, wanted=Wanted(**wanted))]


def test_turns_are_found_by_what_one_of_their_edits_is_about(ledger: Ledger) -> None:
    france, darrieux = "The capital of France is", f"The mother tongue of {DARRIEUX} is"
    expected: tuple[tuple[dict[str, str], list[int]], ...] = (
        ({"subject": "France"}, [1, 2]),
        ({"subject": DARRIEUX}, [3, 4]),
        ({"subject": "france"}, []),
        ({"subject": "Danielle"}, []),
        ({"subject": f" {DARRIEUX.replace(' ', '  ')} "}, [3, 4]),
        ({"subject": "Peru\u0301"}, [4]),
        ({"prompt": france}, [1, 2]),
        ({"prompt": f"  {darrieux} "}, [3, 4]),
        ({"prompt": "The capital of"}, []),
        ({"target": "Rome"}, [1, 3]),
        ({"target": "rome"}, []),
        ({"target": "France"}, []),
        ({"target": "Zu\u0308rich"}, [4]),
        ({"target": "!?"}, [4]),
        ({"target": '"Lyon"'}, []),
        ({"subject": "France", "target": "Rome"}, [1]),
        ({"subject": "Japan", "target": "Rome"}, []),
        ({"prompt": darrieux, "subject": DARRIEUX, "target": "English"}, [3]),
        ({"prompt": darrieux, "subject": HIRST}, []),
    )
    for wanted, turns in expected:
        assert numbers(ledger, **wanted) == turns, wanted


def test_turns_are_found_by_their_data(ledger: Ledger) -> None:
    for text, turns in (
        ("capitals", [1, 2]),
        ("/data/Capitals.json", [1, 2]),
        ("someone", [3]),
        ("abab", [1, 2]),
        ("CDCD", [3]),
        ("bab", []),
        ("%", []),
    ):
        assert numbers(ledger, dataset=text) == turns, text


def test_turns_are_found_by_method_kind_and_state(ledger: Ledger) -> None:
    assert numbers(ledger, method="ultraedit") == [1, 3, 4]
    assert numbers(ledger, method="wise") == [2]
    assert numbers(ledger, method="lora") == []
    assert numbers(ledger, kind="edit") == [1, 2, 3, 4]
    assert numbers(ledger, kind="rollback") == [5]
    assert numbers(ledger, in_force=True) == [1, 3, 4, 5, 6]
    assert numbers(ledger, in_force=True, subject="France") == [1]


def test_turns_are_found_by_the_scores_that_were_recorded_with_them(ledger: Ledger) -> None:
    assert numbers(ledger, min_score=0.75) == [1, 3]
    assert numbers(ledger, max_score=0.75) == [2, 3]
    assert numbers(ledger, min_score=0.6, max_score=0.8) == [3]
    assert numbers(ledger, min_score=0.0) == [1, 2, 3]
    assert numbers(ledger, min_score=1.1) == []


def test_turns_are_found_by_when_they_were_recorded(ledger: Ledger) -> None:
    when = [turn.row.created_at for turn in log(ledger)]
    assert numbers(ledger, since=when[2]) == [3, 4, 5, 6]
    assert numbers(ledger, until=when[2]) == [1, 2, 3]
    assert numbers(ledger, since=when[1], until=when[3], kind="edit") == [2, 3, 4]
    assert numbers(ledger, since=when[-1] + timedelta(seconds=1)) == []
    elsewhere = when[2].astimezone(datetime.strptime("+0530", "%z").tzinfo)
    assert numbers(ledger, since=elsewhere) == [3, 4, 5, 6]


def test_of_what_is_found_only_the_last_are_told(ledger: Ledger) -> None:
    found = log(ledger, last=1, wanted=Wanted(subject="France"))
    assert [turn.to_json() for turn in found] == [log(ledger)[1].to_json()]
    assert numbers(ledger) == [1, 2, 3, 4, 5, 6]


NOW = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("3d", "2026-03-26T12:00", "2026-03-26T12:00"),
        ("90m", "2026-03-29T10:30", "2026-03-29T10:30"),
        ("2w", "2026-03-15T12:00", "2026-03-15T12:00"),
        ("1h", "2026-03-29T11:00", "2026-03-29T11:00"),
        ("2026-03-01", "2026-03-01T00:00", "2026-03-01T23:59:59.999999"),
        ("2026-03-01 08:30", "2026-03-01T08:30", "2026-03-01T08:30"),
        ("2026-03-01T08:30:15+02:00", "2026-03-01T06:30:15", "2026-03-01T06:30:15"),
        ("2026-03-01T08:30Z", "2026-03-01T08:30", "2026-03-01T08:30"),
    ],
)
def test_a_time_is_a_moment_in_utc_or_so_long_ago(text: str, begin: str, end: str) -> None:
    found = (moment(text, NOW), moment(text, NOW, is_end=True))
    assert found == tuple(datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (begin, end))


@pytest.mark.parametrize("text", ["", "yesterday", "3", "3y", "-3d", "2026-13-01", "999999w"])
def test_what_is_no_time_is_told_so(text: str) -> None:
    with pytest.raises(SettingError, match=r"is no time; write e\.g\. 2026-03-29"):
        moment(text, NOW)


@pytest.mark.usefixtures("hub")
def test_of_a_pulled_history_what_was_published_is_found(tmp_path: Path, tiny_llama: Path) -> None:
    source = write_facts(tmp_path / "people.json", facts(4))
    with new_ledger(tmp_path / "theirs", tiny_llama) as theirs:
        add(theirs, source, turn_size=2)
        push(theirs, "me/edits", "patch")
        all_scores = [(turn.scores or {})["state"]["edit_success"] for turn in log(theirs)]
    with new_ledger(tmp_path / "ours", tiny_llama) as ours:
        pull(ours, "me/edits", branch="theirs")
        ours.branch = "theirs"
        assert numbers(ours, dataset="people") == [1, 2]
        assert numbers(ours, dataset="places") == []
        assert numbers(ours, min_score=min(all_scores), max_score=max(all_scores)) == [1, 2]
        assert numbers(ours, min_score=1.1) == []
        # Its texts were kept back.
        assert numbers(ours, subject="France") == []


def shown(capsys: Capture, ledger: Ledger, *words: str) -> list[int]:
    told = done(capsys, "log", "--json", "--ledger", str(ledger.folder), *words).json()
    return [turn["turn"] for turn in told]


def test_the_command_takes_every_filter(capsys: Capture, ledger: Ledger) -> None:
    for words, turns in (
        (["--subject", DARRIEUX, "--target", "English"], [3]),
        (["--prompt", "The capital of Japan is"], [1]),
        (["--dataset", "capitals", "--method", "wise"], [2]),
        (["--since", "1h", "--kind", "import"], [6]),
        (["--until", "1h"], []),
        (["--until", f"{datetime.now(UTC):%Y-%m-%d}"], [1, 2, 3, 4, 5, 6]),
        (["--min-score", "0.7", "--max-score", "0.8"], [3]),
        (["--in-force", "--subject", "France"], [1]),
        (["--last", "2", "--kind", "edit"], [3, 4]),
        (["--all"], [1, 2, 3, 4, 5, 6]),
    ):
        assert shown(capsys, ledger, *words) == turns, words


def test_the_table_has_the_turns_that_match(capsys: Capture, ledger: Ledger) -> None:
    where = ("--ledger", str(ledger.folder))
    lines = done(capsys, "log", "--subject", "France", *where).out.splitlines()
    assert [line.split()[0] for line in lines] == ["turn", "1", "2"]
    assert done(capsys, "log", "--subject", "Nobody", *where).out == "no turn matches\n"
    assert done(capsys, "log", "--subject", "Nobody", "--json", *where).json() == []


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "soon"],
        ["--kind", "other"],
        ["--subject", " "],
        ["--min-score", "high"],
        ["--last", "2", "--all"],
    ],
)
def test_a_filter_that_makes_no_sense_is_wrong_usage(
    capsys: Capture, tmp_path: Path, model: Path, words: list[str]
) -> None:
    plain_ledgers.new_ledger(tmp_path / "ledger", model).close()
    outcome = call(capsys, "log", *words, "--ledger", str(tmp_path / "ledger"))
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_the_table_shows_a_hundred_turns_and_says_how_many_there_are_before(
    capsys: Capture, tmp_path: Path, model: Path
) -> None:
    with plain_ledgers.new_ledger(tmp_path / "ledger", model) as long:
        # Every second one undoes the one before it.
        turns = [
            NewTurn(
                parent=None,
                kind="rollback",
                seed=0,
                message="",
                undoes_new=[place - 1] if place % 2 else [],
            )
            for place in range(103)
        ]
        record_turns(long, turns)
    where = ("--ledger", str(tmp_path / "ledger"))
    lines = done(capsys, "log", *where).out.splitlines()
    assert lines[0] == "3 earlier turns: --all, or --last N"
    assert (len(lines), lines[2].split()[0], lines[-1].split()[0]) == (102, "4", "103")
    assert len(done(capsys, "log", "--all", *where).out.splitlines()) == 104
    assert len(done(capsys, "log", "--last", "103", *where).out.splitlines()) == 104
    assert len(done(capsys, "log", "--in-force", *where).out.splitlines()) == 53
    assert len(done(capsys, "log", "--json", *where).json()) == 103
    with open_ledger(tmp_path / "ledger") as again:
        assert [turn.number for turn in log(again, last=2)] == [102, 103]
