"""Run a model and catch what goes into and comes back out of chosen modules.

Only activation gradients are computed: no weight needs a gradient, so the graph starts at the
lowest traced module, and logits are computed at the wanted positions only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches.errors import ModelError
from patches.label_losses import output_head
from patches.tokens import IGNORED, Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Of one batch with n traced positions, in row-major order over (sequence, position).

    keys: module → its inputs (n, d_in). gradients: module → gradient of the loss with respect to
    its outputs (n, d_out). Both in the model's dtype, on the module's own device. sizes: module →
    ‖output‖ (n,), float32.
    losses: cross-entropy at every label (nats), float32. loss: their mean. others: module → its
    inputs at the real tokens that are not traced, if they were asked for.
    """

    keys: dict[str, Tensor]
    gradients: dict[str, Tensor]
    sizes: dict[str, Tensor]
    losses: Tensor
    others: dict[str, Tensor] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        return self.losses.mean().item()


@contextmanager
def logits_only_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside, `model` computes logits (1, n, vocabulary) at `positions` only.

    positions: boolean (b, t) with n true elements. The output head gets just these hidden states;
    whatever the architecture does to logits afterwards is element-wise and stays.
    """
    head = output_head(model)

    def select(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # Of a split model, the head may be on another device than where tokens go in.
        wanted = positions.to(inputs[0].device)
        return (inputs[0][wanted].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def trace(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    *,
    everywhere: bool = False,
    summed: bool = False,
    gradients: bool = True,
    others: bool = False,
    run: Callable[[], Any] | None = None,
) -> Trace:
    """Keys and output gradients of `modules` on `batch`, for the mean loss over its labels.

    everywhere: trace all real tokens instead of the target positions; the output head sees only
    the latter. summed: gradients of the sum of the losses, so that no sequence of the batch counts
    for another's. gradients: whether they are wanted at all. others: keep the keys of the other
    tokens too. run: in place of a run of the whole model on the batch.
    """
    wanted = batch.labels != IGNORED
    traced = batch.attention_mask.bool() if everywhere else wanted
    keys: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    beside: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}
    head = output_head(model)

    def catch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Where its weight is: of a split model, not where tokens go in.
            here = output.device
            given = inputs[0].detach().to(here)
            # What reaches the head is at the target positions already.
            at = traced.new_ones(given.shape[:-1]) if module is head else traced
            at = at.to(here)
            keys[name] = given[at]
            sizes[name] = output.detach()[at].float().norm(dim=-1)
            if others and module is not head:
                beside[name] = given[batch.attention_mask.bool().to(here) & ~at]
            if not gradients:
                return
            if not output.requires_grad:
                output.requires_grad_(True)

            def keep(gradient: Tensor) -> None:
                found[name] = gradient[at]

            output.register_hook(keep)  # type: ignore[no-untyped-call]  # torch's own

        return hook

    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    try:
        with (
            torch.set_grad_enabled(gradients),
            without_weight_gradients(model),
            logits_only_at(model, wanted),
        ):
            logits = (run or partial(_run, model, batch))().logits[0]
            losses = functional.cross_entropy(
                logits.float(), batch.labels[wanted], reduction="none"
            )
            loss = losses.sum() if summed else losses.mean()
            if loss.requires_grad:
                torch.autograd.backward(loss)
    finally:
        for handle in handles:
            handle.remove()
    check_all_ran(modules, keys, found if gradients else keys)
    return Trace(keys=keys, gradients=found, sizes=sizes, losses=losses.detach(), others=beside)


def _run(model: nn.Module, batch: Batch) -> Any:
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)


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


def check_all_ran(
    modules: Mapping[str, nn.Module], keys: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> None:
    """ModelError for a module without keys, or without gradients."""
    for name in modules:
        if name not in keys:
            raise ModelError(f"module {name} did not run on the prompts: it cannot be edited")
        if name not in gradients:
            raise ModelError(f"the loss does not depend on module {name}: it cannot be edited")
