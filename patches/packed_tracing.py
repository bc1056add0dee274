"""Trace a model at the target tokens of many edits, laid in rows without padding.

Keys and gradients are wanted at target tokens only, and these are the last of each sequence: what
comes before them is read without gradients, each common beginning once, and only its keys and
values of attention are kept. Then the target tokens are run on top of that, with gradients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from patches.label_losses import head_is_last, label_losses, output_head, without_head
from patches.packed import Pack, Row, alike, pack, packable
from patches.packed_attention import Kept, ReachedError, attending
from patches.tokens import Encoded
from patches.tracing import Trace, check_all_ran, without_weight_gradients

Around = Callable[[Row], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Sequences that are traced together. indices: which ones. labels: (n,), int64, of their target
    tokens, sequence by sequence."""

    indices: tuple[int, ...]
    pack: Pack
    labels: Tensor


def traceable(model: nn.Module, modules: Mapping[str, nn.Module]) -> bool:
    """Whether `model` can be traced so: its architecture is known to be, and no module is its head,
    whose outputs would be all the logits."""
    return packable(model) and output_head(model) not in modules.values() and head_is_last(model)


def parts(encoded: Sequence[Encoded], tokens: int, device: torch.device | str) -> Iterator[Part]:
    """The sequences in even parts of about so many tokens, those that begin alike together."""
    for indices in alike([one.ids for one in encoded], tokens):
        yield _part(encoded, indices, device)


def _part(encoded: Sequence[Encoded], indices: Sequence[int], device: torch.device | str) -> Part:
    chosen = [encoded[i] for i in indices]
    labels = torch.tensor([*chain.from_iterable(one.answer for one in chosen)])
    packed = pack([one.ids for one in chosen], [one.first for one in chosen])
    return Part(indices=tuple(indices), pack=packed.to(device), labels=labels.to(device))


def trace_part(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    part: Part,
    weights: Tensor | None,
    *,
    others: bool = False,
    around: Around = lambda _row: nullcontext(),
) -> Trace:
    """Keys at the target tokens, sequence by sequence, and gradients of Σ w ℓ of their losses.

    weights: (n,), w; None: no gradients are wanted. others: the keys at the tokens before the
    targets too, of every sequence. around: what is entered around the run of each row.
    """
    with without_weight_gradients(model):
        kept, beside = _read(model, modules if others else {}, part.pack, around)
        return _run(model, modules, part, kept, weights, beside, around)


def _read(
    model: nn.Module, modules: Mapping[str, nn.Module], pack: Pack, around: Around
) -> tuple[Kept, dict[str, Tensor]]:
    """Keys and values of the beginnings, and the inputs of these modules there."""
    kept = Kept()
    seen: dict[str, Tensor] = {}
    if pack.beginnings is None:
        return kept, seen

    def keep(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = inputs[0].reshape(-1, inputs[0].shape[-1])

    places = torch.tensor([*chain.from_iterable(pack.nodes)], device=pack.rest.ids.device)
    with torch.no_grad(), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(keep, name)).remove)
        # A module behind the last attention is reached only at the end.
        run = attending(model, pack.beginnings, keep=kept, to_the_end=bool(modules))
        given = hooks.enter_context(run)
        hooks.enter_context(without_head(model))
        with around(pack.beginnings), suppress(ReachedError):
            model(**given)
    return kept, {name: some[places.to(some.device)] for name, some in seen.items()}


def _run(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    part: Part,
    kept: Kept,
    weights: Tensor | None,
    beside: dict[str, Tensor],
    around: Around,
) -> Trace:
    head: Any = output_head(model)
    wanted = weights is not None
    with torch.set_grad_enabled(wanted), _watched(modules, gradients=wanted) as seen:
        with (
            attending(model, part.pack.rest, before=kept) as given,
            without_head(model) as reached,
            around(part.pack.rest),
        ):
            model(**given)
        assert reached.hidden is not None
        # Of a split model, the head may be on another device than the layers before it.
        hidden = _flat(reached.hidden).to(head.weight.device)
        labels = part.labels.to(hidden.device)
        own = None if weights is None else weights.to(hidden.device)
        losses, gradient = label_losses(head, hidden.detach(), labels, own)
        if gradient is not None and hidden.requires_grad:
            torch.autograd.backward(hidden, gradient)
    check_all_ran(modules, seen.keys, seen.keys if weights is None else seen.gradients)
    return Trace(
        keys=seen.keys, gradients=seen.gradients, sizes=seen.sizes, losses=losses, others=beside
    )


@contextmanager
def _watched(modules: Mapping[str, nn.Module], *, gradients: bool) -> Iterator[Trace]:
    """Inside, what goes into and comes back out of the modules is caught: (t, d) of each."""
    seen = Trace(keys={}, gradients={}, sizes={}, losses=torch.empty(0))

    def catch(name: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.keys[name] = _flat(inputs[0].detach())
        seen.sizes[name] = _flat(output.detach()).float().norm(dim=-1)
        if not gradients:
            return
        if not output.requires_grad:
            output.requires_grad_(True)
        output.register_hook(partial(keep, name))  # type: ignore[no-untyped-call]  # torch's own

    def keep(name: str, gradient: Tensor) -> None:
        seen.gradients[name] = _flat(gradient)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(partial(catch, name)).remove)
        yield seen


def _flat(tokens: Tensor) -> Tensor:
    return tokens.reshape(-1, tokens.shape[-1])
