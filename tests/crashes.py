"""Kill the `ledger` command wherever it can be killed, and see that nothing is lost.

A scene is a command on a ledger that was made for it. `Stage.survives` runs it on a copy, with a
fault, and then asks: does everything verify, is every turn still there that was there before or was
said to be recorded, is the written model whole, and does the same command, run again without any
repair, end with the very same patches and weights as on a ledger where nothing ever happened?
"""

import errno
import itertools
import json
import random
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

import migrations
from ledger import database, history
from ledger.applying import apply_to_folder
from ledger.branching import create_branch
from ledger.database import SCHEMA
from ledger.sharing.publishing import push
from ledger.sharing.staging import Push
from ledger.squashing import squash
from ledger.verifying import Verified, verify
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import CONFIG, open_ledger
from patches.checkpoint_writer import PROVENANCE_FILE
from tests.faults import Command, Ended, Fault
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.loopback_hub import Hub

_SAID = re.compile(r"^turn (\d+)", re.MULTILINE)
_PUBLISHED = "me/published"
_OLD = f"{int(SCHEMA) - 1:04d}"

Outcome = list[tuple[object, ...]]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """name: of the command. words: of it; FACTS, MODEL and REPO stand for what they say. made:
    which ledger it starts from; on: branch that it changes. again: what it may say when it is run
    again after all was done."""

    name: str
    words: str
    made: str = "edited"
    on: str = "main"
    again: str = ""


SCENES = (
    Scene(name="init", words="init --model MODEL --ledger ledger", made="nothing", again="already"),
    Scene(name="add-edits", words="add-edits FACTS --turn-size 2 --no-evaluate"),
    Scene(name="apply", words="apply --to out"),
    Scene(name="rollback", words="rollback turn 2 --to out", again="rolled back already"),
    Scene(name="merge", words="merge feature --no-evaluate", again="nothing to merge"),
    Scene(name="squash", words="squash 1..3", again="squash"),
    Scene(name="gc", words="gc --prune", made="squashed"),
    Scene(name="push", words="push REPO --as patch", again="already"),
    Scene(name="pull", words=f"pull {_PUBLISHED} --branch theirs", made="empty", on="theirs"),
    Scene(name="db upgrade", words="db upgrade", made="old"),
    Scene(name="db copy", words="db copy --to sqlite:///copy.db", again="already"),
)


class Stage:
    """The ledgers that the scenes start from, on SQLite or in databases of a PostgreSQL server."""

    def __init__(self, folder: Path, model: Path, hub: Hub, server: str | None = None) -> None:
        """server: URL of a database of the server, to make others from."""
        self.folder, self.model, self._hub, self._server = folder, model, hub, server
        self.facts = write_facts(folder / "more.json", facts(6, 12))
        self._count = itertools.count()
        self._prefix = f"crash_{uuid.uuid4().hex[:8]}"
        self._references: dict[str, tuple[Outcome, Ended]] = {}
        self._make()

    def _make(self) -> None:
        (self.folder / "nothing").mkdir()
        new_ledger(self.folder / "empty" / "ledger", self.model, self._new("empty")).close()
        with new_ledger(
            self.folder / "edited" / "ledger", self.model, self._new("edited")
        ) as ledger:
            source = write_facts(self.folder / "facts.json", facts(10))
            add(ledger, source, turn_size=2, limit=4, evaluate=False)
            create_branch(ledger, "feature")
            add(ledger, source, turn_size=2, offset=4, limit=4, evaluate=True)
            ledger.branch = "feature"
            add(ledger, source, turn_size=2, offset=8, evaluate=False)
            ledger.branch = "main"
            apply_to_folder(ledger, self.folder / "edited" / "out", at=1)
            push(ledger, Push(repo=_PUBLISHED, form="patch", include_edits=True))
        for name in ("squashed", "old"):
            self._copy("edited", name)
        with open_ledger(self.folder / "squashed" / "ledger") as ledger:
            squash(ledger, 1, 3)
            (ledger.store.folder / "00").mkdir(exist_ok=True)
        with open_ledger(self.folder / "old" / "ledger") as ledger:
            migrations.downgrade(ledger.engine, _OLD)

    def reference(self, scene: Scene) -> tuple[Outcome, Ended]:
        """What comes of the scene where nothing happens."""
        if scene.name not in self._references:
            folder = self._copy(scene.made)
            ended = self._command(scene, folder).run()
            assert ended.status == 0, ended.said
            self._references[scene.name] = self._outcome(scene, folder), ended
            self._remove(folder)
        return self._references[scene.name]

    def killed(self, scene: Scene, at: int | float) -> bool:
        """Kill the scene at a point (int), or so many seconds after it began (float), and check;
        whether it was alive until then."""
        folder = self._copy(scene.made)
        before = self._hashes(folder)
        command = self._command(scene, folder)
        if isinstance(at, int):
            status = command.run(Fault(at=at)).status
        else:
            running = command.start()
            assert running.message() == "ready"
            time.sleep(at)
            running.send(signal.SIGKILL)
            status = running.wait()
        assert status in (0, -signal.SIGKILL), command.said.read_text()
        self._check(scene, folder, before, command.said.read_text())
        return status != 0

    def refused(self, scene: Scene, fault: Fault) -> int:
        """Let the system refuse something, and check; the exit status."""
        folder = self._copy(scene.made)
        before = self._hashes(folder)
        command = self._command(scene, folder)
        ended = command.run(fault)
        assert ended.status in (0, 1), ended.said
        assert "Traceback" not in ended.said, ended.said
        errors = sum(line.startswith("error: ") for line in ended.said.splitlines())
        assert errors == ended.status, ended.said
        self._check(scene, folder, before, ended.said)
        return ended.status

    def _check(self, scene: Scene, folder: Path, before: set[str], said: str) -> None:
        """Nothing is lost or half done, and the same command goes on where this one ended."""
        place = folder / "ledger"
        if (place / CONFIG).exists() and self._schema(place) == SCHEMA:
            self._check_whole(folder, before, said)
        again = self._command(scene, folder).run()
        if again.status:
            assert scene.again, again.said
            assert scene.again in again.said
        self._check_whole(folder, before, said)
        assert self._outcome(scene, folder) == self.reference(scene)[0]
        self._remove(folder)

    def _check_whole(self, folder: Path, before: set[str], said: str) -> None:
        with open_ledger(folder / "ledger") as ledger:
            found = verify(ledger)
            if (folder / "out").exists():
                assert (folder / "out" / PROVENANCE_FILE).exists()
                verify_checkpoint(ledger, folder / "out", found)
            _assert_clean(found)
            with database.reading(ledger.engine) as session:
                numbers = {step.number for step in history.line(session, ledger.branch)}
            assert before <= self._hashes(folder)
            assert {int(number) for number in _SAID.findall(said)} <= numbers

    def _schema(self, place: Path) -> str | None:
        ledger = open_ledger(place)
        engine = database.connect(ledger.url)
        try:
            return database.schema_revision(engine)
        finally:
            engine.dispose()

    def _command(self, scene: Scene, folder: Path) -> Command:
        words = scene.words.replace("FACTS", self.facts).replace("MODEL", str(self.model))
        words = words.replace("REPO", f"me/{folder.name}")
        environment = {}
        if scene.made != "nothing":
            environment["LEDGER_DIR"] = str(folder / "ledger")
        elif self._server is not None:
            words += f" --database {self._url(folder.name)}"
        return Command(
            words=tuple(words.split()),
            folder=folder,
            endpoint=self._hub.endpoint,
            environment=environment,
        )

    def _outcome(self, scene: Scene, folder: Path) -> Outcome:
        """The turns of the branch that the scene changes, as far as they are the same each time."""
        with open_ledger(folder / "ledger") as ledger, database.reading(ledger.engine) as session:
            turns = history.line(session, scene.on)
            return [
                (t.kind, t.edits, t.in_force, t.patch_digest, history.tensors_at(session, turns))
                for t in turns
            ]

    def _hashes(self, folder: Path) -> set[str]:
        """Of every turn that is recorded, on any branch."""
        if not (folder / "ledger" / CONFIG).exists():
            return set()
        ledger = open_ledger(folder / "ledger")
        engine = database.connect(ledger.url)
        try:
            with engine.connect() as connection:
                rows = connection.exec_driver_sql("SELECT hash FROM turns")
                return {digest for (digest,) in rows}
        finally:
            engine.dispose()

    def _copy(self, made: str, name: str | None = None) -> Path:
        name = name or f"{made}-{next(self._count)}"
        folder = Path(shutil.copytree(self.folder / made, self.folder / name))
        if self._server is not None:
            self._ask(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(self._name(name)), sql.Identifier(self._name(made))
                )
                if made != "nothing"
                else sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name(name)))
            )
            path = folder / "ledger" / CONFIG
            if path.exists():
                content = json.loads(path.read_text(encoding="utf-8"))
                content["database"] = self._url(name)
                path.write_text(json.dumps(content), encoding="utf-8")
        return folder

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder)
        for left in folder.parent.glob(f"{folder.name}.*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if self._server is not None:
            name = sql.Identifier(self._name(folder.name))
            self._ask(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def _new(self, name: str) -> str | None:
        if self._server is None:
            return None
        self._ask(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name(name))))
        return self._url(name)

    def _name(self, name: str) -> str:
        return f"{self._prefix}_{name.replace('-', '_')}"

    def _url(self, name: str) -> str:
        assert self._server is not None
        return (
            make_url(self._server)
            .set(database=self._name(name), drivername="postgresql+psycopg")
            .render_as_string(hide_password=False)
        )

    def _ask(self, statement: sql.Composed | sql.SQL) -> None:
        assert self._server is not None
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement)


def _assert_clean(found: Verified) -> None:
    assert [problem.to_json() for problem in found.problems] == []


def _is_file(point: str) -> bool:
    """Whether the system is asked for something there that it can refuse."""
    return point.startswith(("open ", "os.", "fsync"))


def kill_everywhere(
    stage: Stage,
    *,
    kills: int,
    seed: int,
    seconds: float = 0.0,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Kill the scenes in turn, half at points, half at random instants, until `kills` processes
    have died of it (some are done by then) and the time is over; name of the scene → how many."""
    draw = random.Random(seed)
    until = time.monotonic() + seconds
    survived = dict.fromkeys((scene.name for scene in SCENES), 0)
    for number in itertools.count():
        if sum(survived.values()) >= kills and time.monotonic() >= until:
            return survived
        scene = SCENES[number % len(SCENES)]
        _, whole = stage.reference(scene)
        at: int | float = draw.uniform(0, whole.seconds)
        if number // len(SCENES) % 2 == 0:
            at = draw.randint(1, len(whole.points))
        told(f"{scene.name}: {whole.points[at - 1] if isinstance(at, int) else f'{at:.2f} s'}")
        survived[scene.name] += stage.killed(scene, at)
    raise AssertionError


def refuse_everywhere(
    stage: Stage,
    *,
    refusals: int,
    seed: int,
    seconds: float = 0.0,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Let the system refuse to write, in turn: a full disk, a disk that fails, one that is
    read-only from some point on; files that grow beyond a limit; a clock that jumps back. Name of
    the refusal → how many commands it has stopped, or let go on, in good order."""
    draw = random.Random(seed)
    until = time.monotonic() + seconds
    met: dict[str, int] = {}
    for number in itertools.count():
        if number >= refusals and time.monotonic() >= until:
            return met
        scene = SCENES[number % len(SCENES)]
        _, whole = stage.reference(scene)
        files = [n for n, point in enumerate(whole.points, 1) if _is_file(point)]
        at = draw.choice(files or range(1, len(whole.points) + 1))
        name, fault = draw.choice(
            [
                ("ENOSPC", Fault(at=at, error=errno.ENOSPC, times=draw.choice([1, 10**6]))),
                ("EIO", Fault(at=at, error=errno.EIO, times=draw.choice([1, 10**6]))),
                ("EROFS", Fault(at=at, error=errno.EROFS, times=10**6)),
                ("file too large", Fault(limit=draw.choice([1, 10, 100, 300]) << 10)),
                ("clock set back", Fault(at=at, clock=draw.choice([90.0, 1e5, 3e8]))),
            ]
        )
        told(f"{scene.name}: {name} at {whole.points[at - 1]}")
        stage.refused(scene, fault)
        met[name] = met.get(name, 0) + 1
    raise AssertionError
