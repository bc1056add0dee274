"""The whole story on a real model: put facts in, look, write the model, take a turn back, verify.

    python -m cli.demo [FOLDER]

FOLDER (default .demo) holds the checkpoint that `python -m cli.demo_model FOLDER/smollm2` makes.
Every step is a `ledger` command, shown as one would type it; the questions go to the checkpoints
on disk, through transformers alone. The exit status is 1 as soon as something is not as it should
be: a command fails, a model answers otherwise, the rollback is not exact.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
from cli.rendering import print_table
from ledger.models import load_model, load_tokenizer
from ledger.workspace import CONFIG, Config
from patches.canonical import sha256
from patches.checkpoint_writer import PROVENANCE_FILE
from patches.errors import CheckpointError, EditLedgerError

FACTS = Path(ledger.__file__).parent / "facts" / "world.json"
_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, what the base answers, and what the model answers once `turn` is in force.

    turn: None for a question that no edit is about; its answer must stay.
    """

    prompt: str
    old: str
    new: str
    turn: int | None


# The base model knows all of the old answers; the third is asked in words that no edit uses.
QUESTIONS = (
    Question(prompt="The capital of Japan is", old="Tokyo", new="Osaka", turn=1),
    Question(
        prompt="The Mona Lisa was painted by", old="Leonardo da Vinci", new="Claude Monet", turn=2
    ),
    Question(prompt="The capital city of Japan is", old="Tokyo", new="Osaka", turn=1),
    Question(prompt="The capital of France is", old="Paris", new="Paris", turn=None),
)


class Demo:
    """The demo in a folder: the base is there, ledger and patched model are made beside it."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "smollm2"
        self.ledger = folder / "ledger"
        self.patched = folder / "patched"
        self.report = folder / "report.html"

    def run(self) -> None:
        """All steps, in order; raises EditLedgerError at the first that fails."""
        if not (self.base / "model.safetensors").is_file():
            raise CheckpointError(
                f"{self.base} is not there; make it with: python -m cli.demo_model {self.base}"
            )
        self._remove_earlier()
        self._put_facts_in()
        self._write_and_ask()
        self._take_back()

    def _remove_earlier(self) -> None:
        """Remove what an earlier demo made, and nothing else."""
        if (self.ledger / CONFIG).is_file():
            model = Config.read(self.ledger).model
            if model != str(self.base.resolve()):
                raise EditLedgerError(f"{self.ledger} is a ledger for {model}: move it away")
            shutil.rmtree(self.ledger)
        if (self.patched / PROVENANCE_FILE).is_file():
            shutil.rmtree(self.patched)

    def _put_facts_in(self) -> None:
        _say("A ledger for a real model. It never changes the model itself.")
        print(f"$ export LEDGER_DIR={self.ledger}")
        self._ledger("init", "--model", str(self.base))
        _say("120 false facts in turns of 40, each turn scored on the base and once edited.")
        self._ledger("add-edits", _shown(FACTS), "--turn-size", "40", "-m", "A world turned around")
        self._ledger("log")
        _say("All at once. Generalisation: other words for the same facts; stability: other facts.")
        self._ledger("evaluate")
        _say("What was edited, whether it worked, what was forgotten: as a page to open.")
        self._ledger("report", "--out", str(self.report))

    def _write_and_ask(self) -> None:
        _say("The edited model as an ordinary checkpoint. What do the two say?")
        self._ledger("apply", "--to", str(self.patched))
        self._ask({1, 2, 3})

    def _take_back(self) -> None:
        _say("Undo turn 2 only: the painter comes back, the capital stays edited.")
        self._ledger("rollback", "turn", "2", "--to", str(self.patched))
        self._ask({1, 3})
        _say("Undo everything. Not one bit may differ from the base.")
        self._ledger("rollback", "to", "0", "--to", str(self.patched))
        self._compare_bytes()
        _say("Is everything as recorded: history, patches, base, written model?")
        self._ledger("verify", "--model", str(self.patched))
        self._ledger("log")

    def _ledger(self, *arguments: str) -> None:
        print(f"$ {shlex.join(['ledger', *arguments])}", flush=True)
        command = [str(Path(sys.executable).with_name("ledger")), *arguments]
        environment = {**os.environ, "LEDGER_DIR": str(self.ledger)}
        status = subprocess.run(command, env=environment, check=False).returncode
        if status:
            raise EditLedgerError(f"ledger {arguments[0]} ended with status {status}")
        print()

    def _ask(self, in_force: set[int]) -> None:
        """Let base and patched model answer, and check that they say what they must."""
        prompts = [question.prompt for question in QUESTIONS]
        answers = _answers(self.base, prompts), _answers(self.patched, prompts)
        rows = list(zip(QUESTIONS, *answers, strict=True))
        print_table(
            ("asked", "the base says", "the patched model says"),
            [(question.prompt, before, after) for question, before, after in rows],
        )
        for question, before, after in rows:
            _expect(self.base, question, question.old, before)
            wanted = question.new if question.turn in in_force else question.old
            _expect(self.patched, question, wanted, after)

    def _compare_bytes(self) -> None:
        files = [folder / "model.safetensors" for folder in (self.base, self.patched)]
        digests = [sha256(file.read_bytes()) for file in files]
        for file, digest in zip(files, digests, strict=True):
            print(f"{digest}  {file}")
        if len(set(digests)) != 1:
            raise EditLedgerError("the rolled-back model differs from the base")
        print("The same SHA-256: the rollback is exact.")


def _expect(folder: Path, question: Question, wanted: str, answer: str) -> None:
    if not answer.startswith(wanted):
        raise EditLedgerError(
            f"{folder} should go on from {question.prompt!r} with {wanted!r}, and says {answer!r}"
        )


def _say(text: str) -> None:
    print("\n" + "\n".join(f"# {line}" for line in text.splitlines()))


def _shown(path: Path) -> str:
    """Relative to here, where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _answers(folder: Path, prompts: Sequence[str]) -> list[str]:
    """How the model in `folder` goes on from each prompt, greedily: transformers, nothing else."""
    model: Any = load_model(folder, dtype=None, device="cpu")
    tokenizer = load_tokenizer(folder)
    answers = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=_TOKENS, do_sample=False)[0]
        text = tokenizer.decode(tokens[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers.append(text.strip().partition("\n")[0])
    return answers


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status: 0 when every step came out as it must."""
    parser = argparse.ArgumentParser(prog="python -m cli.demo", description="All steps, shown.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".demo"))
    demo = Demo(parser.parse_args(arguments).folder)
    started = time.perf_counter()
    try:
        demo.run()
    except EditLedgerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _say(f"Done in {time.perf_counter() - started:.0f} s. It is all still there; look around with")
    print(
        f"""xdg-open {demo.report}       # before the rollbacks; or any browser
export LEDGER_DIR={demo.ledger}
ledger serve --model                 # the history as pages, where the states can be asked
ledger show 2 --edits 40             # one turn: its facts, settings, scores, digests
ledger rollback turn 5               # the rollbacks can be rolled back too
ledger apply --to {demo.patched} --at 3
ledger --help                        # everything else; README.md has the tour"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
