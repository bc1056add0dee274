"""A crew of real processes: the same numbers, a killed worker costs only its job."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger import database, history
from ledger.bisecting import bisect
from ledger.jobs import Crew, Job, LocalCrew, SizedCrew, crew
from ledger.workspace import Ledger
from patches.errors import EditingError, SettingError, WorkerError
from patches.live import LiveModel
from tests.command_line import LEDGER
from tests.known_answers import FRANCE, GUITAR, TENSOR, teach
from tests.ledgers import contents
from tests.plain_ledgers import new_ledger
from tests.processes import INTERRUPTED

pytest.importorskip("ray")
# What Ray and its parts announce about themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
PHASE = "ask"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """The size of a taught tensor in a state. Once, it takes its process along: the first time,
    when `flag` is not there yet; always, if there is no file that it could leave."""

    at: int | None
    size: int = 1
    kills: bool = False
    flag: str = ""
    error: str = ""

    def run(self, live: LiveModel, tokenizer: Any) -> tuple[float, str]:
        if self.error:
            raise EditingError(self.error)
        if self.kills and not (self.flag and Path(self.flag).exists()):
            if self.flag:
                Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(live.stored(TENSOR).double().norm()), tokenizer.decode([5])


@dataclass(frozen=True, kw_only=True)
class Password:
    """What the PostgreSQL client of a worker would say."""

    at: int | None = None
    size: int = 1

    def run(self, _live: LiveModel, _tokenizer: Any) -> str:
        return os.environ.get("PGPASSWORD", "")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path_factory.mktemp("crew") / "ledger", tiny_llama) as ledger:
        teach(ledger, {FRANCE: "Ro"})
        teach(ledger, {GUITAR: "play"})
        teach(ledger, {FRANCE: "To"}, {FRANCE: "Ro"})
        yield ledger


@pytest.fixture(scope="module")
def team(ledger: Ledger) -> Iterator[SizedCrew]:
    """Two processes, which all tests of this file share."""
    with crew(ledger, "2", device="cpu", dtype=None) as them:
        yield them


def states(ledger: Ledger) -> list[int | None]:
    with database.reading(ledger.engine) as session:
        return [None, *(step.id for step in history.line(session, "main"))]


def done(them: Crew, jobs: Sequence[Job]) -> list[Any]:
    found = dict(them.run(jobs, phase=PHASE))
    assert len(found) == len(jobs)
    return [found[place] for place in range(len(jobs))]


def here(ledger: Ledger, jobs: Sequence[Job]) -> list[Any]:
    return done(LocalCrew(ledger, device="cpu", dtype=None), jobs)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A cluster of this machine that runs by itself; its address. folder: for its files."""
    client = free_port()
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    line += ["--node-ip-address=127.0.0.1", f"--port={free_port()}", "--num-cpus=1"]
    line += [f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
    line += ["--include-dashboard=false", "--disable-usage-stats"]
    # The jobs of this file must be found there too.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True
    ) as head:
        try:
            assert head.stdout is not None
            next(line for line in head.stdout if "Ray runtime started" in line)
            yield f"ray://127.0.0.1:{client}"
            assert head.poll() is None
        finally:
            head.terminate()
            head.communicate()


@pytest.mark.slow
def test_a_cluster_does_the_work_goes_on_running_and_writes_down_no_password(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise both sides would look for a token in the user's home.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    jobs = [Norm(at=at) for at in states(ledger)]
    # Its sockets take short paths only.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, cluster(Path(folder)) as address:
        monkeypatch.setenv("PGPASSWORD", "not-to-be-told")
        with crew(ledger, address, device="cpu", dtype=None) as them:
            assert done(them, jobs) == here(ledger, jobs)
            assert done(them, [Password()]) == ["not-to-be-told"]
        written = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert written
        assert not [path for path in written if b"not-to-be-told" in path.read_bytes()]


def test_two_workers_one_of_them_killed_give_the_numbers_of_one_process_and_write_nothing(
    ledger: Ledger, team: SizedCrew, tmp_path: Path
) -> None:
    before = contents(ledger)
    jobs = [Norm(at=at, size=n + 1) for at in states(ledger) for n in range(3)]
    expected = here(ledger, jobs)
    jobs[4] = Norm(at=jobs[4].at, size=2, kills=True, flag=str(tmp_path / "killed"))
    assert team.size == 2
    assert done(team, jobs) == expected
    assert (tmp_path / "killed").exists()
    assert contents(ledger) == before


def test_two_workers_find_the_turn_that_one_process_finds(
    ledger: Ledger, team: SizedCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = bisect(ledger, FRANCE, "Ro", first=1).to_json()
    monkeypatch.setattr("ledger.bisecting.crew", lambda *_args, **_options: nullcontext(team))
    together = bisect(ledger, FRANCE, "Ro", first=1).to_json()
    asked = together.pop("steps")
    assert all(step in asked for step in alone.pop("steps"))
    assert together == alone


def test_an_error_of_a_job_comes_out_as_it_is(team: SizedCrew) -> None:
    with pytest.raises(EditingError, match=r"^turn 3: no$"):
        done(team, [Norm(at=None), Norm(at=None, error="turn 3: no")])


def test_what_is_left_when_the_results_are_no_longer_wanted_is_given_up(
    ledger: Ledger, team: SizedCrew
) -> None:
    seen: list[tuple[int, int]] = []
    jobs = [Norm(at=at, size=2) for at in states(ledger)[:2]]
    stream = team.run(jobs, phase=PHASE, progress=lambda _p, n, m: seen.append((n, m)))
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert done(team, jobs) == here(ledger, jobs)
    assert seen == [(0, 4), (2, 4)]


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_given_up_by_its_name(team: SizedCrew) -> None:
    with pytest.raises(WorkerError, match=r"3 workers in a row have died over Norm 1 of 1 \("):
        done(team, [Norm(at=None, kills=True)])


@pytest.mark.parametrize("workers", ["0", "-1", "many", "ray://", "2.5", "http://host:1"])
def test_what_names_no_workers_is_refused(ledger: Ledger, workers: str) -> None:
    with (
        pytest.raises(SettingError, match="give a number of processes, or the address"),
        crew(ledger, workers, device="cpu", dtype=None),
    ):
        pass


def session(leader: int) -> list[str]:
    """The processes of the session that this process has begun."""
    told = subprocess.run(["ps", "-eo", "sid,args"], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=1) for line in told.stdout.splitlines()]
    return [args for sid, args in lines if sid == str(leader)]


def ended(leader: int) -> bool:
    """Whether all of them end in a moment."""
    for _ in range(40):
        if not session(leader):
            return True
        time.sleep(0.25)
    return False


def command(ledger: Ledger, *words: str) -> "subprocess.Popen[str]":
    """`ledger bisect` with a worker, at the head of a session of its own."""
    line = [str(LEDGER), "bisect", "--ledger", str(ledger.folder), "--device", "cpu", *words]
    line += ["--prompt", FRANCE, "--expect", "Ro", "--from", "1", "--workers", "1"]
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_command_with_workers_finds_the_same_prints_nothing_of_ray_and_leaves_nothing(
    ledger: Ledger,
) -> None:
    with command(ledger, "--json") as running:
        out, err = running.communicate()
    assert (running.returncode, err) == (0, "")
    assert json.loads(out) == bisect(ledger, FRANCE, "Ro", first=1).to_json()
    assert ended(running.pid)


@pytest.mark.slow
def test_a_command_that_is_interrupted_leaves_no_worker(ledger: Ledger) -> None:
    with command(ledger) as running:
        while not any("ray::" in line for line in session(running.pid)):
            assert running.poll() is None
            time.sleep(0.25)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate()
    assert running.returncode == INTERRUPTED
    assert "Traceback" not in err
    assert ended(running.pid)
