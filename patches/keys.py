"""Keys: what reaches a linear module where a model begins to answer, and which are alike.

An edit of a linear module answers to the inputs that are like the keys it was made with, so edits
with similar keys are those that can disturb each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from patches.errors import ModelError, SettingError
from patches.modules import editable_modules, is_conv1d
from patches.packed import alike, packable, tree
from patches.packed_attention import attending
from patches.tokens import Encoded, by_length, pad

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
    asked = [item.ids[: item.first + 1] for item in prompts]
    if not all(asked):
        raise SettingError("a prompt without tokens has no key; give it some text")
    weight = module.weight
    assert isinstance(weight, Tensor)
    found = torch.empty((len(asked), weight.shape[0 if is_conv1d(module) else 1]))
    for rows, inputs in _read(model, {module_name: module}, asked, device):
        last = [path[-1] for path in inputs.paths]
        found[rows] = inputs.of[module_name][last].float().cpu()
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
    (n, d_in), in the model's dtype, in any order. What comes after the modules is not run."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    for _, inputs in _read(model, modules, [item.ids for item in prompts], device):
        at = [*chain.from_iterable(path if everywhere else path[-1:] for path in inputs.paths)]
        for name, some in inputs.of.items():
            found[name].append(some[at])
    return {name: torch.cat(parts) for name, parts in found.items()}


def nearest(query: Tensor, keys: Tensor, count: int) -> list[tuple[int, float]]:
    """The `count` of `keys` (n, d) most like `query` (d,): index and cosine, the largest first.

    Of equal ones the first comes first. A key of zeros is like nothing: its cosine is 0.
    """
    lengths = torch.linalg.vector_norm(keys, dim=-1) * torch.linalg.vector_norm(query)
    cosines = (keys @ query / lengths.masked_fill(lengths == 0, 1)).clamp(-1, 1)
    order = torch.argsort(cosines, descending=True, stable=True)[:count]
    return list(zip(order.tolist(), cosines[order].tolist(), strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Inputs:
    """of: by module (t, d_in), in the model's dtype. paths: where the tokens of each prompt are."""

    of: dict[str, Tensor]
    paths: Sequence[Sequence[int]]


def _read(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    prompts: Sequence[Sequence[int]],
    device: torch.device | str,
) -> Iterator[tuple[list[int], _Inputs]]:
    """Prompts of token ids by so many at a time, with their indices."""
    if packable(model):
        for rows in alike(prompts, _TOKENS_PER_BATCH):
            row, paths = tree([prompts[i] for i in rows])
            with attending(model, row.to(device)) as given:
                yield rows, _Inputs(of=_run(model, modules, given), paths=paths)
        return
    items = [Encoded(ids=tuple(ids), answer=()) for ids in prompts]
    for rows in by_length(items, _TOKENS_PER_BATCH):
        batch = pad([items[i] for i in rows]).to(device)
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        width = batch.input_ids.shape[1]
        spans = [range(n * width, n * width + len(prompts[i])) for n, i in enumerate(rows)]
        yield rows, _Inputs(of=_run(model, modules, {**given, "use_cache": False}), paths=spans)


def _run(
    model: nn.Module, modules: Mapping[str, nn.Module], given: Mapping[str, Any]
) -> dict[str, Tensor]:
    """By module (t, d_in), of all tokens; no more of the model is run than it takes."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Some architectures flatten batch and tokens into one dimension, as here.
        seen[name] = inputs[0].reshape(-1, inputs[0].shape[-1])
        if len(seen) == len(modules):
            raise _ReachedError

    with ExitStack() as hooks:
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(partial(keep, name))
            hooks.callback(handle.remove)
        try:
            model(**given)
        except _ReachedError:
            return seen
    missing = next(name for name in modules if name not in seen)
    raise ModelError(f"module {missing} did not run on the prompts: it has no keys")
