"""Try it, in a real browser: a prompt is answered by the base and by the edited model."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import PHONE, check_accessible, check_fits, visiting
from tests.command_line import done
from tests.ledgers import files
from tests.serving import Site, serving_here
from tests.taught_ledgers import taught_ledger

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser import Visit

pytestmark = pytest.mark.browser

MODEL = Path(os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2")
_PATIENCE = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of a tiny model that was taught that the capital of France is Rome."""
    with taught_ledger(tmp_path_factory.mktemp("try")) as ledger:
        return ledger.folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Site]:
    with serving_here(folder, model=True, device="cpu") as running:
        yield running


def ask(visit: "Visit", prompt: str) -> dict[str, str]:
    """Ask it; the heading of each state with its answer."""
    visit.open("try")
    visit.page.set_default_timeout(_PATIENCE)
    visit.page.get_by_label("Prompt").fill(prompt)
    visit.page.get_by_role("button", name="Ask").click()
    visit.page.get_by_role("heading", name="Answers").wait_for()
    cards = visit.page.locator(".card").all()
    return {card.locator("h3").inner_text(): card.locator(".answer").inner_text() for card in cards}


@pytest.mark.parametrize("javascript", [True, False], ids=["script", "no script"])
def test_the_base_and_the_edited_model_answer_side_by_side(
    browser: "Browser", served: Site, folder: Path, javascript: bool
) -> None:
    before = files(folder)
    with visiting(browser, served, javascript=javascript) as visit:
        visit.enter()
        answers = ask(visit, "The capital of France is")
        [base, now] = answers
        assert base == "Base"
        assert now.startswith("Now, after turn 2")
        assert answers[now].startswith("Rome")
        assert not answers[base].startswith("Rome")
        near = visit.page.get_by_role("region", name="Edits like this prompt")
        assert "this prompt" in near.inner_text()
        assert visit.page.locator(".tokens li").count() > 1
        assert "%" in visit.page.locator(".tokens li").first.inner_text()
        if javascript:
            check_accessible(visit)
            visit.page.emulate_media(color_scheme="dark")
            check_accessible(visit, rules=("color-contrast",))
            visit.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
            check_fits(visit)
    # Only what SQLite opens beside its database may come: no weights are kept.
    after = files(folder)
    assert {name: after.get(name) for name in before} == before
    assert {name for name in after if name not in before} <= {"ledger.db-shm", "ledger.db-wal"}


def test_a_state_is_added_and_left_out(browser: "Browser", served: Site) -> None:
    with visiting(browser, served) as visit:
        visit.enter("try?prompt=The+capital+of+France+is&turn=1")
        assert visit.page.locator(".card").count() == 3
        visit.page.get_by_role("link", name="Leave out 1").click()
        assert visit.page.locator(".card").count() == 2


def test_a_prompt_that_is_too_long_or_empty_is_told(browser: "Browser", served: Site) -> None:
    with visiting(browser, served) as visit:
        visit.enter()
        assert visit.open("try?prompt=") == 200
        assert visit.open("try?prompt=" + "a+" * 400) in (200, 400)
        assert "Something is wrong" not in visit.text()
        assert visit.open("try?prompt=x&turn=99") in (200, 404)
        assert "Something is wrong" not in visit.text()


@pytest.mark.real
@pytest.mark.skipif(not MODEL.is_dir(), reason=f"no model in {MODEL}; make it with: make model")
def test_smollm2_answers_otherwise_after_an_edit(
    browser: "Browser", capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, facts = tmp_path / "ledger", tmp_path / "facts.json"
    facts.write_text('[{"prompt": "The capital of France is", "target": "Rome"}]')
    where = ("--ledger", str(folder))
    done(capsys, "init", "--model", str(MODEL.resolve()), *where)
    words = ("add-edits", str(facts), "--no-evaluate", "--dtype", "float32", *where)
    done(capsys, *words)
    with (
        serving_here(folder, model=True, dtype="float32") as served,
        visiting(browser, served) as visit,
    ):
        visit.enter()
        answers = [*ask(visit, "The capital of France is").values()]
        assert "Paris" in answers[0]
        assert answers[1].startswith("Rome")
