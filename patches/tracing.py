"""Run a model and catch what goes into and comes back out of chosen modules.

Only activation gradients are computed: no weight needs a gradient, so the graph starts at the
lowest traced module, and logits are computed at the wanted positions only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches.errors import ModelError
from patches.tokens import IGNORED, Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Of one batch with n traced positions, in row-major order over (sequence, position).

    keys: module → its inputs (n, d_in). gradients: module → gradient of the loss with respect to
    its outputs (n, d_out). Both in the model's dtype. loss: mean cross-entropy over the labels.
    """

    keys: dict[str, Tensor]
    gradients: dict[str, Tensor]
    loss: float


@contextmanager
def logits_only_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside, `model` computes logits (1, n, vocabulary) at `positions` only.

    positions: boolean (b, t) with n true elements. The output head gets just these hidden states;
    whatever the architecture does to logits afterwards is element-wise and stays.
    """
    head = output_head(model)

    def select(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][positions].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    if not isinstance(head, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no output embeddings: a causal language model is needed"
        )
    return head


def trace(
    model: nn.Module, modules: Mapping[str, nn.Module], batch: Batch, *, everywhere: bool = False
) -> Trace:
    """Keys and output gradients of `modules` on `batch`, for the mean loss over its labels.

    everywhere: trace all real tokens instead of the target positions; the output head sees only
    the latter.
    """
    wanted = batch.labels != IGNORED
    traced = batch.attention_mask.bool() if everywhere else wanted
    keys: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    head = output_head(model)

    def catch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # What reaches the head is at the target positions already.
            at = traced.new_ones(inputs[0].shape[:-1]) if module is head else traced
            keys[name] = inputs[0].detach()[at]
            if not output.requires_grad:
                output.requires_grad_(True)

            def keep(gradient: Tensor) -> None:
                gradients[name] = gradient[at]

            output.register_hook(keep)  # type: ignore[no-untyped-call]  # torch's own

        return hook

    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    try:
        with torch.enable_grad(), without_weight_gradients(model), logits_only_at(model, wanted):
            logits = model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits[0]
            loss = functional.cross_entropy(logits.float(), batch.labels[wanted])
            if loss.requires_grad:
                torch.autograd.backward(loss)
    finally:
        for handle in handles:
            handle.remove()
    _check_all_ran(modules, keys, gradients)
    return Trace(keys=keys, gradients=gradients, loss=loss.item())


@contextmanager
def without_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, no weight of `model` asks for a gradient; afterwards each asks as before."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in asking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)


def _check_all_ran(
    modules: Mapping[str, nn.Module], keys: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> None:
    for name in modules:
        if name not in keys:
            raise ModelError(f"module {name} did not run on the prompts: it cannot be edited")
        if name not in gradients:
            raise ModelError(f"the loss does not depend on module {name}: it cannot be edited")
