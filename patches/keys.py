"""Keys: what reaches a linear module where a model begins to answer, and which are alike.

An edit of a linear module answers to the inputs that are like the keys it was made with, so edits
with similar keys are those that can disturb each other.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from patches.errors import ModelError, SettingError
from patches.modules import editable_modules, is_conv1d
from patches.tokens import Batch, Encoded, by_length, pad

_TOKENS_PER_BATCH = 1024


class _ReachedError(Exception):
    """The run has come to the module, and what comes after it is not wanted."""


@torch.no_grad()
def keys(
    model: nn.Module, module_name: str, prompts: Sequence[Encoded], device: torch.device | str
) -> Tensor:
    """The input of a linear module at the last token of each prompt: (n, d_in), float32.

    There the first token of the answer is predicted; answers in `prompts` are not read. Raises
    ModelError if the module is unknown, not linear or does not run, and SettingError for a prompt
    without tokens.
    """
    module = editable_modules(model).get(module_name)
    if module is None:
        raise ModelError(f"{type(model).__name__} has no linear module {module_name}")
    asked = [Encoded(ids=item.ids[: item.first + 1], answer=()) for item in prompts]
    if not all(item.ids for item in asked):
        raise SettingError("a prompt without tokens has no key; give it some text")
    weight = module.weight
    assert isinstance(weight, Tensor)
    found = torch.empty((len(asked), weight.shape[0 if is_conv1d(module) else 1]))
    for rows in by_length(asked, _TOKENS_PER_BATCH):
        inputs = _inputs(model, module_name, module, pad([asked[row] for row in rows]).to(device))
        last = [len(asked[row].ids) - 1 for row in rows]
        found[rows] = inputs[range(len(rows)), last].float().cpu()
    return found


def nearest(query: Tensor, keys: Tensor, count: int) -> list[tuple[int, float]]:
    """The `count` of `keys` (n, d) most like `query` (d,): index and cosine, the largest first.

    Of equal ones the first comes first. A key of zeros is like nothing: its cosine is 0.
    """
    lengths = torch.linalg.vector_norm(keys, dim=-1) * torch.linalg.vector_norm(query)
    cosines = (keys @ query / lengths.masked_fill(lengths == 0, 1)).clamp(-1, 1)
    order = torch.argsort(cosines, descending=True, stable=True)[:count]
    return list(zip(order.tolist(), cosines[order].tolist(), strict=True))


def _inputs(model: nn.Module, name: str, module: nn.Module, batch: Batch) -> Tensor:
    """(b, t, d_in), in the model's dtype; no more of the model is run than it takes."""
    seen: list[Tensor] = []

    def stop(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])
        raise _ReachedError

    handle = module.register_forward_pre_hook(stop)
    try:
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    except _ReachedError:
        # Some architectures flatten batch and tokens into one dimension.
        return seen[0].reshape(*batch.input_ids.shape, -1)
    finally:
        handle.remove()
    raise ModelError(f"module {name} did not run on the prompts: it has no keys")
