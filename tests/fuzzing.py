"""Fuzzing of everything that reads what comes from elsewhere.

Every target is one reader of the program, called as the program calls it, on a file that holds the
input. It may accept the input or refuse it with an `EditLedgerError`; whatever it accepts must hold
what it says. Anything else that happens is a failure: another exception, a long time, much memory,
a file that appears outside of the target's folder.

`fuzz` is called by the long suite. `python -m tests.fuzzing_coverage TARGET` runs one target with
atheris, which looks for inputs that reach new code.
"""

import contextlib
import importlib.util
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import safetensors
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ledger.chain import content_hash
from ledger.datasets import open_dataset, read_rows
from ledger.edit_values import NAMES
from ledger.orm import EMPTY
from ledger.sentences import read_sentences
from ledger.sharing.manifest import EDITS, MANIFEST, PublishedTurn, parse_manifest
from ledger.sharing.published_edits import read_published_edits
from ledger.sharing.signing import signer
from ledger.workspace import CONFIG, HEAD_FILE, Config, current_branch
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE, read_adapter
from patches.checkpoint import INDEX_FILE, SINGLE_FILE, open_checkpoint, tensor_digests
from patches.checkpoint_writer import PROVENANCE_FILE, read_provenance
from patches.errors import EditLedgerError
from patches.memory_file import encode_memories, read_memories
from patches.patch import Change, PatchFile, encode_patch, read_state
from patches.strict_json import strict_json
from tests import hostile_samples
from tests.hostile_strategies import Files, changed_bytes, json_files, line_files, tensor_files

SECONDS, MEMORY = 10.0, 400 << 20
"""What an input may take: of time, and of memory beyond what was used before, in bytes."""
_BATCH = 100
_TRIED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader. read: reads the input, the file in a folder of its own, to the end, and checks what
    it has accepted. name: of that file. samples: sound inputs. files: hostile ones from them."""

    read: Callable[[Path], None]
    name: str
    samples: Callable[[], Sequence[bytes]]
    files: Files | None = None

    def inputs(self) -> st.SearchStrategy[bytes]:
        samples = self.samples()
        anyhow = changed_bytes(samples)
        return anyhow if self.files is None else st.one_of(self.files(samples), anyhow)


def _patch(path: Path) -> None:
    patch = PatchFile(path)
    changes = {
        name: Change(delta=patch.delta(name), transposed=info.transposed, routing=info.routing)
        for name, info in {**patch.changes, **patch.memories}.items()
    }
    for name in patch.memories:
        patch.memory(name)
    _check_same(path.read_bytes(), encode_patch(patch.header, changes))
    for change in changes.values():
        total = torch.zeros(change.delta.shape, dtype=torch.float64)
        change.delta.add_to(total)
        assert torch.isfinite(total).all()


def _check_same(found: bytes, anew: bytes) -> None:
    """What was read, written anew, is the same but for the order of things."""
    assert _tensors(found) == _tensors(anew)
    assert _metadata(found) == _metadata(anew)


def _tensors(data: bytes) -> dict[str, object]:
    found: list[tuple[str, dict[str, object]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return {name: (one["dtype"], one["shape"], one["data"]) for name, one in found}


def _metadata(data: bytes) -> dict[str, object]:
    header = strict_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] = header["__metadata__"]
    json_texts = ("changes", "hyperparameters", "memories")
    opened = {name: strict_json(text) for name, text in found.items() if name in json_texts}
    known = ("base", "method", "turn", "parent", "format", "version", *json_texts)
    return {name: value for name, value in {**found, **opened}.items() if name in known}


def _state(path: Path) -> None:
    for tensor in read_state(path).values():
        assert not tensor.is_floating_point() or torch.isfinite(tensor).all()


def _memories(path: Path) -> None:
    found = read_memories(path)
    _check_same(path.read_bytes(), encode_memories(found.base, found.memories))
    for memory in found.memories:
        assert torch.isfinite(memory.delta.values).all()


def _checkpoint(path: Path) -> None:
    path.with_name("config.json").write_text("{}")
    path.with_name("model-1.safetensors").write_bytes(hostile_samples.checkpoints()[-1])
    checkpoint = open_checkpoint(path.parent)
    tensor_digests(checkpoint, threads=1)
    if path.name == SINGLE_FILE:
        sizes = sum(tensor.size for tensor in checkpoint.tensors.values())
        data = path.read_bytes()
        assert 8 + int.from_bytes(data[:8], "little") + sizes == len(data)


def _provenance(path: Path) -> None:
    found = read_provenance(path.parent)
    assert found is not None
    assert found == json.loads(path.read_bytes().decode("utf-8-sig"))


def _manifest(path: Path) -> None:
    data = path.read_bytes()
    found = parse_manifest(data, "here")
    assert parse_manifest(found.encode(), "here") == found


def _manifest_hashed_anew(path: Path) -> None:
    """Whoever writes a manifest also writes the hashes in it."""
    with contextlib.suppress(Exception):
        manifest = json.loads(path.read_bytes())
        parent = EMPTY
        for turn in manifest["turns"]:
            turn["content"]["parent"] = parent
            turn["hash"] = parent = content_hash(turn["content"])
        manifest["head"] = parent
        path.write_text(json.dumps(manifest))
    _manifest(path)


class _Whatever:
    """Equal to anything, as a digest is that was made to fit."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def _published_edits(path: Path) -> None:
    content = {"number": 1, "edits": _Whatever()}
    turns = [PublishedTurn(hash="", origin="", content={**content, "number": n}) for n in (1, 2, 3)]
    for rows in read_published_edits(path, turns).values():
        named = [dict(zip(NAMES, row, strict=True)) for row in rows]
        assert all("\0" not in str(row["prompt"]) and row["target"] for row in named)


def _rows(path: Path) -> None:
    dataset = open_dataset(str(path))
    for place, row in enumerate(read_rows(dataset)):
        assert row.number == place
        assert (row.edit is None) == bool(row.reason)
        if row.edit is None:
            continue
        texts = [row.edit.prompt, row.edit.target, *row.edit.rephrasings, row.edit.probes_json()]
        assert row.edit.prompt
        assert row.edit.target
        assert all("\0" not in text and text.encode() for text in texts)
        assert sum(map(len, texts)) < 64 * MEMORY


def _config(path: Path) -> None:
    found = Config.read(path.parent)
    found.write(path.parent)
    assert Config.read(path.parent) == found


def _head(path: Path) -> None:
    name = current_branch(path.parent)
    assert name
    assert name.isprintable()


def _adapter(path: Path) -> None:
    for name, data in hostile_samples.adapters().items():
        if name != path.name:
            path.with_name(name).write_bytes(data)
    for delta in read_adapter(path.parent).modules.values():
        assert torch.isfinite(delta.A).all()
        assert torch.isfinite(delta.B).all()


def _sentences(path: Path) -> None:
    found = read_sentences(path)
    assert found
    assert all(one == one.strip() and "\0" not in one for one in found)


def _signature(path: Path) -> None:
    found = signer(path)
    assert found is None or isinstance(found, str)


@cache
def _published() -> Path:
    """A published history, kept as long as this process."""
    _kept.append(tempfile.TemporaryDirectory(prefix="ledger-fuzz-"))
    return hostile_samples.published(Path(_kept[-1].name) / "made")


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _published_file(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(_published() / name).read_bytes()]


def _parquet() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return hostile_samples.parquet_rows(Path(folder))


_S = hostile_samples
TARGETS: Mapping[str, Target] = {
    "patch": Target(read=_patch, name="a.safetensors", samples=_S.patches, files=tensor_files),
    "editor state": Target(
        read=_state, name="a.safetensors", samples=_S.states, files=tensor_files
    ),
    "side memories": Target(
        read=_memories, name="a.safetensors", samples=_S.memories, files=tensor_files
    ),
    "checkpoint": Target(
        read=_checkpoint, name=SINGLE_FILE, samples=_S.checkpoints, files=tensor_files
    ),
    "checkpoint index": Target(
        read=_checkpoint, name=INDEX_FILE, samples=_S.indexes, files=json_files
    ),
    "provenance": Target(
        read=_provenance, name=PROVENANCE_FILE, samples=_S.provenances, files=json_files
    ),
    "manifest": Target(
        read=_manifest, name=MANIFEST, samples=_published_file(MANIFEST), files=json_files
    ),
    "manifest, hashed anew": Target(
        read=_manifest_hashed_anew,
        name=MANIFEST,
        samples=_published_file(MANIFEST),
        files=json_files,
    ),
    "published edits": Target(
        read=_published_edits, name=EDITS, samples=_published_file(EDITS), files=line_files
    ),
    "JSON rows": Target(read=_rows, name="a.json", samples=_S.json_rows, files=json_files),
    "JSON lines": Target(read=_rows, name="a.jsonl", samples=_S.json_lines, files=line_files),
    "CSV rows": Target(read=_rows, name="a.csv", samples=_S.csv_rows),
    "Parquet rows": Target(read=_rows, name="a.parquet", samples=_parquet),
    "configuration": Target(read=_config, name=CONFIG, samples=_S.configs, files=json_files),
    "current branch": Target(read=_head, name=HEAD_FILE, samples=_S.heads),
    "adapter settings": Target(
        read=_adapter, name=CONFIG_FILE, samples=_S.adapter_settings, files=json_files
    ),
    "adapter weights": Target(
        read=_adapter, name=WEIGHTS_FILE, samples=_S.adapter_weights, files=tensor_files
    ),
    "sentences": Target(read=_sentences, name="a.txt", samples=_S.sentences),
    "signature": Target(read=_signature, name="a.sig", samples=_S.signatures, files=json_files),
}


def attempt(target: Target, data: bytes, folder: Path) -> bool:
    """Let the reader of `target` read `data`; whether it accepts it.

    folder: an empty one. AssertionError, or whatever the reader raises, where it fails.
    """
    inside = folder / "inside"
    inside.mkdir()
    path = inside / target.name
    path.write_bytes(data)
    peak, start = _peak(), time.monotonic()
    try:
        target.read(path)
        accepted = True
    except EditLedgerError as error:
        accepted = False
        told = str(error)
        assert told
        assert len(told) < 20_000, told[:200]
        told.encode("utf-8", "surrogateescape")
    assert time.monotonic() - start < SECONDS, f"{data[:200]!r} took too long"
    assert _peak() - peak < MEMORY, f"{data[:200]!r} took too much memory"
    assert [one.name for one in folder.iterdir()] == ["inside"]
    return accepted


def _peak() -> int:
    """The most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def once(target: Target, data: bytes) -> bool:
    """`attempt` in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="ledger-fuzz-") as folder:
        return attempt(target, data, Path(folder))


def fuzz_batch(target: Target, *, examples: int, number: int) -> int:
    """Try hostile inputs, always the same for a seed `number`; how many."""
    tried = 0

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def run(data: bytes) -> None:
        nonlocal tried
        tried += 1
        once(target, data)

    run()
    return tried


def fuzz(*, seconds: float, seed: int, coverage: bool = True) -> dict[str, int]:
    """Try hostile inputs on every target for a time; target → how many.

    coverage: spend half of it with atheris, where that is installed; an entry with its name says
    how many inputs those were, and a missing entry that it is not.
    """
    coverage = coverage and importlib.util.find_spec("atheris") is not None
    share = seconds / len(TARGETS) / (2 if coverage else 1)
    tried: dict[str, int] = {}
    for name, target in TARGETS.items():
        end, number, count = time.monotonic() + share, seed, 0
        while not count or time.monotonic() < end:
            count += fuzz_batch(target, examples=_BATCH, number=number)
            number += 1
        tried[name] = count
    if coverage:
        for name in TARGETS:
            tried[f"{name}, by coverage"] = fuzz_with_coverage(name, seconds=share, seed=seed)
    return tried


def fuzz_with_coverage(name: str, *, seconds: float, seed: int) -> int:
    """Let atheris look for inputs in a process of its own; how many it tried. RuntimeError, with
    what it says, if one of them fails."""
    words = ["--seconds", str(max(1, round(seconds))), "--seed", str(seed)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing_coverage", name, *words],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 120,
        check=False,
    )
    found = _TRIED.search(ended.stderr)
    if ended.returncode or found is None:
        raise RuntimeError(f"{name}: {ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
    return int(found[1])
