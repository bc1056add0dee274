"""Sequences as one row of tokens: nothing is padded, and what they begin with in common runs once.

Everything in a decoder but attention looks at one token at a time, so the tokens of many sequences
can be laid in one row, whatever their lengths. Attention gets a function of its own, by the
interface of transformers: every token sees the tokens before it in its own sequence. What a causal
model gives for a token depends on nothing after it, so a beginning that several sequences share is
a token of the row once, and what is computed after a beginning takes its keys and values from the
run over the beginnings.

Only for architectures of which that is tested, `PACKABLE`: others mix tokens elsewhere, in
convolutions or recurrent layers, or have attention of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor, nn

from patches.routing import deciding

PACKABLE = frozenset(
    {
        "cohere",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
        "starcoder2",
    }
)
# Scores of attention that are in memory at a time, for each head.
_SCORES = 1 << 17


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """r sequences of similar length. queries: (r, s), places in the row. keys: (r, l), places among
    the kept tokens and then those of the row. ahead: (r, s, l), how many positions a key is before
    a query; negative where it must not be seen. Both are padded with place 0."""

    queries: Tensor
    keys: Tensor
    ahead: Tensor

    def to(self, device: torch.device | str) -> "Group":
        return Group(
            queries=self.queries.to(device),
            keys=self.keys.to(device),
            ahead=self.ahead.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """t tokens to run. ids, positions: (1, t), int64; positions within their sequences.

    groups: who sees whom. order: (t,), where attention finds each token's result.
    """

    ids: Tensor
    positions: Tensor
    groups: tuple[Group, ...]
    order: Tensor

    def __len__(self) -> int:
        return self.ids.shape[1]

    def to(self, device: torch.device | str) -> "Row":
        return Row(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            groups=tuple(group.to(device) for group in self.groups),
            order=self.order.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pack:
    """Sequences, cut in two. beginnings: what comes before the cuts, each node of the tree of
    them once; None if there is none. rest: what comes after, sequence by sequence.

    nodes: for each sequence the places of its beginning among the beginnings.
    """

    beginnings: Row | None
    rest: Row
    nodes: tuple[tuple[int, ...], ...]

    def to(self, device: torch.device | str) -> "Pack":
        return Pack(
            beginnings=None if self.beginnings is None else self.beginnings.to(device),
            rest=self.rest.to(device),
            nodes=self.nodes,
        )


def packable(model: nn.Module) -> bool:
    """Whether a packed run of `model` is known to give what a padded one gives.

    Side memories are chosen for a whole sequence, which a row of many does not show.
    """
    config: Any = model.config
    return config.model_type in PACKABLE and not deciding(model)


def pack(sequences: Sequence[Sequence[int]], cuts: Sequence[int]) -> Pack:
    """Sequences of token ids, each cut before the place that `cuts` says.

    A sequence needs a token after its cut; the order of the rest is that of the sequences.
    """
    tree = _Tree()
    nodes = tuple(tree.add(ids[:cut]) for ids, cut in zip(sequences, cuts, strict=True))
    starts = accumulate(
        (len(ids) - cut for ids, cut in zip(sequences, cuts, strict=True)), initial=0
    )
    spans = []
    for ids, cut, path, start in zip(sequences, cuts, nodes, starts, strict=False):
        own = tuple(range(start, start + len(ids) - cut))
        spans.append(_Span(path=(*path, *(len(tree.ids) + place for place in own)), own=own))
    rest = [
        (token, place)
        for ids, cut in zip(sequences, cuts, strict=True)
        for place, token in islice(enumerate(ids), cut, None)
    ]
    return Pack(
        beginnings=_row(list(zip(tree.ids, tree.depths, strict=True)), tree.spans()),
        rest=_required(_row(rest, spans)),
        nodes=nodes,
    )


def tree(sequences: Sequence[Sequence[int]]) -> tuple[Row, tuple[tuple[int, ...], ...]]:
    """The whole of the sequences as one row, common beginnings once; each one's places in it."""
    grown = _Tree()
    nodes = tuple(grown.add(ids) for ids in sequences)
    return _required(_row(list(zip(grown.ids, grown.depths, strict=True)), grown.spans())), nodes


def alike(sequences: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Indices in even parts of about so many tokens at most; what begins alike comes together."""
    count = sum(map(len, sequences))
    share = count / max(1, -(-count // tokens))
    some: list[int] = []
    done = 0
    for index in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        some.append(index)
        done += len(sequences[index])
        if done >= share:
            yield some
            some, done = [], 0
    if some:
        yield some


@dataclass(frozen=True, kw_only=True)
class _Span:
    """One sequence: the places of its tokens among all, and those of its own in the row."""

    path: tuple[int, ...]
    own: tuple[int, ...]


class _Tree:
    """Sequences by their beginnings; a node is a place in a row."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.depths: list[int] = []
        self._children: dict[tuple[int, int], int] = {}
        self._spans: list[_Span] = []

    def add(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The nodes of this sequence; those that are new belong to it."""
        path: list[int] = []
        node, first = -1, len(self.ids)
        for depth, token in enumerate(ids):
            node = self._children.setdefault((node, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.depths.append(depth)
            path.append(node)
        if len(self.ids) > first:
            self._spans.append(_Span(path=tuple(path), own=tuple(range(first, len(self.ids)))))
        return tuple(path)

    def spans(self) -> list[_Span]:
        return self._spans


def _row(tokens: Sequence[tuple[int, int]], spans: Sequence[_Span]) -> Row | None:
    """tokens: id and position of each."""
    if not tokens:
        return None
    groups = list(_groups(spans))
    order = torch.empty(len(tokens), dtype=torch.int64)
    start = 0
    for group, some in groups:
        width = group.queries.shape[1]
        for number, span in enumerate(some):
            first = start + number * width
            order[span.own[0] : span.own[-1] + 1] = torch.arange(first, first + len(span.own))
        start += group.queries.numel()
    ids, positions = torch.tensor(tokens, dtype=torch.int64).T.contiguous().unsqueeze(1)
    return Row(
        ids=ids, positions=positions, groups=tuple(group for group, _ in groups), order=order
    )


def _required(row: Row | None) -> Row:
    if row is None:
        raise ValueError("no token to run")
    return row


def _groups(spans: Sequence[_Span]) -> Iterator[tuple[Group, list[_Span]]]:
    """Spans of similar length together, so that little is padded and memory is bounded."""
    some: list[_Span] = []
    widest = 0
    for span in sorted(spans, key=lambda one: len(one.path)):
        width = max(widest, len(span.own))
        scores = (len(some) + 1) * width * len(span.path)
        if some and (scores > _SCORES or len(span.path) > 2 * len(some[0].path)):
            yield _group_of(some), some
            some, width = [], len(span.own)
        some.append(span)
        widest = width
    if some:
        yield _group_of(some), some


def _group_of(spans: Sequence[_Span]) -> Group:
    s, length = (
        max(map(len, part)) for part in zip(*((o.own, o.path) for o in spans), strict=True)
    )
    queries = torch.tensor([(*one.own, *(0,) * (s - len(one.own))) for one in spans])
    keys = torch.tensor([(*one.path, *(0,) * (length - len(one.path))) for one in spans])
    lengths = torch.tensor([(len(one.path), len(one.own)) for one in spans])
    # The own tokens are the last ones of the path. Padded queries see what the last one sees.
    at = torch.arange(s).clamp(max=lengths[:, 1:] - 1) + lengths[:, :1] - lengths[:, 1:]
    ahead = at[:, :, None] - torch.arange(length)
    return Group(queries=queries, keys=keys, ahead=ahead)
