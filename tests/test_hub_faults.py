"""Pushing and pulling while the Hub refuses, breaks off or is raced: a clear error, nothing half
done, and the same call works once the fault is gone."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.sharing.pulling import clone, pull
from ledger.workspace import Ledger
from patches.errors import HubError
from tests.command_line import call, done
from tests.faults import Command
from tests.hub_scenes import (
    FETCHED,
    REPO,
    check_pulled,
    check_pushed,
    failing,
    kept,
    make_ledgers,
    no_waiting,
    published,
)
from tests.ledgers import copied
from tests.loopback_hub import TOKEN, Hub
from tests.test_push import push

# What to do, as the message says it.
ADVICE = {
    401: "log in with: hf auth login",
    403: "check its permissions",
    404: "check the name",
    409: "try again",
    412: "someone else has committed meanwhile",
    413: "larger than the Hub takes",
    429: "asks to wait 7 s; run the command again then",
    500: "run the command again later",
    503: "run the command again later",
}
PUSHING = {
    "looking": ("GET", "/revision/main"),
    "creating": ("POST", "/repos/create"),
    "asking how to send": ("POST", "/preupload/"),
    "asking where to send": ("POST", "/objects/batch"),
    "sending": ("PUT", "/storage/"),
    "committing": ("POST", "/commit/"),
}
TAGGING = {"looking for tags": ("GET", "/refs"), "tagging": ("POST", "/tag/")}
PULLING = {
    "looking": ("GET", "/revision/main"),
    "asking for the manifest": ("HEAD", "manifest.json"),
    "getting the manifest": ("GET", "manifest.json"),
    "asking for a patch": ("HEAD", "/patches/"),
    "getting a patch": ("GET", "/patches/"),
    "getting a state": ("GET", "/states/"),
}
FORMS = ("model", "patch")


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return no_waiting(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return make_ledgers(tmp_path_factory.mktemp("made"), tiny_llama)


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Two turns."""
    with copied(made / "full", tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def other(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """No turns."""
    with copied(made / "empty", tmp_path / "other") as ledger:
        yield ledger


def check(error: pytest.ExceptionInfo[HubError], status: int) -> None:
    text = str(error.value)
    assert text.startswith(REPO), text
    assert f"the Hub answers {status} (" in text
    assert ADVICE[status] in text
    assert "\n" not in text
    assert TOKEN not in text


def refusals(step: str, form: str = "patch") -> list[int]:
    """Where a repository is looked for, 404 is an answer, and so is 409 where it is made.

    Of a model only some: it passes where a patch does.
    """
    meant = {"looking": 404, "creating": 409}.get(step)
    return [status for status in ADVICE if status != meant][:: 4 if form == "model" else 1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", PUSHING)
def test_a_refused_push_leaves_nothing_and_the_next_one_is_whole(
    hub: Hub, ledger: Ledger, step: str, form: str
) -> None:
    before, wait = kept(ledger), {"Retry-After": "7"}
    for status in refusals(step, form):
        fault = failing(hub, *PUSHING[step], status=status, headers=wait)
        with fault, pytest.raises(HubError) as error:
            push(ledger, REPO, form)
        check(error, status)
        assert published(hub) == {}
        assert kept(ledger) == before
    check_pushed(hub, ledger, push(ledger, REPO, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", TAGGING)
def test_a_tag_that_is_refused_is_said_to_be_missing_and_made_by_the_next_push(
    hub: Hub, ledger: Ledger, step: str, form: str
) -> None:
    before = kept(ledger)
    for status in refusals(step, form):
        fault = failing(hub, *TAGGING[step], status=status, headers={"Retry-After": "7"})
        with fault, pytest.raises(HubError, match="on the Hub, but not tagged and recorded yet"):
            push(ledger, REPO, form)
        there = hub.repository(REPO)
        assert (len(there.commits()), there.tags) == (2, {})
        assert kept(ledger) == before
    again = push(ledger, REPO, form)
    assert not again.new
    check_pushed(hub, ledger, again)


@pytest.mark.parametrize("step", PULLING)
def test_a_refused_pull_records_nothing_and_the_next_one_brings_all(
    hub: Hub, ledger: Ledger, other: Ledger, step: str
) -> None:
    push(ledger, REPO, "patch")
    before, there = kept(other, *FETCHED), published(hub)
    for status in refusals(step):
        fault = failing(hub, *PULLING[step], status=status, headers={"Retry-After": "7"})
        with fault, pytest.raises(HubError) as error:
            pull(other, REPO)
        check(error, status)
        assert kept(other, *FETCHED) == before
    assert pull(other, REPO).turns == [1, 2]
    check_pulled(ledger, other)
    assert published(hub) == there


@pytest.mark.parametrize(
    ("step", "exists"),
    [
        ("looking", True),
        ("getting the manifest", True),
        ("getting a patch", True),
        ("getting a state", False),
    ],
)
def test_a_refused_clone_leaves_no_ledger_behind(
    hub: Hub, ledger: Ledger, tiny_llama: Path, tmp_path: Path, step: str, exists: bool
) -> None:
    push(ledger, REPO, "patch")
    goal = tmp_path / "clone"
    if exists:
        goal.mkdir()
    with failing(hub, *PULLING[step], status=500), pytest.raises(HubError) as error:
        clone(REPO, folder=goal, model=str(tiny_llama))
    check(error, 500)
    assert goal.exists() == exists
    cloned, _ = clone(REPO, folder=goal, model=str(tiny_llama))
    with cloned:
        check_pulled(ledger, cloned, "main")


def test_the_client_waits_as_long_as_the_hub_asks(
    hub: Hub, ledger: Ledger, waits: list[float]
) -> None:
    hub.fail("PUT", "/storage/", status=429, headers={"Retry-After": "7"})
    check_pushed(hub, ledger, push(ledger, REPO))
    assert waits == [8.0]  # rounded up


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "asks to wait; run"),
        ({"Retry-After": "Fri, 01 Jan 2027 00:00:00 GMT"}, "wait until Fri, 01 Jan 2027 00"),
        ({"ratelimit": '"api";r=0;t=55'}, "asks to wait 55 s; run"),
    ],
)
def test_how_long_to_wait_is_told_however_the_hub_says_it(
    hub: Hub, ledger: Ledger, headers: dict[str, str], said: str
) -> None:
    hub.fail("GET", "/revision/", status=429, headers=headers)
    with pytest.raises(HubError, match=re.escape(said)):
        push(ledger, REPO)


@pytest.mark.parametrize("step", PUSHING)
def test_a_push_without_answers_leaves_nothing_and_the_next_one_is_whole(
    hub: Hub, ledger: Ledger, step: str
) -> None:
    before = kept(ledger)
    cuts: list[dict[str, Any]] = [{}] if step == "looking" else [{}, {"after_bytes": 20}]
    for cut in cuts:
        fault = failing(hub, *PUSHING[step], drop=True, **cut)
        with fault, pytest.raises(HubError, match=f"{REPO}: the Hub does not answer .* check the"):
            push(ledger, REPO)
        assert published(hub) == {}
        assert kept(ledger) == before
    check_pushed(hub, ledger, push(ledger, REPO))


@pytest.mark.parametrize("step", [*PUSHING, *TAGGING])
def test_an_answer_that_got_lost_once_does_not_lead_to_a_second_commit(
    hub: Hub, ledger: Ledger, step: str
) -> None:
    hub.fail(*{**PUSHING, **TAGGING}[step], drop=True, handled=True)
    if step in ("looking", "creating", "looking for tags"):
        with pytest.raises(HubError, match="the Hub does not answer"):
            push(ledger, REPO)
    check_pushed(hub, ledger, push(ledger, REPO))


def test_a_hub_that_is_gone_after_the_commit_leads_to_no_second_commit(
    hub: Hub, ledger: Ledger
) -> None:
    hub.fail("POST", "/commit/", drop=True, handled=True)
    hub.after("POST", "/commit/", lambda: hub.fail("GET", "/revision/", status=503))
    with pytest.raises(HubError, match="the Hub does not answer"):
        push(ledger, REPO)
    again = push(ledger, REPO)
    assert not again.new
    check_pushed(hub, ledger, again)


@pytest.mark.parametrize("status", [None, 500])
def test_a_large_file_that_cannot_be_checked_is_not_committed(
    hub: Hub, ledger: Ledger, status: int | None
) -> None:
    """It is there by then: the next push finds it, and need not send it."""
    fault = failing(hub, "POST", "/verify$", status=status, drop=status is None)
    with fault, pytest.raises(HubError, match=f"{REPO}: the Hub"):
        push(ledger, REPO)
    assert published(hub) == {}
    del hub.requests[:]
    check_pushed(hub, ledger, push(ledger, REPO))
    assert "PUT" not in [request.method for request in hub.requests]


@pytest.mark.parametrize("times", [1, 3])
def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: Hub, ledger: Ledger, other: Ledger, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(ledger, REPO, "patch")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    hub.fail("GET", "/patches/", drop=True, after_bytes=500, times=times)
    assert pull(other, REPO).turns == [1, 2]
    check_pulled(ledger, other)
    goes_on = [r.headers["range"] for r in hub.requests if "range" in r.headers]
    assert goes_on == [f"bytes={500 * (n + 1)}-" for n in range(times)]


@pytest.mark.parametrize("step", [step for step in PULLING if step.startswith("getting")])
def test_a_download_that_always_breaks_off_is_given_up_and_the_next_pull_is_whole(
    hub: Hub, ledger: Ledger, other: Ledger, step: str
) -> None:
    push(ledger, REPO, "patch")
    before = kept(other, *FETCHED)
    fault = failing(hub, *PULLING[step], drop=True, after_bytes=500)
    with fault, pytest.raises(HubError, match=f"{REPO}, file .*: the Hub does not answer"):
        pull(other, REPO)
    assert kept(other, *FETCHED) == before
    assert pull(other, REPO).turns == [1, 2]
    check_pulled(ledger, other)


@pytest.mark.parametrize(
    ("command", "step", "status"),
    [("push", "committing", 412), ("clone", "getting a patch", 403)],
)
def test_a_refused_command_says_so_in_one_line(
    hub: Hub, ledger: Ledger, tiny_llama: Path, tmp_path: Path, command: str, step: str, status: int
) -> None:
    words: tuple[str, ...] = (command, REPO, "--ledger", str(ledger.folder))
    if command == "clone":
        push(ledger, REPO, "patch")
        words = (*words[:-1], str(tmp_path / "clone"), "--model", str(tiny_llama))
    fault = {**PUSHING, **PULLING}[step]
    with failing(hub, *fault, status=status):
        ended = Command(words=words, folder=ledger.folder, endpoint=hub.endpoint).run()
    assert ended.status == 1
    [line] = ended.said.splitlines()
    assert line.startswith(f"error: {REPO}")
    assert f"the Hub answers {status} (" in line
    assert ADVICE[status] in line


@pytest.mark.parametrize("step", ["looking", "committing", "tagging"])
def test_a_push_that_fails_prints_an_error_and_no_json(
    hub: Hub, ledger: Ledger, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    with failing(hub, *{**PUSHING, **TAGGING}[step], drop=True):
        ended = call(capsys, "push", REPO, "--json", "--ledger", str(ledger.folder))
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith(f"error: {REPO}: the Hub does not answer (")
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("hub")
def test_what_is_printed_as_json_is_all_that_was_done(
    ledger: Ledger,
    other: Ledger,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = ("--ledger", str(ledger.folder), "--as", "patch", "--json")
    plan = done(capsys, "push", REPO, *there, "--dry-run").json()
    pushed = done(capsys, "push", REPO, *there).json()
    pulled = done(capsys, "pull", REPO, "--json", "--ledger", str(other.folder)).json()
    place = ("--ledger", str(tmp_path / "clone"), "--model", str(tiny_llama))
    cloned = done(capsys, "clone", REPO, "--json", *place).json()
    common = {"repo", "form", "revision", "turn", "hash", "tag", "files", "bytes", "notes"}
    common |= {"changed_files", "changed_bytes", "dry_run"}
    assert set(plan) == common | {"new_repository", "list", "deleted"}
    assert set(pushed) == common | {"commit", "new_commit"}
    assert {key: plan[key] for key in common - {"dry_run"}}.items() <= pushed.items()
    brought = {"source", "commit", "branch", "turn", "hash", "turns", "edits", "completed"}
    brought |= {"withheld", "bytes", "signed"}
    assert set(pulled) == brought
    assert set(cloned) == brought | {"ledger", "fingerprint"}
    assert pulled["commit"] == cloned["commit"] == pushed["commit"]
    assert pulled["hash"] == cloned["hash"] == pushed["hash"]
    assert (pulled["branch"], cloned["branch"]) == (REPO, "main")
