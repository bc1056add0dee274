"""LoRA adapters in PEFT's form, read and written: a folder with two files.

    adapter_model.safetensors   base_model.model.<module>.lora_A.weight   (r, d_in)
                                base_model.model.<module>.lora_B.weight   (d_out, r)
    adapter_config.json         r, lora_alpha and others

PEFT adds ``scale · B A`` to the module's weight as `torch.nn.Linear` has it, (d_out, d_in), also
where the checkpoint stores the transpose (Conv1D). scale is lora_alpha / r, or lora_alpha / √r with
rslora; `rank_pattern` and `alpha_pattern` set both for modules whose name ends with a match.

Written adapters have all scale in lora_B, and lora_alpha = r, so that readers that ignore the
patterns (vLLM) agree with PEFT. Read are these two files only: never a pickle (`.bin`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from patches.canonical_tensors import safetensors_bytes
from patches.deltas import LowRank
from patches.errors import PatchError
from patches.strict_json import read_strict_json
from patches.tensor_file import read_tensor_file

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"

_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(\.[^.]+)?\.weight")
_HUGE = 1e18
# Patterns come with the adapter, and the time that matching one takes may grow with the length of a
# name to the power of the repeats in it, times the choices in every group.
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_MOST = {"[*+?{]": 2, "[(]": 2, "[|]": 16}
_LONGEST_NAME = 250
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# What makes an adapter more, or something else, than B A on the weights of the base.
REFUSED = {
    "use_dora": "DoRA also rescales the weights",
    "lora_bias": "it also changes biases",
    "modules_to_save": "it also replaces whole modules",
    "target_parameters": "it changes parameters that are no linear module's weight",
    "trainable_token_indices": "it also changes rows of the embedding",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "it is in force only after certain tokens (aLoRA)",
    "use_qalora": "it pools its inputs (QALoRA)",
    "monteclora_config": "it samples its weights (MonteCLoRA)",
    "use_bdlora": "its factors are block-diagonal (BD-LoRA)",
    "arrow_config": "it routes between adapters (Arrow)",
    "kasa_config": "it also truncates the weights (KaSA)",
}
# These leave the weights that the adapter is added to as they are.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
# What plays no part in the weights: training, loading, or which modules there are (the keys say).
HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "target_modules"),
    *("exclude_modules", "lora_dropout", "fan_in_fan_out", "layers_to_transform"),
    *("layers_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config"),
    "ensure_weight_tying",
}
UNDERSTOOD = {
    *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """What an adapter adds. modules: name in the model → Δ, the scale in its factor B.

    base_model, revision: what it says that it was made for. settings: what its scales came from.
    unknown: options that are set and mean nothing to this program.
    """

    modules: Mapping[str, LowRank]
    base_model: str | None
    revision: str | None
    settings: Mapping[str, Any]
    unknown: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Scales:
    """Rank and alpha, with PEFT's exceptions for some modules."""

    r: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool

    def of(self, module: str) -> tuple[int, float]:
        """The rank that the configuration gives a module, and the scale of its product."""
        rank = self.ranks.get(_pattern(self.ranks, module), self.r)
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`. A factor B is in its own dtype where the scale leaves it exact, else
    in float32 or float64.

    Raises PatchError, naming the file and the key, for anything but a plain LoRA of linear modules.
    """
    config = _read_config(folder / CONFIG_FILE)
    _refuse_more(folder / CONFIG_FILE, config)
    scales = _scales(folder / CONFIG_FILE, config)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise PatchError(_no_weights(folder))
    pairs = _read_pairs(path)
    known = UNDERSTOOD | HARMLESS | set(REFUSED)
    return Adapter(
        modules={name: _delta(path, name, parts, scales) for name, parts in pairs.items()},
        base_model=_text(config.get("base_model_name_or_path")),
        revision=_text(config.get("revision")),
        settings={
            "r": scales.r,
            "lora_alpha": scales.alpha,
            "use_rslora": scales.rslora,
            "rank_pattern": dict(scales.ranks) or None,
            "alpha_pattern": dict(scales.alphas) or None,
        },
        unknown=tuple(sorted(name for name in set(config) - known if config[name])),
    )


def encode_adapter(
    modules: Mapping[str, LowRank],
    *,
    base_model: str | None,
    revision: str | None,
    conv1d: bool,
    metadata: Mapping[str, str],
) -> dict[str, bytes]:
    """The two files of an adapter: equal content gives equal bytes.

    modules: name in the model → Δ, each with at least one row; factors become float32.
    conv1d: whether the modules are GPT-2's transposed ones. metadata: goes into the weights' file.
    """
    tensors: dict[str, Tensor] = {}
    for name, delta in modules.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = delta.A.float()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = delta.B.float().T.contiguous()
    ranks = {name: delta.A.shape[0] for name, delta in modules.items()}
    config = _config(ranks, base_model=base_model, revision=revision, conv1d=conv1d)
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    weights = safetensors_bytes(tensors, {"format": "pt", **metadata})
    return {CONFIG_FILE: text.encode(), WEIGHTS_FILE: weights}


def _config(
    ranks: Mapping[str, int], *, base_model: str | None, revision: str | None, conv1d: bool
) -> dict[str, Any]:
    largest = max(ranks.values())
    pattern = _rank_pattern(ranks) if len({*ranks.values()}) > 1 else {}
    return {
        "alpha_pattern": pattern,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": conv1d,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": largest,
        "rank_pattern": pattern,
        "revision": revision,
        "target_modules": sorted(ranks),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _rank_pattern(ranks: Mapping[str, int]) -> dict[str, int]:
    """The rank of every module by a pattern that PEFT finds for it: its name, if that will do."""
    # The first pattern with which a module's name ends wins: a longer name must come first.
    named = sorted(ranks, key=lambda name: (-len(name), name))
    plain = {name: ranks[name] for name in named}
    # A dot stands for any character: it may match another module.
    if all(_pattern(plain, name) == name for name in named):
        return plain
    return {f"^{re.escape(name)}": ranks[name] for name in named}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = read_strict_json(path)
    except FileNotFoundError as error:
        raise PatchError(
            f"{path}: no such file; give the folder of a PEFT adapter, with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}"
        ) from error
    except (OSError, ValueError) as error:
        raise PatchError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise PatchError(f"{path}: is not a JSON object")
    return found


def _refuse_more(path: Path, config: Mapping[str, Any]) -> None:
    """PatchError if the adapter does more than add a product to weights."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise PatchError(f"{path}: peft_type is {kind!r}; only LORA adapters can be recorded")
    for key, reason in REFUSED.items():
        if config.get(key):
            raise PatchError(
                f"{path}: {key} is set: {reason}. Merge it into the base with PEFT "
                "(merge_and_unload, save_pretrained) and record that: ledger import --edited FOLDER"
            )
    if config.get("bias", "none") != "none":
        raise PatchError(
            f"{path}: bias is {config['bias']!r}: it also changes biases. Merge it into the base "
            "with PEFT and record that: ledger import --edited FOLDER"
        )
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise PatchError(
            f"{path}: init_lora_weights is {start!r}: it was trained on a base whose weights that "
            "had changed. Save it with PEFT for the unchanged base: save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=…)"
        )


def _scales(path: Path, config: Mapping[str, Any]) -> _Scales:
    def number(key: str, value: Any, kinds: tuple[type, ...]) -> Any:
        # Written so that NaN is refused, and an integer of any length compared.
        if type(value) not in kinds or not abs(value) < _HUGE or (kinds == (int,) and value < 1):
            raise PatchError(f"{path}: {key} is {value!r}, which is not a usable number")
        return value

    def pattern(key: str, kinds: tuple[type, ...]) -> dict[str, Any]:
        found = config.get(key) or {}
        if not isinstance(found, dict):
            raise PatchError(f"{path}: {key} is not a JSON object")
        return {name: number(f"{key} of {name}", one, kinds) for name, one in found.items()}

    try:
        ranks, alphas = pattern("rank_pattern", (int,)), pattern("alpha_pattern", (int, float))
        for name in (*ranks, *alphas):
            _ending(name)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise PatchError(f"{path}: {name!r:.200} is not a usable pattern ({error})") from error
    return _Scales(
        r=number("r", config.get("r", 8), (int,)),
        alpha=number("lora_alpha", config.get("lora_alpha", 8), (int, float)),
        ranks=ranks,
        alphas=alphas,
        rslora=bool(config.get("use_rslora")),
    )


def _pattern(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that the module's name ends with, as PEFT looks for it."""
    return next((p for p in patterns if _ending(p).match(module)), module)


# The module re keeps 512 patterns only, and large models have more modules.
@lru_cache(maxsize=1 << 14)
def _ending(pattern: str) -> re.Pattern[str]:
    _check_effort(pattern)
    return re.compile(rf"(.*\.)?({pattern})$")


def _check_effort(pattern: str) -> None:
    """ValueError for a pattern that could be tried for ever."""
    too_many = any(len(re.findall(sign, pattern)) > most for sign, most in _MOST.items())
    if too_many or _REPEATED_GROUP.search(pattern) or len(pattern) > _LONGEST_NAME:
        raise ValueError("it is long, has many repeats or groups, or repeats a group")


def _no_weights(folder: Path) -> str:
    there = f"only {PICKLE_FILE} is there" if (folder / PICKLE_FILE).exists() else "it is missing"
    return (
        f"{folder}: no {WEIGHTS_FILE}; {there}. A .bin is a pickle, which can run code and is "
        "never read: load the adapter with PEFT where you trust it, and save it as safetensors: "
        "PeftModel.from_pretrained(base, FOLDER).save_pretrained(NEW_FOLDER)"
    )


def _read_pairs(path: Path) -> dict[str, dict[str, Tensor]]:
    """Module → its factors, by A and B, checked one by one."""
    pairs: dict[str, dict[str, Tensor]] = {}
    try:
        read_tensor_file(path)
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                found = _KEY.fullmatch(key) if len(key) <= _LONGEST_NAME else None
                if found is None:
                    raise PatchError(
                        f"{path}: key {key} is not a factor of a linear module; only lora_A and "
                        "lora_B weights can be recorded. Merge the adapter into the base with PEFT "
                        "and record that: ledger import --edited FOLDER"
                    )
                tensor = file.get_tensor(key)
                _check_factor(path, key, tensor)
                module = found["module"].removeprefix(_PREFIX)
                parts = pairs.setdefault(module, {})
                if found["part"] in parts:
                    raise PatchError(f"{path}: key {key}: there is another one for this factor")
                parts[found["part"]] = tensor
    except (SafetensorError, ValueError, OSError) as error:
        raise PatchError(f"{path}: not a readable safetensors file ({error})") from error
    if not pairs:
        raise PatchError(f"{path}: holds no factors")
    return pairs


def _check_factor(path: Path, key: str, tensor: Tensor) -> None:
    if tensor.dtype not in _FLOATS or tensor.dim() != 2 or 0 in tensor.shape:
        raise PatchError(
            f"{path}: key {key} is {str(tensor.dtype).removeprefix('torch.')} "
            f"{list(tensor.shape)}, not a matrix of floating-point numbers; was the adapter saved "
            "whole, and unquantised?"
        )
    if not torch.isfinite(tensor).all():
        raise PatchError(f"{path}: key {key} holds numbers that are not finite")


def _delta(path: Path, module: str, parts: Mapping[str, Tensor], scales: _Scales) -> LowRank:
    for part in "AB":
        if part not in parts:
            key = f"{_PREFIX}{module}.lora_{part}.weight"
            raise PatchError(f"{path}: key {key} is missing beside its other factor")
    a, b = parts["A"], parts["B"]
    rank, scale = scales.of(module)
    if (a.shape[0], b.shape[1]) != (rank, rank):
        raise PatchError(
            f"{path}: the factors of {module} are {list(a.shape)} and {list(b.shape)}, but "
            f"{CONFIG_FILE} gives it rank {rank}"
        )
    scaled = b.double() * scale
    if not torch.isfinite(scaled).all():
        raise PatchError(f"{path}: {module}: its scale {scale:g} makes numbers that are not finite")
    return LowRank(A=a, B=_narrowest(scaled, b.dtype).T.contiguous())


def _narrowest(exact: Tensor, own: torch.dtype) -> Tensor:
    """`exact` in its own dtype, float32 or float64: the first that holds every number."""
    for dtype in (own, torch.float32):
        if torch.equal(exact.to(dtype).double(), exact):
            return exact.to(dtype)
    return exact


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
