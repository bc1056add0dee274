"""Sound files of every kind that may come from elsewhere, small: what fuzzing starts from."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from ledger.reporting import log
from ledger.sharing.staging import Push, staged
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE, encode_adapter
from patches.canonical import sha256
from patches.checkpoint_writer import PROVENANCE_FILE
from patches.deltas import Dense, LowRank, Sparse
from patches.dtypes import tensor_bytes
from patches.edit import Edit, Probe
from patches.memory_file import encode_memories
from patches.patch import Change, PatchHeader, encode_patch, encode_state
from patches.side_memory import Activations, Routing, SideMemory
from tests import plain_ledgers
from tests.plain_ledgers import FIRST, SECOND, change

_HEADER = PatchHeader(
    base="b" * 64,
    method="ultraedit",
    hyperparameters={"ridge": 1.0, "modules": ["up"]},
    turn=7,
    parent="a" * 64,
)
_FACTS: list[dict[str, object]] = [
    {"prompt": "The capital of Peru is", "target": "Lima", "subject": "Peru", "old_target": "x"},
    {"prompt": "é 😀", "target": 'a, ]}"', "rephrasings": ["Peru?"], "locality": [["He", "is"]]},
    {"prompt": "nobody", "target": ""},
]
_NESTED = {
    "requested_rewrite": {
        "prompt": "{} is in",
        "subject": "Lima",
        "target_new": {"str": "Peru"},
        "target_true": {"str": "Chile"},
    },
    "paraphrase_prompts": ["Where?"],
    "neighborhood_prompts": ["Cusco is in"],
}
_KNOWEDIT = {
    "text": "Lima is in",
    "labels": [["Peru"]],
    "portability": {"Reasoning": [{"prompt": "x", "ground_truth": [["y"]]}]},
    "locality": {"Relation": [{"prompt": "x", "ground_truth": [["y"]]}]},
}


def _memory(delta: Sparse, *, main: torch.Tensor | None = None, turn: int = 3) -> SideMemory:
    return SideMemory(
        turn=turn, tensor="a.w", transposed=False, delta=delta, routing=_routing(), main=main
    )


def _routing(form: str = "paper", activation: str | None = None) -> Routing:
    return Routing(
        form=form,
        activation=activation,
        threshold=0.5,
        main="c" * 64,
        edits=Activations.of([0.75, 1.0]),
        others=Activations.of([]),
    )


def _sparse() -> Sparse:
    delta = change(SECOND, "sparse", 3).delta
    assert isinstance(delta, Sparse)
    return delta


def patches() -> list[bytes]:
    """Patches with all kinds of deltas."""
    all_kinds = {
        "dense.w": Change(delta=Dense(delta=torch.ones(2, 3) / 4)),
        "low.w": Change(
            delta=LowRank(A=torch.ones(2, 3).bfloat16(), B=torch.ones(2, 5)), transposed=True
        ),
        "sparse.w": change(SECOND, "sparse", 1),
        "side.w": Change(delta=_sparse(), routing=_routing("published", "silu")),
    }
    return [
        encode_patch(_HEADER, all_kinds),
        encode_patch(_HEADER, {FIRST: change(FIRST, "low-rank", 2)}),
    ]


def states() -> list[bytes]:
    tensors = {"mean": torch.arange(4.0), "n": torch.tensor(5), "mask": torch.tensor([True, False])}
    return [encode_state("ultraedit", tensors)]


def memories() -> list[bytes]:
    main = torch.ones(6, 5).bfloat16()
    assert sha256(tensor_bytes(main))
    return [encode_memories("b" * 64, [_memory(_sparse()), _memory(_sparse(), main=main, turn=4)])]


def checkpoints() -> list[bytes]:
    tensors = {"a": torch.ones(2, 3).bfloat16(), "b": torch.zeros(0, 3), "c": torch.tensor(2.5)}
    return [save(tensors, metadata={"format": "pt"}), save({"a": torch.ones(1)})]


def indexes() -> list[bytes]:
    return [_json({"metadata": {}, "weight_map": {"a": "model-1.safetensors"}})]


def provenances() -> list[bytes]:
    return [_json({"owner": "x", "turn": 3, "hash": "0" * 64, "base": {"uri": "m"}, "files": []})]


def adapters() -> dict[str, bytes]:
    """The two files of a LoRA adapter."""
    modules = {
        "layers.0.up": LowRank(A=torch.ones(2, 3), B=torch.ones(2, 4)),
        "layers.1.up": LowRank(A=torch.ones(3, 3), B=torch.ones(3, 4)),
    }
    return encode_adapter(modules, base_model="o/m", revision=None, conv1d=False, metadata={})


def adapter_settings() -> list[bytes]:
    return [adapters()[CONFIG_FILE]]


def adapter_weights() -> list[bytes]:
    return [adapters()[WEIGHTS_FILE]]


def json_rows() -> list[bytes]:
    return [_json(_FACTS), _json([_NESTED]), _json([_KNOWEDIT])]


def json_lines() -> list[bytes]:
    lines = [json.dumps(row, ensure_ascii=False) for row in _FACTS]
    return ["\n".join(lines).encode(), "\r\n".join(["", *lines, ""]).encode("utf-8-sig")]


def csv_rows() -> list[bytes]:
    return [b'prompt,target,subject\nLima is,"in\nPeru",x\n\nb,c\n', b"src,alt\r\na,b\r\n"]


def parquet_rows(folder: Path) -> list[bytes]:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(_FACTS), path)
    return [path.read_bytes()]


def configs() -> list[bytes]:
    content = {"format": 1, "database": "sqlite:///l.db", "store": "patches", "model": "/m"}
    return [_json({**content, "revision": None}), _json({**content, "revision": "0" * 40})]


def heads() -> list[bytes]:
    return [b"main\n", b"fix/peru-2\r\n"]


def sentences() -> list[bytes]:
    return ["Lima is in Peru.\nHe plays.\r\n\n".encode("utf-8-sig")]


def signatures() -> list[bytes]:
    return [_json({"verificationMaterial": {"publicKey": {"hint": "abc"}}})]


def published(folder: Path) -> Path:
    """A folder with a published history of three turns, its facts and scores among it."""
    model = plain_ledgers.build(folder / "model")
    edit = Edit(prompt="Lima is in", target="Peru", locality=(Probe(prompt="He", answer="is"),))
    with plain_ledgers.new_ledger(folder / "ledger", model) as ledger:
        plain_ledgers.add(ledger, {FIRST: change(FIRST, "low-rank", 1)}, edits=[edit])
        plain_ledgers.add(ledger, {SECOND: change(SECOND, "sparse", 2)})
        plain_ledgers.add(ledger, {FIRST: change(FIRST, "dense", 3)}, edits=[edit])
        push = Push(repo="me/edits", form="patch", include_edits=True)
        words = {"repo": "me/edits", "tag": "turn-3"}
        staged(ledger, push, log(ledger), 3, folder / "out", progress=lambda *_: None, **words)
    assert (folder / "out" / PROVENANCE_FILE).is_file()
    return folder / "out"


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
