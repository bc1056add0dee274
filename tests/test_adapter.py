"""Adapters in PEFT's form: what is written is what PEFT loads, what PEFT saves is what is read."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from patches import adapter
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE, encode_adapter, read_adapter
from patches.deltas import LowRank
from patches.errors import PatchError
from tests.peft_models import FILTER, trained
from tests.tiny_models import build, load

pytestmark = pytest.mark.filterwarnings(FILTER)
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.2.mlp.down_proj"


def low_rank(seed: int, rows: int, d_out: int, d_in: int) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    return LowRank(
        A=torch.randn(rows, d_in, generator=draw).to(torch.bfloat16),
        B=torch.randn(rows, d_out, generator=draw),
    )


def modules() -> dict[str, LowRank]:
    return {UP: low_rank(1, 3, 48, 32), DOWN: low_rank(2, 5, 32, 48)}


def product(delta: LowRank) -> Tensor:
    return delta.B.double().T @ delta.A.double()


def written(folder: Path, content: Mapping[str, LowRank], *, conv1d: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    files = encode_adapter(
        content, base_model="owner/name", revision="abc", conv1d=conv1d, metadata={"turn": "7"}
    )
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return found


def reconfigured(folder: Path, **changes: Any) -> Path:
    (folder / CONFIG_FILE).write_text(json.dumps({**config(folder), **changes}))
    return folder


def rekeyed(folder: Path, keys: Mapping[str, Tensor]) -> Path:
    save_file({name: t.clone() for name, t in keys.items()}, folder / WEIGHTS_FILE)
    return folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = read_adapter(written(tmp_path / "a", modules()))
    assert (found.base_model, found.revision, found.unknown) == ("owner/name", "abc", ())
    assert set(found.modules) == {UP, DOWN}
    for name, delta in modules().items():
        assert torch.equal(found.modules[name].A, delta.A.float())
        assert torch.equal(found.modules[name].B, delta.B)


def test_equal_content_gives_equal_bytes_whatever_its_order(tmp_path: Path) -> None:
    turned = dict(reversed(modules().items()))
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        one = (written(tmp_path / "a", modules()) / name).read_bytes()
        assert one == (written(tmp_path / "b", turned) / name).read_bytes()


def test_the_files_have_the_names_and_fields_that_readers_look_for(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", modules())
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "turn": "7"}
    assert {name: tuple(t.shape) for name, t in load_file(folder / WEIGHTS_FILE).items()} == {
        f"base_model.model.{UP}.lora_A.weight": (3, 32),
        f"base_model.model.{UP}.lora_B.weight": (48, 3),
        f"base_model.model.{DOWN}.lora_A.weight": (5, 48),
        f"base_model.model.{DOWN}.lora_B.weight": (32, 5),
    }
    found = config(folder)
    assert (found["r"], found["lora_alpha"]) == (5, 5)
    assert found["rank_pattern"] == found["alpha_pattern"] == {UP: 3, DOWN: 5}
    assert found["target_modules"] == [UP, DOWN]
    assert found["base_model_name_or_path"] == "owner/name"


def test_ranks_that_are_equal_need_no_pattern(tmp_path: Path) -> None:
    same = {UP: low_rank(1, 3, 48, 32), DOWN: low_rank(2, 3, 32, 48)}
    assert config(written(tmp_path / "a", same))["rank_pattern"] == {}


class Nested(nn.Module):
    """Names of which one is the end of the other, and dots that a pattern could take for any."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5, bias=False)
        self.inner = nn.ModuleDict({"layer": nn.Linear(6, 5, bias=False)})
        self.deep = nn.ModuleDict({"inner": nn.ModuleDict({"layer": nn.Linear(6, 5, bias=False)})})
        self.innerxlayer = nn.Linear(6, 5, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs)
        return found


def test_peft_gives_every_module_its_own_rank_and_scale(tmp_path: Path) -> None:
    names = ("layer", "inner.layer", "deep.inner.layer", "innerxlayer")
    content = {name: low_rank(n, n + 1, 5, 6) for n, name in enumerate(names)}
    folder = written(tmp_path / "a", content)
    model = Nested()
    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), model)
    result: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS_FILE))
    assert not result.unexpected_keys
    for name, delta in content.items():
        layer: Any = model.get_submodule(name)
        assert layer.r["default"] == delta.A.shape[0]
        assert layer.scaling["default"] == 1
        torch.testing.assert_close(layer.get_delta_weight("default"), product(delta).float())


PEFT_CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 16},
    "rslora": {"r": 6, "lora_alpha": 16, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"0.mlp.MLP": 2, r".*\.2\..*": 3},
        "alpha_pattern": {"MLP": 5},
    },
    "rslora and patterns": {
        "r": 4,
        "lora_alpha": 7,
        "use_rslora": True,
        "rank_pattern": {"^NAME.1.mlp.MLP": 5},
        "alpha_pattern": {"1.mlp.MLP": 3},
    },
}
FAMILIES = {
    "llama": ("down_proj", "model.layers"),
    "gpt2": ("c_proj", "transformer.h"),
}


def peft_model(folder: Path, family: str, kind: str) -> Any:
    mlp, layers = FAMILIES[family]
    text = json.dumps(PEFT_CONFIGS[kind]).replace("MLP", mlp).replace("NAME", layers)
    return trained(folder, mlp, **json.loads(text))


@pytest.mark.parametrize("kind", PEFT_CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_peft_is_read_as_what_peft_merges(
    family: str, kind: str, tmp_path: Path
) -> None:
    """Within 1e-6 of float32: PEFT merges in float32, here it is float64."""
    base = build(tmp_path / "base", family, dtype=torch.float32)
    before = dict(load(base).named_parameters())
    model = peft_model(base, family, kind)
    model.save_pretrained(tmp_path / "a")
    found = read_adapter(tmp_path / "a")
    after = dict(model.merge_and_unload().named_parameters())
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert {f"{name}.weight" for name in found.modules} == changed
    assert len(changed) == (6 if family == "gpt2" else 3)
    for name, delta in found.modules.items():
        total = product(delta).T if family == "gpt2" else product(delta)
        weight = before[f"{name}.weight"].double() + total
        torch.testing.assert_close(after[f"{name}.weight"].double(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["{}.lora_A.default.weight", "{}.lora_A.weight"])
@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
def test_keys_with_and_without_the_adapter_s_name_are_read(
    form: str, prefix: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "a", {UP: modules()[UP]})
    keys = {}
    for name, tensor in load_file(folder / WEIGHTS_FILE).items():
        part = "lora_A" if "lora_A" in name else "lora_B"
        keys[prefix + form.format(UP).replace("lora_A", part)] = tensor
    found = read_adapter(rekeyed(folder, keys))
    assert torch.equal(found.modules[UP].B, modules()[UP].B)


@pytest.mark.parametrize(
    ("dtype", "alpha", "expected"),
    [
        (torch.bfloat16, 10, torch.bfloat16),
        (torch.bfloat16, 15, torch.float32),
        (torch.float32, 2.5, torch.float32),
        (torch.float32, 7, torch.float64),
    ],
)
def test_the_scale_is_in_the_factor_b_without_rounding_it(
    dtype: torch.dtype, alpha: float, expected: torch.dtype, tmp_path: Path
) -> None:
    folder = written(tmp_path / "a", {DOWN: modules()[DOWN]})
    keys = {name: t.to(dtype) for name, t in load_file(folder / WEIGHTS_FILE).items()}
    found = read_adapter(reconfigured(rekeyed(folder, keys), lora_alpha=alpha))
    stored = keys[f"base_model.model.{DOWN}.lora_B.weight"].double()
    delta = found.modules[DOWN]
    assert (delta.A.dtype, delta.B.dtype) == (dtype, expected)
    assert torch.equal(delta.B.double().T, stored * (alpha / 5))


def test_every_option_of_peft_is_one_that_is_judged() -> None:
    """A new version of PEFT with an option nobody has looked at shows here."""
    known = adapter.REFUSED.keys() | adapter.HARMLESS | adapter.UNDERSTOOD
    assert {field.name for field in dataclasses.fields(LoraConfig)} - known == set()


def test_an_option_that_is_not_known_is_told(tmp_path: Path) -> None:
    folder = reconfigured(written(tmp_path / "a", modules()), quantum=True, other=None)
    assert read_adapter(folder).unknown == ("quantum",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "only LORA adapters"),
        ({"use_dora": True}, "use_dora is set: DoRA also rescales"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"target_parameters": ["x"]}, "target_parameters is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"r": 0}, "r is 0, which is not a usable number"),
        ({"r": "5"}, "r is '5'"),
        ({"r": 10**400}, "which is not a usable number"),
        ({"lora_alpha": float("nan")}, "NaN is not JSON"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"rank_pattern": [1]}, "rank_pattern is not a JSON object"),
        ({"rank_pattern": {UP: 2.5}}, f"rank_pattern of {UP} is 2.5"),
        ({"alpha_pattern": {"(": 2}}, "'(' is not a usable pattern"),
        ({"rank_pattern": {UP: 4}}, f"the factors of {UP} are [3, 32] and [48, 3]"),
        ({"lora_alpha": 1e300, "alpha_pattern": {}}, "lora_alpha is 1e+300"),
    ],
)
def test_a_configuration_that_means_more_or_nothing_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = reconfigured(written(tmp_path / "a", modules()), **changes)
    with pytest.raises(PatchError) as caught:
        read_adapter(folder)
    assert reason in str(caught.value)
    assert str(folder) in str(caught.value)


KEY = f"base_model.model.{UP}"
ONES = {"A": torch.ones(3, 32), "B": torch.ones(48, 3)}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, "holds no factors"),
        ({f"{KEY}.lora_A.weight": ONES["A"]}, f"key {KEY}.lora_B.weight is missing"),
        ({f"{KEY}.lora_B.weight": ONES["B"]}, f"key {KEY}.lora_A.weight is missing"),
        (
            {f"{KEY}.lora_A.weight": ONES["A"], f"{KEY}.lora_A.other.weight": ONES["A"]},
            "there is another one",
        ),
        ({f"{KEY}.lora_A.weight": ONES["A"] / 0}, "holds numbers that are not finite"),
        ({f"{KEY}.lora_A.weight": torch.ones(3)}, "is float32 [3], not a matrix"),
        ({f"{KEY}.lora_A.weight": torch.ones(0, 3)}, "is float32 [0, 3], not a matrix"),
        ({f"{KEY}.lora_A.weight": torch.ones(3, 32, dtype=torch.int8)}, "is int8 [3, 32]"),
        ({f"{KEY}.lora_embedding_A": ONES["A"]}, f"key {KEY}.lora_embedding_A is not a factor"),
        ({f"{KEY}.lora_magnitude_vector": torch.ones(3)}, "is not a factor of a linear module"),
        ({"base_model.model.lm_head.weight": ONES["A"]}, "is not a factor of a linear module"),
        (
            {f"{KEY}.lora_A.weight": torch.ones(4, 32), f"{KEY}.lora_B.weight": ONES["B"]},
            f"the factors of {UP} are [4, 32] and [48, 3]",
        ),
    ],
)
def test_factors_that_cannot_be_used_are_named(
    keys: dict[str, Tensor], reason: str, tmp_path: Path
) -> None:
    folder = rekeyed(written(tmp_path / "a", modules()), keys)
    with pytest.raises(PatchError) as caught:
        read_adapter(folder)
    assert reason in str(caught.value)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    """It says what to do; the file holds what would delete the evidence if it were loaded."""
    folder = written(tmp_path / "a", modules())
    (folder / WEIGHTS_FILE).unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch loaded'\ntR.")
    with pytest.raises(PatchError, match=r"only adapter_model.bin is there. A .bin is a pickle"):
        read_adapter(folder)
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (CONFIG_FILE, None, "no such file; give the folder of a PEFT adapter"),
        (CONFIG_FILE, b"{", "cannot be read as JSON"),
        (CONFIG_FILE, b"\xff", "cannot be read as JSON"),
        (CONFIG_FILE, b"[" * 100_000, "cannot be read as JSON"),
        (CONFIG_FILE, b"[]", "is not a JSON object"),
        (WEIGHTS_FILE, None, "it is missing"),
        (WEIGHTS_FILE, b"\x80\x02.", "not a readable safetensors file"),
        (WEIGHTS_FILE, b"", "not a readable safetensors file"),
    ],
)
def test_damaged_files_are_named(
    name: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "a", modules())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(PatchError) as caught:
        read_adapter(folder)
    assert reason in str(caught.value)
