"""Random histories: whatever is added, undone, brought back, branched, copied, merged, squashed
and cleaned up, every state is base + the surviving patches, bit for bit, and verify is clean."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import keyframes
from tests.history_model import World
from tests.plain_ledgers import build, new_ledger

OPERATIONS = (
    *["add"] * 5,
    *["undo"] * 4,
    *["go_back"] * 2,
    *["squash"] * 4,
    *["merge"] * 2,
    *["switch"] * 2,
    *["cherry_pick"] * 2,
    *["prune"] * 3,
    *("branch", "tag", "delete", "clean"),
)
BEGINNING = (
    *(("add", 0, 1), ("add", 1, 1), ("branch", 2, 0), ("add", 2, 2), ("add", 3, 4)),
    *(("switch", 1, 0), ("add", 4, 3), ("add", 5, 1)),
)
"""Two branches that share two turns and have two of their own."""
STEPS = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 30), st.integers(0, 30))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model") / "plain")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=8, max_size=18))
def test_every_state_of_a_random_history_is_the_sum_of_the_surviving_patches(
    model: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch, new_ledger(folder / "ledger", model) as ledger:
        patch.setattr(keyframes, "_EVERY", 2)
        patch.setattr(keyframes, "_AT_MOST", 3)
        world = World(ledger, model)
        for step in BEGINNING:
            world.act(*step)
        world.check()
        for step in steps:
            world.act(*step)
            world.check()
    shutil.rmtree(folder)
