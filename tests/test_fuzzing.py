"""Hostile files: every reader refuses them with a reason, in bounds, or they hold what they say."""

import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from ledger import records
from ledger.canonical_row import LONGEST_ROW
from ledger.datasets import open_dataset, read_rows
from ledger.records import READERS
from ledger.sharing.manifest import parse_manifest
from ledger.sharing.published_edits import read_published_edits
from ledger.workspace import CONFIG, HEAD_FILE, Config, current_branch
from patches.adapter import CONFIG_FILE, read_adapter
from patches.checkpoint import open_checkpoint
from patches.errors import (
    CheckpointError,
    DatasetError,
    EditLedgerError,
    HistoryError,
    ManifestError,
    PatchError,
)
from patches.memory_file import read_memories
from patches.patch import PatchFile, read_state
from tests import hostile_samples
from tests.fuzzing import TARGETS, fuzz, fuzz_batch, once

Json = dict[str, Any]
_EXAMPLES = 25


@pytest.mark.parametrize("name", TARGETS)
def test_a_sound_file_is_accepted(name: str) -> None:
    for sample in TARGETS[name].samples():
        assert once(TARGETS[name], sample)


@pytest.mark.parametrize("name", TARGETS)
def test_a_hostile_file_is_refused_in_bounds_or_holds_what_it_says(name: str) -> None:
    assert fuzz_batch(TARGETS[name], examples=_EXAMPLES, number=7) >= _EXAMPLES


def test_a_campaign_counts_the_inputs_of_every_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzzing._BATCH", 3)
    assert fuzz(seconds=0, seed=1, coverage=False).keys() == TARGETS.keys()


# --- patches ----------------------------------------------------------------------------------


def changed(sample: bytes, change: Callable[[Json], None], *, data: bytes | None = None) -> bytes:
    """A safetensors file with another header; texts in its metadata that are JSON are opened."""
    (length,) = struct.unpack("<Q", sample[:8])
    header = json.loads(sample[8 : 8 + length])
    metadata = header["__metadata__"]
    opened = [name for name, text in metadata.items() if text[:1] in ("{", "[")]
    metadata.update({name: json.loads(metadata[name]) for name in opened})
    change(header)
    metadata.update({name: json.dumps(metadata[name]) for name in opened})
    return with_header(json.dumps(header).encode(), sample[8 + length :] if data is None else data)


def with_header(text: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def read_patch(path: Path) -> None:
    """All of it."""
    patch = PatchFile(path)
    for name in (*patch.changes, *patch.memories):
        patch.delta(name)


def put(*path: str, value: Any) -> Callable[[Json], None]:
    """A change of a header at a path; keys may have a point and a slash in them."""

    def change(header: Json) -> None:
        place = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def doubled(name: bytes) -> bytes:
    """The patch with everything of that name in its header twice."""
    (length,) = struct.unpack("<Q", PATCH[:8])
    text, data = PATCH[8 : 8 + length].rstrip(), PATCH[8 + length :]
    start = text.index(name)
    end = min(at for sign in b",}" if (at := text.find(sign, start)) > 0)
    if text[start + len(name) + 1 : start + len(name) + 2] == b"{":
        end = text.index(b"}", start) + 1
    return with_header(text[:end] + b"," + text[start:end] + text[end:], data)


PATCH = hostile_samples.patches()[0]
LOW, DENSE, SPARSE, SIDE = "low.w", "dense.w", "sparse.w", "side.w"
INFO = ("__metadata__", "changes")


def with_tensors(**tensors: torch.Tensor) -> bytes:
    """The patch with other tensors, by name with two underscores for the slash."""
    from safetensors.torch import load

    (length,) = struct.unpack("<Q", PATCH[:8])
    metadata = json.loads(PATCH[8 : 8 + length])["__metadata__"]
    named = {name.replace("__", ".w/"): tensor for name, tensor in tensors.items()}
    return save({**load(PATCH), **named}, metadata=metadata)


HOSTILE_PATCHES: dict[str, tuple[bytes, str]] = {
    "a header longer than the file": (struct.pack("<Q", 2**40) + PATCH[8:], "cut off"),
    "a length beyond the file": (
        changed(PATCH, put("dense.w/delta", "data_offsets", value=[0, 2**40])),
        "data_offsets that do not fit",
    ),
    "an overlap": (
        changed(PATCH, put("low.w/A", "data_offsets", value=[0, 12])),
        "leaves a gap or overlaps",
    ),
    "bytes after the last tensor": (PATCH + b"\0" * 8, "bytes long where its header describes"),
    "another dtype of that size": (
        changed(PATCH, put("low.w/B", "dtype", value="I32")),
        "low-rank factors hold fractions",
    ),
    "a dtype that is not ours": (
        changed(PATCH, put("low.w/B", "dtype", value="U32")),
        "is stored as U32",
    ),
    "a dtype that nobody knows": (
        changed(PATCH, put("low.w/B", "dtype", value="F31")),
        "unknown dtype",
    ),
    "NaN": (with_tensors(dense__delta=torch.full((2, 3), torch.nan)), "not finite"),
    "infinity": (with_tensors(low__B=torch.full((2, 5), -torch.inf)), "not finite"),
    "infinity in a side memory": (
        with_tensors(side__values=torch.full((9,), torch.inf)),
        "not finite",
    ),
    "a huge shape": (
        changed(PATCH, put("low.w/A", "shape", value=[2**40, 2**40])),
        "no valid shape",
    ),
    "a huge shape of nothing": (
        changed(PATCH, put("low.w/A", "shape", value=[0, 2**62])),
        "no valid shape",
    ),
    "a huge shape in words": (
        changed(PATCH, put(*INFO, LOW, "shape", value=[2**62, 2**62])),
        "its header says",
    ),
    "a tensor twice": (doubled(b'"low.w/A"'), "occurs twice"),
    "a base twice": (doubled(b'"base"'), "occurs twice"),
    "a change twice": (doubled(rb"\"low.w\""), "occurs twice"),
    "a mask with more marks than values": (
        with_tensors(sparse__mask=torch.full((4,), 0b1, dtype=torch.uint8)),
        "marks 4 entries",
    ),
    "a mask with marks beyond the matrix": (
        with_tensors(sparse__mask=torch.full((4,), 0xFF, dtype=torch.uint8)),
        "beyond its end",
    ),
    "a mask that is too short": (
        with_tensors(sparse__mask=torch.ones(3, dtype=torch.uint8)),
        "has 4 bytes",
    ),
    "a shape that is no shape": (with_tensors(sparse__shape=torch.tensor(30)), "not of the shape"),
    "an empty shape": (
        with_tensors(sparse__shape=torch.zeros(0, dtype=torch.int64)),
        "not of the shape",
    ),
    "factors of two ranks": (with_tensors(low__A=torch.ones(3, 3)), "low-rank factors must be"),
    "another rank than said": (changed(PATCH, put(*INFO, LOW, "rank", value=3)), "has rank 2"),
    "a rank where there is none": (changed(PATCH, put(*INFO, DENSE, "rank", value=2)), "rank None"),
    "a negative rank": (changed(PATCH, put(*INFO, LOW, "rank", value=-2)), "damaged"),
    "an unknown version": (
        changed(PATCH, put("__metadata__", "version", value="2")),
        "format version 2, this program reads 1",
    ),
    "an unknown kind": (
        changed(PATCH, put(*INFO, LOW, "kind", value="holographic")),
        "unknown kind 'holographic'",
    ),
    "a tensor of nobody": (with_tensors(stray__delta=torch.ones(1)), "belongs to no change"),
    "a turn in other digits": (
        changed(PATCH, put("__metadata__", "turn", value="1_0")),
        "is not a number",
    ),
    "hyperparameters that are no object": (
        changed(PATCH, put("__metadata__", "hyperparameters", value=[["a", "b"]])),
        "not a JSON object",
    ),
    "hyperparameters beyond numbers": (
        changed(PATCH, put("__metadata__", "hyperparameters", "ridge", value=float("nan"))),
        "NaN is not JSON",
    ),
    "a threshold that no float holds": (
        changed(PATCH, put(*INFO, SIDE, "routing", "threshold", value=10**400)),
        "too large",
    ),
    "a threshold of text": (
        changed(PATCH, put(*INFO, SIDE, "routing", "threshold", value="1")),
        "not a number",
    ),
    "activations of nobody": (
        changed(PATCH, put(*INFO, SIDE, "routing", "edits", "n", value=-1)),
        "activations of -1",
    ),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE_PATCHES.values(), ids=HOSTILE_PATCHES)
def test_a_patch_that_lies_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert once(TARGETS["patch"], PATCH)
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(PatchError) as caught:
        read_patch(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_state_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = hostile_samples.states()[0]
    path.write_bytes(state.replace(struct.pack("<f", 3.0), struct.pack("<f", float("nan"))))
    with pytest.raises(PatchError, match="mean holds numbers that are not finite"):
        read_state(path)


def test_a_side_memory_whose_main_weight_was_altered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    data = bytearray(hostile_samples.memories()[0])
    at = data.rindex(torch.ones(30).bfloat16().view(torch.uint8).numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(PatchError, match="not what its name says"):
        read_memories(path)


# --- datasets ---------------------------------------------------------------------------------

ROW = b'{"prompt": "Lima is in", "target": "Peru"}'
HOSTILE_ROWS: dict[str, tuple[str, bytes, str]] = {
    "deep nesting": ("a.json", b"[%s,\n" % ROW + b"[" * 100_000, "row 1, line 2: .*too deeply"),
    "deep nesting, by lines": ("a.jsonl", ROW + b"\n" + b'{"a":' * 9999, "row 1.*too deeply"),
    "a field twice": (
        "a.json",
        b'[%s,\n{"prompt": "a", "target": "b", "target": "c"}]' % ROW,
        "row 1, line 2: the key 'target' occurs twice",
    ),
    "a field twice, by lines": (
        "a.jsonl",
        ROW + b'\n\n{"prompt": "a", "prompt": "b"}',
        "row 1, line 3: the key 'prompt' occurs twice",
    ),
    "a number without end": ("a.json", b"[%s,%s]" % (ROW, b"9" * 5000), "row 1, line 1: Exceeds"),
    "invalid UTF-8": ("a.json", b'[%s,\n{"a":"\xff"}]' % ROW, "byte .* in row 1, line 2, cannot"),
    "invalid UTF-8, by lines": ("a.jsonl", ROW + b"\n\xff\n", "in line 2, cannot be decoded"),
    "UTF-16": ("a.json", '["é"]'.encode("utf-16"), "is not UTF-8"),
    "NUL after the end": ("a.json", b"[%s]\0" % ROW, "more text after the end"),
    "very many columns twice": ("a.csv", b"a,b," * 100_000 + b"\n", "and 1 more|more than once"),
}


@pytest.mark.parametrize(("name", "data", "reason"), HOSTILE_ROWS.values(), ids=HOSTILE_ROWS)
def test_a_hostile_dataset_is_refused_with_the_place(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=reason) as caught:
        list(read_rows(open_dataset(str(path))))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path, name: str) -> None:
    rows = {
        "a.json": b"[\r\n%s\r\n]\r\n" % ROW,
        "a.jsonl": b"%s\r\n\r\n" % ROW,
        "a.csv": b"prompt,target\r\nLima is in,Peru\r\n",
    }
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + rows[name])
    [row] = read_rows(open_dataset(str(path)))
    assert row.edit is not None
    assert (row.edit.prompt, row.edit.target) == ("Lima is in", "Peru")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1", "no prompt"),
        ('{"prompt": 1, "target": "a"}', "prompt is not text: 1"),
        ('{"prompt": ["a"], "target": "a"}', "prompt is not text: list"),
        ('{"prompt": "a", "target": {"b": 1}}', "target is not text: dict"),
        ('{"prompt": "a", "target": "b", "locality": "c"}', "locality is not a list"),
        ('{"prompt": "a\\u0000", "target": "b"}', "prompt holds a NUL character"),
        ('{"prompt": "a", "target": "\\ud800"}', "target holds a lone surrogate"),
    ],
)
def test_a_row_of_wrong_types_is_skipped_with_the_reason(
    tmp_path: Path, value: str, reason: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{ROW.decode()}, {value}, {ROW.decode()}]")
    first, odd, last = read_rows(open_dataset(str(path)))
    assert first.edit == last.edit != None  # noqa: E711 (a chain)
    assert odd.edit is None
    assert reason in str(odd.reason) or "not an object" in str(odd.reason)


def test_control_and_bidirectional_signs_stay_in_the_data(tmp_path: Path) -> None:
    text = "a\x1b[31m\u202eb\u2066\u200b\x7f\x85c"
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": text, "target": text}]))
    [row] = read_rows(open_dataset(str(path)))
    assert row.edit is not None
    assert row.edit.prompt == row.edit.target == text


class Endless(io.RawIOBase):
    """A gigabyte that is made while it is read: a beginning, then one thing again and again."""

    def __init__(self, start: bytes, again: bytes) -> None:
        super().__init__()
        self._again = again * (1 + (1 << 20) // len(again))
        self._piece = start + self._again
        self.left = 1 << 30

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self._piece), self.left)
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:] or self._again
        self.left -= size
        return size


@pytest.mark.parametrize(
    ("kind", "start", "again"),
    [
        ("json", b'[{"prompt": "', b"x"),
        ("json", b'[{"prompt": "x', b'", "'),
        ("jsonl", b'{"prompt": "', b"x"),
        ("csv", b"prompt,target\n", b"x"),
        ("csv", b'prompt,target\n"', b"x"),
        ("csv", b"prompt,target\n", b'"x\n",'),
    ],
    ids=["a text", "fields", "a line", "a value", "a text in quotes", "lines in quotes"],
)
def test_a_row_of_a_gigabyte_is_refused_before_it_is_in_memory(
    kind: str, start: bytes, again: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LONGEST_ROW", 1 << 20)
    endless = Endless(start, again)
    stream = cast(BinaryIO, io.BufferedReader(endless))
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="a: "):
            list(READERS[kind](stream, "a"))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert endless.left > 1000 << 20


def test_the_bound_of_a_row_is_far_above_any_edit() -> None:
    assert LONGEST_ROW == 8 << 20


def test_a_short_row_that_asks_for_a_very_long_text_is_skipped(tmp_path: Path) -> None:
    rewrite = {"prompt": "{}" * 9000, "subject": "x" * 9000, "target_new": {"str": "y"}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"requested_rewrite": rewrite}]))
    [row] = read_rows(open_dataset(str(path)))
    assert row.reason == "the prompt has too many places for its subject"


def test_one_long_answer_of_very_many_neighbours_is_skipped(tmp_path: Path) -> None:
    rewrite = {"prompt": "a", "target_new": {"str": "y"}, "target_true": {"str": "x" * 9000}}
    path = tmp_path / "a.json"
    row = {"requested_rewrite": rewrite, "neighborhood_prompts": ["b"] * 9000}
    path.write_text(json.dumps([row]))
    [found] = read_rows(open_dataset(str(path)))
    assert str(found.reason).startswith("its texts have 81,")


# --- what else is read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format 2, this program reads 1"),
        ({"format": True, "store": "a\0b"}, "NUL"),
        ({"store": ["a"]}, "store is"),
        ({"model": ""}, "model is ''"),
        ({"revision": 5}, "revision is 5"),
        ({"database": None}, "database is None"),
    ],
)
def test_a_configuration_of_wrong_types_is_refused(
    tmp_path: Path, change: Json, reason: str
) -> None:
    content = {**json.loads(hostile_samples.configs()[0]), **change}
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(HistoryError, match=reason):
        Config.read(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"null", b"[" * 100_000, b"\xff\xfe{}", b" " * (1 << 21), b"1" * 5000),
        hostile_samples.configs()[0].replace(b'"store"', b'"model"'),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CONFIG).write_bytes(data)
    with pytest.raises(HistoryError, match="cannot be read"):
        Config.read(tmp_path)


def test_a_configuration_from_another_editor_is_accepted(tmp_path: Path) -> None:
    text = hostile_samples.configs()[0].replace(b", ", b",\r\n")
    (tmp_path / CONFIG).write_bytes(b"\xef\xbb\xbf" + text)
    assert Config.read(tmp_path).store == "patches"
    (tmp_path / HEAD_FILE).write_bytes(b"\xef\xbb\xbfdev\r\n")
    assert current_branch(tmp_path) == "dev"


@pytest.mark.parametrize("data", [b"\xff", b"a\nb", b"\x1b[31m", b"a" * (1 << 21), b"a\0b"])
def test_a_current_branch_that_is_no_name_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / HEAD_FILE).write_bytes(data)
    with pytest.raises(HistoryError, match="cannot be read"):
        current_branch(tmp_path)


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a|a)" * 40, ".*" * 20, "(?:a*)*", r"(\w+\.?){30}", "a?" * 30, "x" * 300]
)
def test_a_pattern_that_takes_for_ever_is_refused(tmp_path: Path, pattern: str) -> None:
    files = hostile_samples.adapters()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    content = json.loads(files[CONFIG_FILE])
    content["rank_pattern"] = {pattern: 2}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(PatchError, match="not a usable pattern"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/passwd", "a/b", "..", "a\0", "a" * 300])
def test_an_index_cannot_name_a_file_outside_of_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": file}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"not a plain file name|NUL"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b'{"format": "edit-ledger-manifest", "version": 1, "branch": "a\\u0000"}',
        b'{"format": "edit-ledger-manifest", "version": 1e999}',
        b'{"format": "edit-ledger-manifest", "branch": "\\ud800"}',
        b'{"format": "edit-ledger-manifest", "turns": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_a_manifest_that_cannot_be_stored_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data, "here")


@pytest.mark.parametrize(
    "line",
    [
        b'{"turn":1,"row":0,"prompt":"a","target":"b","subject":null,"old_target":null,'
        b'"probes":{"locality":[[1,2]]}}',
        b'{"turn":1,"turn":2}',
        b"[]",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_published_facts_that_are_none_are_refused_with_the_line(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(ManifestError, match=r"edits\.jsonl, line 1"):
        read_published_edits(path, [])


@pytest.mark.parametrize("name", TARGETS)
def test_an_empty_file_is_no_reason_to_crash(name: str) -> None:
    assert once(TARGETS[name], b"") is (name in ("current branch", "signature", "published edits"))


def packed(path: Path, text: str, rows: int) -> Path:
    """A Parquet file in which every row has that text, which is there once."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    table = pa.table({"prompt": texts, "target": pa.array(["a"] * rows)})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 28)
    assert path.stat().st_size < 10_000
    return path


def test_a_packed_file_is_unpacked_in_parts(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.parquet", "x" * 1_000_000, 5000)
    pool = pa.default_memory_pool()
    before = max(pool.max_memory(), pool.bytes_allocated())
    rows = read_rows(open_dataset(str(path)))
    assert all((row := next(rows)).edit and len(row.edit.prompt) == 1_000_000 for _ in range(20))
    assert pool.max_memory() - before < 200 << 20


def test_a_packed_text_of_no_edit_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.parquet", "x" * (9 << 20), 5000)
    with pytest.raises(DatasetError, match="more than 8 million characters"):
        open_dataset(str(path))


@pytest.mark.parametrize("name", ["checkpoint index", "provenance", "adapter settings"])
def test_a_gigabyte_of_settings_is_refused_before_it_is_in_memory(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / TARGETS[name].name
    with path.open("wb") as file:
        file.write(b"[")
        file.truncate(1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(EditLedgerError, match="larger than 64 MiB"):
            TARGETS[name].read(path)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
