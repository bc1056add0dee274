"""`ledger push`, `pull` and `clone` as people and programs use them, against a loopback Hub."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.command_line import call, done
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.loopback_hub import TOKEN, Hub, run_against
from tests.peft_models import FILTER

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A ledger with two turns of three edits; read only."""
    folder = tmp_path_factory.mktemp("made")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(folder / "facts.json", facts(6)))
    return folder / "ledger"


@pytest.fixture(autouse=True)
def ledger(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has a copy of that ledger."""
    shutil.copytree(made, tmp_path / ".ledger")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEDGER_DIR", raising=False)


@pytest.mark.usefixtures("hub")
def test_what_people_read_of_a_push(capsys: Capture) -> None:
    planned = done(capsys, "push", "me/edits", "--as", "patch", "--dry-run").out
    assert "would push the patch at turn 2 to me/edits@main (a new repository)" in planned
    assert "manifest.json" in planned
    first = done(capsys, "push", "me/edits", "--as", "patch").out
    assert first.startswith("me/edits@main: the patch at turn 2 in commit ")
    again = done(capsys, "push", "me/edits", "--as", "patch").out
    assert again.startswith("me/edits@main has the patch at turn 2 already, in commit ")
    assert "me/edits (patch)" in done(capsys, "log").out
    assert "me/edits@main has the patch of turn 2, up to date" in done(capsys, "status").out
    done(capsys, "rollback", "turn", "1")
    assert "me/edits@main has the patch of turn 2; 1 turn since" in done(capsys, "status").out
    assert "me/edits as patch, tag turn-2, commit " in done(capsys, "show", "2").out


@pytest.mark.usefixtures("hub")
def test_json_of_a_push_a_pull_and_a_clone(
    capsys: Capture, tiny_llama: Path, tmp_path: Path
) -> None:
    common = {
        *("repo", "form", "revision", "turn", "hash", "tag", "files", "bytes"),
        *("changed_files", "changed_bytes", "notes", "dry_run"),
    }
    planned = done(capsys, "push", "me/edits", "--as", "patch", "--dry-run", "--json").json()
    assert set(planned) == {*common, "new_repository", "list", "deleted"}
    pushed = done(capsys, "push", "me/edits", "--as", "patch", "--json").json()
    assert set(pushed) == {*common, "commit", "new_commit"}
    assert (planned["dry_run"], pushed["dry_run"]) == (True, False)
    there = ("--ledger", str(tmp_path / "there"))
    cloned = done(capsys, "clone", "me/edits", "--model", str(tiny_llama), *there, "--json").json()
    pulled = done(capsys, "pull", "me/edits", *there, "--json").json()
    assert set(cloned) == {*pulled, "ledger", "fingerprint"}
    assert (cloned["turns"], cloned["commit"]) == ([1, 2], pushed["commit"])
    assert (pulled["turns"], pulled["branch"]) == ([], "me/edits")
    [turn, _] = done(capsys, "log", *there, "--json").json()
    assert turn["hash"] == done(capsys, "log", "--json").json()[0]["hash"]


@pytest.mark.usefixtures("hub")
def test_a_pulled_branch_is_worked_on_by_its_name(
    capsys: Capture, tiny_llama: Path, tmp_path: Path
) -> None:
    done(capsys, "push", "me/edits", "--as", "patch")
    there = ("--ledger", str(tmp_path / "there"))
    done(capsys, "init", "--model", str(tiny_llama), *there)
    told = done(capsys, "pull", "me/edits", *there).out
    assert "branch me/edits is at turn 2" in told
    assert "the texts of 6 edits were not published" in told
    branch = (*there, "--branch", "me/edits")
    assert done(capsys, "log", *there).out.startswith("no turns yet")
    assert len(done(capsys, "log", *branch, "--json").json()) == 2
    done(capsys, "rollback", "turn", "2", *branch)
    done(capsys, "apply", "--to", "out", *branch)
    assert "the texts of its 3 edits were not published" in done(capsys, "show", "1", *branch).out
    assert "others       me/edits at turn 3" in done(capsys, "status", *there).out
    outcome = call(capsys, "log", *there, "--branch", "none")
    assert outcome.status == 1
    assert outcome.err == "error: there is no branch none; the branches are main, me/edits\n"


@pytest.mark.filterwarnings(FILTER)
@pytest.mark.usefixtures("hub")
def test_other_programs_load_what_was_pushed_from_the_repository(
    capsys: Capture, tiny_llama: Path
) -> None:
    done(capsys, "push", "me/model")
    told = done(capsys, "push", "me/lora", "--as", "adapter", "--tag", "v1").out
    assert "the adapter at turn 2" in told
    done(capsys, "apply", "--to", "out")
    ids = torch.tensor([[3, 4, 5, 6]])
    model = AutoModelForCausalLM.from_pretrained("me/model", revision="turn-2")
    assert torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained("out")(ids).logits)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, "me/lora", revision="v1")
    applied = AutoModelForCausalLM.from_pretrained("out", dtype=torch.float32)(ids).logits
    # Applied weights are rounded to the 8 bits of bfloat16, the adapter's are not.
    assert (adapted(ids).logits - applied).abs().max() < 0.02 * applied.abs().max()


TWICE = """
import sys
from cli.main import main
for _ in range(2):
    main(sys.argv[1:])
"""


def test_the_default_way_of_uploading_works_too(hub: Hub, tmp_path: Path) -> None:
    words, home = ["-c", TWICE, "push", "me/model"], tmp_path / "home"
    pushed = run_against(hub.endpoint, home, words, folder=tmp_path, token=TOKEN, xet=True)
    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert pushed.stdout.count("in commit ") == 2
    assert pushed.stdout.count("has the model at turn 2 already") == 1
    assert len(hub.repository("me/model").commits()) == 2


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("push", "me"), 1, "error: me: not the id of a repository; write OWNER/NAME\n"),
        (("push", "me/x", "--as", "zip"), 2, "'zip' is not one of"),
        (("push", "me/x", "--rank", "2"), 2, "--rank and --max-error are for --as adapter"),
        (("push", "me/x", "--sign", "none.pem"), 2, "'none.pem' does not exist"),
        (("push", "me/x", "--at", "7"), 1, "there is no turn 7"),
        (("pull", "me/none"), 1, "has no such repository or revision"),
        (("clone", "me/none", "--ledger", "new"), 1, "has no such repository or revision"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_wrong_use_is_told_in_one_line(
    capsys: Capture, words: tuple[str, ...], status: int, reason: str
) -> None:
    outcome = call(capsys, *words)
    assert outcome.status == status
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("new").exists()
