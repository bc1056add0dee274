"""`ledger serve` as a command: where it listens, what it prints, how it ends, and that it only
reads."""

import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener, urlopen

import pytest

from cli.serving import _open
from ledger.branching import create_branch, create_tag
from ledger.page.app import create_app
from ledger.page.listening import LOOPBACK, address, checked_token, is_loopback, listen, names
from ledger.rolling_back import rollback_turn
from ledger.workspace import open_ledger
from patches.errors import SettingError
from tests.command_line import LEDGER, Outcome, call
from tests.ledgers import add, facts, files, write_facts
from tests.ledgers import new_ledger as new_llama_ledger
from tests.serving import Served, Site, end, serving, serving_here, start
from tests.told_edits import edit, new_ledger, record

TOKEN = "a-token_of.16~letters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of one turn, and of one more on branch side."""
    with new_ledger(tmp_path_factory.mktemp("serve")) as ledger:
        record(ledger, [edit("Lima is in", "Peru")])
        create_branch(ledger, "side")
        ledger.branch = "side"
        record(ledger, [edit("Quito is in", "Ecuador")])
        return ledger.folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A server of it that nobody ends meanwhile."""
    with serving(folder) as running:
        yield running


# Start and end


def test_it_prints_where_it_is_with_a_new_token_until_it_is_interrupted(
    folder: Path, served: Site
) -> None:
    running = subprocess.Popen(
        [str(LEDGER), "serve", "--ledger", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    try:
        link, stop = running.stdout.readline(), running.stdout.readline()
        build_opener(HTTPCookieProcessor()).open(link.strip(), timeout=60).close()
        url, _, token = link.strip().partition("?token=")
        other = Site(url=url, token=token)
        assert other.token != served.token
        assert other.ask("/", Authorization=f"Bearer {served.token}").status == 401
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}\n", link)
    assert stop == "stop with Ctrl-C\n"
    assert running.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urlopen(link.strip(), timeout=60)


def test_its_token_is_kept_nowhere(folder: Path, served: Served) -> None:
    assert served.ask("/").status == 200
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert served.token.encode() not in kept


def test_a_taken_port_is_named_with_the_way_out(
    capsys: pytest.CaptureFixture[str], folder: Path, served: Served
) -> None:
    words = ("serve", "--ledger", str(folder), "--port", str(served.port))
    outcome = call(capsys, *words)
    assert (outcome.status, outcome.out) == (2, "")
    assert f"port {served.port} of 127.0.0.1: another program listens there" in outcome.err
    assert "--port 0" in outcome.err


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "a b", "", "\u202e", "1" * 300])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(SettingError, match=r"--host"):
        listen(host, 0)


# Names and addresses


def test_on_loopback_it_has_the_names_of_this_machine_for_itself() -> None:
    with listen("localhost", 0) as at:
        assert is_loopback(at)
        assert names("localhost", at) == LOOPBACK
        assert address("localhost", at) == f"http://localhost:{at.getsockname()[1]}/"


def test_on_every_address_it_has_the_name_of_the_machine_too() -> None:
    with listen("0.0.0.0", 0) as at:
        assert not is_loopback(at)
        assert names("0.0.0.0", at) > LOOPBACK | {socket.gethostname().lower()}
        assert address("0.0.0.0", at).startswith("http://127.0.0.1:")


def test_an_address_with_colons_is_written_in_brackets() -> None:
    try:
        at = listen("::1", 0)
    except SettingError:
        pytest.skip("no IPv6 here")
    with at:
        assert is_loopback(at)
        assert address("::1", at).startswith("http://[::1]:")


def test_reachable_from_elsewhere_it_warns_and_takes_the_token_of_the_option(folder: Path) -> None:
    running = start(folder, "--host", "0.0.0.0", "--token", TOKEN)
    assert running.token == TOKEN
    assert running.ask("/").status == 200
    status, said = end(running)
    assert status == 0
    assert said.startswith("warning: whoever reaches")
    assert running.token not in said
    assert said.count("\n") == 1


# The token


def test_a_token_of_ones_own_comes_from_the_environment_and_the_branch_from_an_option(
    folder: Path,
) -> None:
    """The branch is shown where an address names none."""
    running = start(folder, "--branch", "side", LEDGER_SERVE_TOKEN=TOKEN)
    assert running.token == TOKEN
    assert running.ask("/turns.json").json()["page"]["total"] == 2
    assert running.ask("/turns.json?branch=main").json()["page"]["total"] == 1
    assert end(running) == (0, "")


@pytest.mark.parametrize("token", ["short-secret", "sixteen secret!!", "secret-é-secret-é", ""])
def test_a_weak_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(SettingError, match="at least 16") as refused:
        checked_token(token)
    assert "secret" not in str(refused.value)


def test_help_and_errors_do_not_tell_the_token_of_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    words = ("--ledger", str(folder))
    for secret, asked, status in (
        ("secret-secret-secret", ("--help",), 0),
        ("secret-secret-secret", (*words, "--port", "x"), 2),
        ("secret secret secret", words, 2),
    ):
        monkeypatch.setenv("LEDGER_SERVE_TOKEN", secret)
        told = call(capsys, "serve", *asked)
        assert told.status == status
        assert "secret" not in told.out + told.err


# What it checks before


def test_an_unknown_branch_and_a_missing_base_are_told_before_it_listens(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with new_ledger(tmp_path) as ledger:
        where = ("--ledger", str(ledger.folder), "--port", "0")
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    for words, fragment in (
        (("--branch", "nope"), "there is no branch nope"),
        (("--model",), "no such folder"),
    ):
        outcome: Outcome = call(capsys, "serve", *where, *words)
        assert (outcome.status, outcome.out) == (1, "")
        assert fragment in outcome.err
    # Without the base there is all the rest: the next that is wrong is where it is to listen.
    outcome = call(capsys, "serve", *where, "--host", "nowhere.invalid")
    assert (outcome.status, "no such address" in outcome.err) == (2, True)
    with serving_here(ledger.folder) as running:
        assert running.ask("/").status == 200


def test_the_browser_is_opened_at_the_page_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    _open("http://127.0.0.1/?token=x")
    deadline = time.monotonic() + 10
    while not opened and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened == ["http://127.0.0.1/?token=x"]


# While it runs


def test_turns_recorded_meanwhile_appear_and_nobody_is_hindered(
    tmp_path: Path, database_url: str
) -> None:
    serve = serving if database_url.startswith("sqlite") else serving_here
    with new_ledger(tmp_path, database_url) as ledger, serve(ledger.folder) as running:
        for turn in range(1, 4):
            record(ledger, [edit(f"Lima {turn} is in", "Peru")])
            assert running.ask("/turns.json").json()["page"]["total"] == turn
        rollback_turn(ledger, 2)
        turns = running.ask("/turns.json").json()["turns"]
        assert [turn["turn"] for turn in turns if turn["state"] != "in_force"] == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the process as Linux shows it")
def test_nothing_large_is_loaded_until_a_question_is_asked(folder: Path) -> None:
    with serving(folder, "--model") as running:
        for path in ("/", "/turns", "/search?q=Lima", "/try", "/try?prompt="):
            running.ask(path)
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text(encoding="utf-8")
        assert "torch" not in mapped


def test_requests_as_no_browser_sends_them_are_answered(served: Served) -> None:
    """Byte by byte: clients tidy up what they send."""
    for request, statuses in (
        (b"GET //evil.example HTTP/1.1\r\nHost: localhost\r\n\r\n", {b"401"}),
        (b"GET /%%%ff\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", {b"400", b"401"}),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", {b"400", b"401"}),
        (b"GET / HTTP/1.0\r\n\r\n", {b"400"}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", {b"400"}),
        (b"nonsense\r\n\r\n", {b"400"}),
        (b"POST /enter HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", {b"413"}),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {b"431"}),
    ):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(request)
            answer = connection.recv(65536)
        assert answer.split(b" ")[1] in statuses, (request[:50], answer[:200])
        assert b"waitress" not in answer.lower().partition(b"\r\n\r\n")[0]
    assert served.ask("/").status == 200


def test_with_the_token_a_path_of_two_slashes_leads_nowhere_else(served: Served) -> None:
    entry = served.ask(f"//evil.example/?token={served.token}")
    assert entry.status == 303
    assert re.match(r"/(?![/\\])", entry.headers["location"])
    page = served.ask("//evil.example/")
    assert page.status in (308, 404)
    assert "//evil" not in page.headers.get("location", "").removeprefix(served.url)


# It only reads

VALUES = {"rev": "1", "position": "0", "kind": "scores", "name": "x", "filename": "page.css"}
QUESTIONS = ("", "?a=1&b=2&weights=1&prompt=The+capital+of+France+is&turn=1&q=France")


def paths(folder: Path) -> list[str]:
    """An address of every rule, with questions that pages answer."""
    with open_ledger(folder) as ledger:
        rules = [
            rule.rule for rule in create_app(ledger, token=TOKEN, model=True).url_map.iter_rules()
        ]
    filled = {re.sub(r"<(?:\w+:)?(\w+)>", lambda m: VALUES.get(m[1], "1"), rule) for rule in rules}
    return sorted(path + question for path in filled for question in QUESTIONS)


def test_no_page_changes_anything_in_the_database_or_the_store(
    tiny_llama: Path, tmp_path: Path
) -> None:
    with new_llama_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(4)), turn_size=2)
        rollback_turn(ledger, 1)
        create_tag(ledger, "v1")
    before = files(tmp_path / "ledger")
    with serving_here(tmp_path / "ledger", model=True, device="cpu") as running:
        for path in paths(tmp_path / "ledger"):
            answer = running.ask(path)
            assert answer.status < 500, (path, answer.text)
    after = files(tmp_path / "ledger")
    assert {name: after.get(name) for name in before} == before
    # What SQLite makes beside its file while it is open, and leaves empty.
    assert {name for name in after if name not in before} <= {"ledger.db-shm", "ledger.db-wal"}
