"""What is refused as a model folder, and that every refusal names the file and the way out."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from patches.checkpoint import open_checkpoint
from patches.errors import CheckpointError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def sharded_model(folder: Path) -> Path:
    """A model folder with two shards and their index."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(4)}, folder / FIRST)
    save_file({"c": torch.zeros(5, dtype=torch.bfloat16)}, folder / SECOND)
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def raw_model(folder: Path, header: object, data: bytes) -> Path:
    """A model folder whose weight file has the given header, right or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    (folder / "model.safetensors").write_bytes(content)
    return folder


def entry(dtype: object, shape: object, start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_missing_folder_and_a_folder_without_config_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth", "model-Q8.gguf"])
def test_other_weight_formats_are_refused_with_the_way_to_convert_them(
    tmp_path: Path, file: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="save_pretrained") as refusal:
        open_checkpoint(tmp_path)
    assert file in str(refusal.value)
    assert ("gguf_file=" in str(refusal.value)) == file.endswith(".gguf")


def test_safetensors_under_another_name_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": torch.zeros(1)}, tmp_path / "model.fp16.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.fp16\.safetensors.*rename"):
        open_checkpoint(tmp_path)


def test_a_folder_without_any_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(tmp_path)


def test_a_shard_that_is_missing_or_a_dangling_link_is_named(tmp_path: Path) -> None:
    folder = sharded_model(tmp_path / "model")
    shard = folder / SECOND
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors named in"):
        open_checkpoint(folder)
    shard.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors named in"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\b", 7]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path, file: object) -> None:
    folder = sharded_model(tmp_path / "model")
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    write_index(folder, {"w": file})
    with pytest.raises(CheckpointError, match="not a plain file name"):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [{}, None, ["a"], "a"])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    folder = sharded_model(tmp_path / "model")
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match="no weight_map"):
        open_checkpoint(folder)


def test_index_and_shards_must_agree_on_the_tensors(tmp_path: Path) -> None:
    folder = sharded_model(tmp_path / "model")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    write_index(folder, index | {"ghost": FIRST})
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors: lacks ghost"):
        open_checkpoint(folder)
    del index["b"]
    write_index(folder, index)
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors: holds b, which"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}'])
def test_an_index_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = sharded_model(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(folder)


DAMAGED = {
    "a name twice": b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
    b'"w":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}',
    "half a surrogate pair": b'{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    "not utf-8": b'{"\xff":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    "not an object": [1],
    "nested without end": b"[" * 100_000,
    "a number without end": b'{"w":{"dtype":"U8","shape":[' + b"9" * 5000 + b"]}}",
    "an entry without content": {"w": None},
    "unknown dtype": {"w": entry("F12", [4], 0, 4)},
    "dtype is no text": {"w": entry(["U8"], [4], 0, 4)},
    "negative shape": {"w": entry("U8", [-2, -2], 0, 4)},
    "shape with true": {"w": entry("U8", [True, 4], 0, 4)},
    "shape with a fraction": {"w": entry("U8", [4.0], 0, 4)},
    "no shape": {"w": {"dtype": "U8", "data_offsets": [0, 4]}},
    "one offset": {"w": {"dtype": "U8", "shape": [4], "data_offsets": [4]}},
    "offsets reversed": {"w": entry("U8", [4], 4, 0)},
    "offsets beyond the file": {"w": entry("U8", [8], 0, 8)},
    "offsets negative": {"w": entry("U8", [4], -4, 0)},
    "bytes before the first": {"w": entry("U8", [3], 1, 4)},
    "bytes after the last": {"w": entry("U8", [3], 0, 3)},
    "overlap": {"w": entry("U8", [3], 0, 3), "v": entry("U8", [2], 2, 4)},
    "gap": {"w": entry("U8", [1], 0, 1), "v": entry("U8", [2], 2, 4)},
    "size is not shape times dtype": {"w": entry("F32", [2], 0, 4)},
    "half a byte": {"w": entry("F4", [7], 0, 4)},
    "metadata is a number": {"__metadata__": 3, "w": entry("U8", [4], 0, 4)},
    "metadata holds a number": {"__metadata__": {"a": 3}, "w": entry("U8", [4], 0, 4)},
}


@pytest.mark.parametrize("header", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_header_is_refused_and_the_file_is_named(tmp_path: Path, header: object) -> None:
    folder = raw_model(tmp_path / "model", header, b"abcd")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\xff" * 8 + b"{}", b"\3" + b"\0" * 7 + b"{}"]
)
def test_a_header_longer_than_its_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = raw_model(tmp_path / "model", {}, b"")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="cut off"):
        open_checkpoint(folder)


TENSORS = {
    "layers.0.down": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "layers.1.down": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "scale": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "mask": torch.tensor([True, False, True]),
}
SOUND = save(TENSORS, metadata={"format": "pt"})
HEAD = 8 + int.from_bytes(SOUND[:8], "little")


deserialize: Callable[[bytes], list[tuple[str, dict[str, object]]]] = safetensors.deserialize


def as_the_reference_reads(content: bytes) -> dict[str, tuple[object, object, object]] | None:
    """The same file through the safetensors library; None when it refuses."""
    try:
        found = deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (one["dtype"], one["shape"], one["data"]) for name, one in found}


@settings(max_examples=400, deadline=None)
@given(
    changes=st.dictionaries(st.integers(0, HEAD - 1), st.integers(0, 255), max_size=3),
    kept=st.one_of(st.just(len(SOUND)), st.integers(0, len(SOUND))),
)
def test_a_changed_or_cut_file_is_refused_or_read_as_the_format_s_own_library_reads_it(
    changes: dict[int, int], kept: int
) -> None:
    content = bytearray(SOUND)
    for place, value in changes.items():
        content[place] = value
    del content[kept:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(content)
        reference = as_the_reference_reads(bytes(content))
        try:
            checkpoint = open_checkpoint(folder)
        except CheckpointError:
            assert reference is None
            return
        assert reference == {
            one.name: (one.dtype, list(one.shape), checkpoint.read(one.name))
            for one in checkpoint.tensors.values()
        }
