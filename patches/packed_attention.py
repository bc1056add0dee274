"""Attention of a packed row: every token sees the tokens before it in its own sequence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patches.packed import Group, Row


@dataclass(kw_only=True, eq=False)
class Kept:
    """By layer, the keys and values (t, heads, d) of the beginnings."""

    tokens: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@contextmanager
def attending(
    model: nn.Module,
    row: Row,
    *,
    before: Kept | None = None,
    keep: Kept | None = None,
    to_the_end: bool = True,
) -> Iterator[dict[str, Any]]:
    """Inside, call `model` with these arguments to run it on `row`.

    before: what was kept of the beginnings, which is used up. keep: is filled, and unless
    `to_the_end` the run ends with `ReachedError` in the attention of the last layer, after which
    nothing is left to keep.
    """
    from transformers import AttentionInterface

    config: Any = model.config
    layers = config.get_text_config().num_hidden_layers
    # By the numbers of heads and the device: the layers of most models are alike.
    known: dict[Any, tuple[Row, _Gathering]] = {}

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any
    ) -> Any:
        if mask is not None or given.get("dropout"):
            raise ValueError("a packed run has no mask and no dropout of its own")
        keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
        if keep is not None:
            keep.layers[module.layer_idx] = keys, values
            if module.layer_idx == layers - 1 and not to_the_end:
                raise ReachedError
        if before is not None and before.tokens:
            kept_keys, kept_values = before.layers.pop(module.layer_idx)
            keys, values = torch.cat((kept_keys, keys)), torch.cat((kept_values, values))
        shape = query.shape[1], keys.shape[1], query.device
        if shape not in known:
            here = row.to(query.device)
            known[shape] = here, _Gathering.of(here, *shape[:2])
        parts = query, keys, values, *known[shape], given
        if not any(some.requires_grad for some in (query, keys, values)):
            return _attention(*parts), None
        # It takes little time and would keep much: it is done again on the way back.
        found = checkpoint(_attention, *parts, use_reentrant=False, preserve_rng_state=False)
        return found, None

    if keep is not None:
        keep.tokens = len(row)
    name = f"packed-{id(attend)}"
    AttentionInterface.register(name, attend)
    earlier = _switch(model, name)
    try:
        yield {"input_ids": row.ids, "position_ids": row.positions, "use_cache": False}
    finally:
        for holder, implementation in earlier:
            holder._attn_implementation = implementation
        del AttentionInterface._global_mapping[name]


class ReachedError(Exception):
    """The run has come as far as it is wanted."""


def _switch(model: nn.Module, name: str) -> list[tuple[Any, str]]:
    """Let every part of `model` attend by the function with this name; what they did before."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    earlier = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in earlier:
        config._attn_implementation = name
    return earlier


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gathering:
    """For h heads that share h' heads of keys, g = h / h' of them each: where to find what
    attention multiplies when a row's queries are (t · h, d), and its keys and values (n · h', d).

    queries: of each group, (r · h' · g · s,). keys: (r · h' · l,). results: (t · h,), where each
    token's result is among those of all groups.
    """

    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    results: Tensor

    @classmethod
    def of(cls, row: Row, heads: int, shared: int) -> "_Gathering":
        device = row.order.device
        head = torch.arange(heads, device=device).view(1, shared, heads // shared, 1)
        queries, keys, results, start = [], [], [], 0
        for group in row.groups:
            (r, s), count = group.queries.shape, group.queries.numel() * heads
            queries.append((group.queries[:, None, None] * heads + head).flatten())
            own = torch.arange(shared, device=device)[None, :, None]
            keys.append((group.keys[:, None] * shared + own).flatten())
            places = torch.arange(start, start + count, device=device)
            places = places.view(r, shared, heads // shared, s).permute(0, 3, 1, 2)
            results.append(places.reshape(r * s, heads))
            start += count
        found = torch.cat(results).index_select(0, row.order).flatten()
        return cls(queries=tuple(queries), keys=tuple(keys), results=found)


def _attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    row: Row,
    gathering: _Gathering,
    given: dict[str, Any],
) -> Tensor:
    """query (1, h, t, d), keys and values (n, h', d) → (1, t, h, d'), in the dtype of query.

    In float32 at least: on short sequences that is faster than a fused kernel, and needs no
    conversion of each product.
    """
    heads, tokens = query.shape[1], query.shape[2]
    asked = query[0].transpose(0, 1).flatten(0, 1)
    parts = []
    for number, group in enumerate(row.groups):
        q = asked.index_select(0, gathering.queries[number])
        k, v = (
            some.flatten(0, 1).index_select(0, gathering.keys[number]) for some in (keys, values)
        )
        parts.append(_group(q, k, v, group, keys.shape[1], given))
    found = parts[0] if len(parts) == 1 else torch.cat(parts)
    found = found.index_select(0, gathering.results).to(query.dtype)
    return found.view(1, tokens, heads, -1)


def _group(
    q: Tensor, k: Tensor, v: Tensor, group: Group, shared: int, given: dict[str, Any]
) -> Tensor:
    """q (r · h' · g · s, d), k and v (r · h' · l, d) → (r · h' · g · s, d')."""
    (r, s), length = group.queries.shape, group.keys.shape[1]
    exact = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (some.view(r * shared, -1, some.shape[-1]).to(exact) for some in (q, k, v))
    scaling = given.get("scaling")
    # Keys first: a softmax over few numbers that lie together is ten times slower.
    scores: Tensor = k @ (q * (q.shape[-1] ** -0.5 if scaling is None else scaling)).transpose(1, 2)
    if given.get("softcap") is not None:
        scores = torch.tanh(scores / given["softcap"]) * given["softcap"]
    hidden = _hidden(group, given.get("sliding_window")).transpose(1, 2)
    scores = scores.view(r, shared, length, -1, s)
    scores = scores.masked_fill_(hidden[:, None, :, None], float("-inf"))
    weights = scores.view(r * shared, length, -1).softmax(1)
    return (weights.transpose(1, 2) @ v).flatten(0, 1)


def _hidden(group: Group, window: int | None) -> Tensor:
    """(r, s, l), which keys a query does not see; window: only so many are seen, with itself."""
    hidden: Tensor = group.ahead < 0
    return hidden if window is None else hidden.logical_or(group.ahead >= window)
