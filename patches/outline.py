"""The modules of a model by name, laid out from its checkpoint, without the library that runs it.

To record an adapter it must be known which modules a model has, which of them are linear, and which
are tied. transformers knows that of every architecture, but takes two seconds to load. In the
decoders here every module is named in the checkpoint as it is in the model.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from patches.checkpoint import Checkpoint
from patches.dtypes import DTYPES, EDITABLE
from patches.strict_json import read_strict_json
from patches.tensor_file import StoredTensor

# model_type → its causal language model in transformers.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_EMBEDDINGS, _HEAD = "model.embed_tokens", "lm_head"
_LAYER = r"model\.layers\.[0-9]+\."
_LINEAR = re.compile(rf"{_HEAD}|{_LAYER}(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)")
_NORM = re.compile(rf"model\.norm|{_LAYER}((input|post_attention)_layernorm|self_attn\.[qk]_norm)")


def outlined(checkpoint: Checkpoint) -> nn.Module | None:
    """A model with the modules of `checkpoint` on the meta device, for their names; it cannot run.

    None where the names do not say for certain what transformers would build: of an architecture
    that is not known here, quantised, or with other tensors than such a model has.
    """
    config = _config(checkpoint)
    name = ARCHITECTURES.get(str(config.get("model_type")))
    if name is None or not _is_certain(checkpoint, config, name):
        return None
    kind: type[nn.Module] = type(name, (nn.Module,), {})
    root = kind()
    for tensor in checkpoint.tensors.values():
        if not _fits(tensor):
            return None
        _put(root, tensor)
    if config["tie_word_embeddings"]:
        head = nn.Linear(1, 1, bias=False, device="meta")
        head.weight = root.get_parameter(f"{_EMBEDDINGS}.weight")
        root.add_module(_HEAD, head)
    return root


def _is_certain(checkpoint: Checkpoint, config: Mapping[str, Any], name: str) -> bool:
    """Whether the configuration says what the tensors do."""
    tied = config.get("tie_word_embeddings")
    return (
        config.get("architectures") == [name]
        and "quantization_config" not in config
        and config.get("num_hidden_layers") == _layers(checkpoint)
        and isinstance(tied, bool)
        and tied == (f"{_HEAD}.weight" not in checkpoint.tensors)
        and f"{_EMBEDDINGS}.weight" in checkpoint.tensors
    )


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What config.json says; nothing if it cannot be understood, which is for others to report."""
    try:
        found = read_strict_json(checkpoint.folder / "config.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _layers(checkpoint: Checkpoint) -> int:
    """How many layers have a tensor."""
    found = (re.match(_LAYER, name) for name in checkpoint.tensors)
    return len({layer.group() for layer in found if layer})


def _fits(tensor: StoredTensor) -> bool:
    """Whether it is one of a module that is known here."""
    module, _, part = tensor.name.rpartition(".")
    if tensor.dtype not in EDITABLE or part not in ("weight", "bias"):
        return False
    if part == "bias":
        return bool(_LINEAR.fullmatch(module)) and len(tensor.shape) == 1
    if _NORM.fullmatch(module):
        return len(tensor.shape) == 1
    return bool(module == _EMBEDDINGS or _LINEAR.fullmatch(module)) and len(tensor.shape) == 2


def _put(root: nn.Module, tensor: StoredTensor) -> None:
    """Give the module of this tensor its parameter; modules that are not there yet are made."""
    *above, last, part = tensor.name.split(".")
    place = root
    for name in above:
        if name not in place._modules:
            place.add_module(name, nn.Module())
        place = place.get_submodule(name)
    if last not in place._modules:
        linear = _LINEAR.fullmatch(".".join([*above, last]))
        made = nn.Linear(1, 1, bias=False, device="meta") if linear else nn.Module()
        place.add_module(last, made)
    value = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype], device="meta")
    place.get_submodule(last).register_parameter(part, nn.Parameter(value))
