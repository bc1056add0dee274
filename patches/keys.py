"""Keys: what reaches a linear module where a model begins to answer, and which are alike.

An edit of a linear module answers to the inputs that are like the keys it was made with, so edits
with similar keys are those that can disturb each other.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patches.errors import ModelError, SettingError
from patches.modules import editable_modules, is_conv1d
from patches.tokens import Batch, Encoded, by_length, pad

_TOKENS_PER_BATCH = 1024


class _ReachedError(Exception):
    """The run has come to the modules, and what comes after them is not wanted."""


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
        batch = pad([asked[row] for row in rows]).to(device)
        inputs = _inputs(model, {module_name: module}, batch)[module_name]
        last = [len(asked[row].ids) - 1 for row in rows]
        found[rows] = inputs[range(len(rows)), last].float().cpu()
    return found


@torch.no_grad()
def keys_of(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    prompts: Sequence[Encoded],
    device: torch.device | str,
    *,
    everywhere: bool = False,
) -> dict[str, Tensor]:
    """The inputs of several modules at the last token of each prompt, or at all tokens: by module
    (n, d_in), in the model's dtype, prompts by length. What comes after the modules is not run."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    for rows in by_length(prompts, _TOKENS_PER_BATCH):
        batch = pad([Encoded(ids=prompts[row].ids, answer=()) for row in rows]).to(device)
        at = batch.attention_mask.bool()
        if not everywhere:
            at &= at.cumsum(-1) == at.sum(-1, keepdim=True)
        for name, inputs in _inputs(model, modules, batch).items():
            found[name].append(inputs[at.to(inputs.device)])
    return {name: torch.cat(parts) for name, parts in found.items()}


def nearest(query: Tensor, keys: Tensor, count: int) -> list[tuple[int, float]]:
    """The `count` of `keys` (n, d) most like `query` (d,): index and cosine, the largest first.

    Of equal ones the first comes first. A key of zeros is like nothing: its cosine is 0.
    """
    lengths = torch.linalg.vector_norm(keys, dim=-1) * torch.linalg.vector_norm(query)
    cosines = (keys @ query / lengths.masked_fill(lengths == 0, 1)).clamp(-1, 1)
    order = torch.argsort(cosines, descending=True, stable=True)[:count]
    return list(zip(order.tolist(), cosines[order].tolist(), strict=True))


def _inputs(model: nn.Module, modules: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
    """By module (b, t, d_in), in the model's dtype; no more of the model is run than it takes."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Some architectures flatten batch and tokens into one dimension.
        seen[name] = inputs[0].reshape(*batch.input_ids.shape, -1)
        if len(seen) == len(modules):
            raise _ReachedError

    with ExitStack() as hooks:
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(partial(keep, name))
            hooks.callback(handle.remove)
        try:
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        except _ReachedError:
            return seen
    missing = next(name for name in modules if name not in seen)
    raise ModelError(f"module {missing} did not run on the prompts: it has no keys")
