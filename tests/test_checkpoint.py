"""Reading model folders: what is found, what is refused and how, digests and the fingerprint."""

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from patches.checkpoint import Checkpoint, fingerprint, open_checkpoint, tensor_digests
from patches.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def weights() -> Tensors:
    """Tensors of several dtypes and odd shapes, among them an empty one and a scalar."""
    draw = torch.Generator().manual_seed(7)
    return {
        "model.embed.weight": torch.randn(11, 4, generator=draw).to(torch.bfloat16),
        "model.layers.0.down.weight": torch.randn(4, 6, generator=draw),
        "model.layers.1.down.weight": torch.randn(4, 6, generator=draw).to(torch.float16),
        "model.empty": torch.zeros(0, 3),
        "model.scale": torch.tensor(2.5),
        "model.mask": torch.tensor([True, False, True]),
    }


def save_model(folder: Path, shards: dict[str, Tensors]) -> Path:
    """A model folder: one weight file, or several with their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "none"}')
    for file, tensors in shards.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if list(shards) != ["model.safetensors"]:
        write_index(folder, {name: file for file, part in shards.items() for name in part})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def in_two(tensors: Tensors) -> dict[str, Tensors]:
    """The same tensors in two shards, the last ones first."""
    names = list(tensors)[::-1]
    return {
        "model-00001-of-00002.safetensors": {name: tensors[name] for name in names[:2]},
        "model-00002-of-00002.safetensors": {name: tensors[name] for name in names[2:]},
    }


def raw_model(folder: Path, header: object, data: bytes) -> Path:
    """A model folder whose weight file has the given header, right or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    (folder / "model.safetensors").write_bytes(content)
    return folder


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("split", [lambda t: {"model.safetensors": t}, in_two])
def test_every_tensor_is_found_with_its_dtype_shape_and_bytes(
    tmp_path: Path, split: Callable[[Tensors], dict[str, Tensors]]
) -> None:
    tensors = weights()
    checkpoint = open_checkpoint(save_model(tmp_path / "model", split(tensors)))
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.shards == tuple(sorted(split(tensors)))
    for name, tensor in tensors.items():
        found = checkpoint.tensors[name]
        assert found.shape == tuple(tensor.shape)
        assert checkpoint.read(name) == bytes_of(tensor)
    assert checkpoint.tensors["model.embed.weight"].dtype == "BF16"
    assert checkpoint.tensors["model.mask"].dtype == "BOOL"


def test_tensors_come_in_the_order_in_which_they_lie(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "model", in_two(weights())))
    places = [(tensor.file, tensor.start) for tensor in checkpoint.tensors.values()]
    assert places == sorted(places)


def test_a_tensor_that_is_read_can_be_changed_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "model", {"model.safetensors": weights()}))
    data = checkpoint.read("model.embed.weight")
    read = torch.frombuffer(data, dtype=torch.bfloat16).reshape(11, 4)
    assert torch.equal(read, weights()["model.embed.weight"])
    assert not recwarn.list


def test_numpy_files_and_files_without_metadata_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_numpy({"w": np.arange(6, dtype=np.int64).reshape(2, 3)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors["w"].dtype == "I64"
    assert np.frombuffer(checkpoint.read("w"), dtype=np.int64).tolist() == list(range(6))


def test_packed_types_below_a_byte_are_measured_in_bits(tmp_path: Path) -> None:
    header = {"w": entry("F4", [2, 3], 0, 3), "v": entry("F6_E2M3", [4], 3, 6)}
    checkpoint = open_checkpoint(raw_model(tmp_path / "model", header, b"abcdef"))
    assert checkpoint.read("w") == b"abc"
    assert checkpoint.read("v") == b"def"


def test_a_tied_head_that_is_not_stored_is_not_invented(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "model", max_shard_size="1KB")
    checkpoint = open_checkpoint(tmp_path / "model")
    assert len(checkpoint.shards) > 1
    state = {
        name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"
    }
    assert set(checkpoint.tensors) == set(state)
    for name, tensor in state.items():
        assert checkpoint.read(name) == bytes_of(tensor)


def test_a_hugging_face_cache_made_of_links_is_read_through(tmp_path: Path) -> None:
    real = save_model(tmp_path / "blobs", in_two(weights()))
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in real.iterdir():
        (snapshot / file.name).symlink_to(os.path.relpath(file, snapshot))
    direct, linked = open_checkpoint(real), open_checkpoint(snapshot)
    assert tensor_digests(linked) == tensor_digests(direct)


def test_the_single_file_wins_over_a_leftover_index_as_in_transformers(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", {"model.safetensors": weights()})
    write_index(folder, {"other": "gone.safetensors"})
    assert open_checkpoint(folder).shards == ("model.safetensors",)


def test_the_digest_of_a_tensor_is_the_sha256_of_its_bytes_for_any_number_of_threads(
    tmp_path: Path,
) -> None:
    tensors = weights() | {"big": torch.arange(1_500_000, dtype=torch.float32)}
    checkpoint = open_checkpoint(save_model(tmp_path / "model", in_two(tensors)))
    expected = {name: hashlib.sha256(bytes_of(t)).hexdigest() for name, t in tensors.items()}
    for threads in (0, 1, 2, 5):
        assert tensor_digests(checkpoint, threads=threads) == expected
    assert tensor_digests(checkpoint, names=["big"]) == {"big": expected["big"]}


def test_progress_of_digests_ends_at_the_whole(tmp_path: Path) -> None:
    tensors = {"big": torch.zeros(1_500_000), "small": torch.zeros(3)}
    checkpoint = open_checkpoint(save_model(tmp_path / "model", {"model.safetensors": tensors}))
    seen: list[tuple[int, int]] = []
    tensor_digests(checkpoint, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (6_000_012, 6_000_012)


def test_digests_of_a_big_tensor_need_little_memory(tmp_path: Path) -> None:
    tensors = {"big": torch.zeros(64 * 1024 * 1024, dtype=torch.uint8)}
    checkpoint = open_checkpoint(save_model(tmp_path / "model", {"model.safetensors": tensors}))
    tracemalloc.start()
    try:
        tensor_digests(checkpoint)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_an_error_of_the_progress_function_ends_the_digests(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "model", in_two(weights())))

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensor_digests(checkpoint, progress=stop)


def print_of(checkpoint: Checkpoint) -> str:
    return fingerprint(checkpoint, tensor_digests(checkpoint))


def test_the_fingerprint_does_not_depend_on_sharding_or_order(tmp_path: Path) -> None:
    whole = open_checkpoint(save_model(tmp_path / "a", {"model.safetensors": weights()}))
    parted = open_checkpoint(save_model(tmp_path / "b", in_two(weights())))
    assert list(whole.tensors) != list(parted.tensors)
    assert print_of(whole) == print_of(parted)


def test_the_fingerprint_is_pinned(tmp_path: Path) -> None:
    header = {"b": entry("U8", [2], 0, 2), "a": entry("U8", [1, 2], 2, 4)}
    checkpoint = open_checkpoint(raw_model(tmp_path / "model", header, b"\0\1\2\3"))
    of_a, of_b = (hashlib.sha256(data).hexdigest() for data in (b"\2\3", b"\0\1"))
    text = f'[["a","U8",[1,2],"{of_a}"],["b","U8",[2],"{of_b}"]]'
    assert print_of(checkpoint) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "header",
    [
        {"renamed": entry("I16", [2], 0, 4)},
        {"w": entry("F16", [2], 0, 4)},
        {"w": entry("I16", [1, 2], 0, 4)},
    ],
)
def test_the_fingerprint_changes_with_name_dtype_shape_and_bytes(
    tmp_path: Path, header: object
) -> None:
    original = {"w": entry("I16", [2], 0, 4)}
    base = print_of(open_checkpoint(raw_model(tmp_path / "a", original, b"abcd")))
    assert print_of(open_checkpoint(raw_model(tmp_path / "b", header, b"abcd"))) != base
    assert print_of(open_checkpoint(raw_model(tmp_path / "c", original, b"abce"))) != base


def test_a_fingerprint_from_incomplete_digests_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "model", in_two(weights())))
    digests = tensor_digests(checkpoint)
    del digests["model.scale"]
    with pytest.raises(CheckpointError, match=r"no digest of model\.scale"):
        fingerprint(checkpoint, digests)


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "model", in_two(weights())))
    with pytest.raises(CheckpointError, match="no tensor named 'nope'"):
        checkpoint.read("nope")
    with pytest.raises(CheckpointError, match="no tensor named 'nope'"):
        tensor_digests(checkpoint, names=["nope"])


def test_a_file_that_is_cut_off_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", {"model.safetensors": weights()})
    checkpoint = open_checkpoint(folder)
    last = list(checkpoint.tensors)[-1]
    os.truncate(folder / "model.safetensors", checkpoint.tensors[last].end - 1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ends inside tensor"):
        checkpoint.read(last)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ends inside tensor"):
        tensor_digests(checkpoint)


def test_reading_a_checkpoint_does_not_import_torch() -> None:
    code = (
        "import sys, patches.checkpoint, patches.checkpoint_writer; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
