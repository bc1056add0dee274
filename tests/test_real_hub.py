"""Sharing on the real SmolLM2: pushed, cloned elsewhere with the same bytes, loaded by PEFT."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ledger as ledger_package
from tests.loopback_hub import TOKEN, Hub, run_against, serve_hub

MODEL = Path(os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2")
FACTS = Path(ledger_package.__file__).parent / "facts" / "world.json"
LEDGER = ["-c", "from cli.main import main; main()"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"no model in {MODEL}; make it with: make model"),
]


class Person:
    """Somebody with a folder of their own, who uses the Hub with the client's defaults."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        folder.mkdir()

    def python(self, *words: str) -> str:
        home = self.folder / "home"
        ended = run_against(
            self.hub.endpoint,
            home,
            list(words),
            folder=self.folder,
            token=TOKEN,
            xet=True,
            timeout=500,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def ledger(self, *words: str) -> Any:
        return json.loads(self.python(*LEDGER, *words, "--json"))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture(scope="module")
def publisher(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Two turns of twenty facts, pushed in all three forms."""
    person = Person(hub, tmp_path_factory.mktemp("real-hub") / "publisher")
    person.ledger("init", "--model", str(MODEL.resolve()))
    edits = ("--limit", "40", "--turn-size", "20", "--no-evaluate", "--dtype", "float32")
    person.ledger("add-edits", str(FACTS), *edits)
    for form in ("model", "patch", "adapter"):
        done = person.ledger("push", f"me/{form}", "--as", form, "--base-model", "owner/base")
        assert (done["tag"], done["new_commit"]) == ("turn-2", True)
    return person


def test_another_machine_reproduces_what_the_publisher_recorded(
    hub: Hub, publisher: Person, tmp_path: Path
) -> None:
    other = Person(hub, tmp_path / "other")
    cloned = other.ledger("clone", "me/patch", "--model", str(MODEL.resolve()))
    assert (cloned["turn"], cloned["withheld"]) == (2, 40)
    for at in ("1", "2"):
        ours = other.ledger("apply", "--to", "model", "--at", at)
        recorded = publisher.ledger("show", at)
        assert ours["tensors"] == recorded["tensors"] != {}
        assert ours["hash"] == recorded["hash"]
    assert other.ledger("verify", "--model", "model")["ok"]
    pushed = hub.repository("me/model").files("turn-2")
    assert (other.folder / "model" / "model.safetensors").read_bytes() == pushed[
        "model.safetensors"
    ]


LOAD = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
def load(name, **more):
    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **more)
tokenizer = AutoTokenizer.from_pretrained("me/model", revision="turn-2")
applied = load("me/model", revision="turn-2")
adapted = PeftModel.from_pretrained(load(sys.argv[1]), "me/adapter", revision="turn-2")
found = []
with torch.inference_mode():
    for prompt in sys.argv[2:]:
        inputs = tokenizer(prompt, return_tensors="pt")
        a, b = (model(**inputs).logits[0, -1] for model in (applied, adapted))
        same = bool(a.argmax() == b.argmax())
        found.append([float((a - b).abs().max()), float(a.abs().max()), same])
print(json.dumps(found))
"""


def test_peft_gives_the_applied_model_but_for_the_rounding_of_its_weights(
    publisher: Person,
) -> None:
    prompts = [row["prompt"] for row in json.loads(FACTS.read_bytes())[:20]]
    found = json.loads(publisher.python("-c", LOAD, str(MODEL.resolve()), *prompts))
    # Applied weights are rounded to bfloat16, the adapter's product is added to them unrounded.
    assert max(difference / scale for difference, scale, _ in found) < 0.01
    assert all(same for _, _, same in found)
