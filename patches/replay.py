"""Run a model again and again from one of its matrices on, with everything before it computed once.

What a model computes before a matrix does not depend on it. `record` runs the model up to there
and keeps what every part has given; inside `replayed` those parts give it again instead of
computing it, and the matrix gives what the caller says. The model's own code does the rest, so
this works for any architecture, and gives the same numbers as a whole run.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patches.errors import ModelError
from patches.tokens import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """A batch up to the inputs of a matrix.

    inputs: A(x), (b, t, d_in).  outputs: what the matrix gave, (b, t, d_out).
    before: name of a part → what its calls have given, in their order.
    """

    batch: Batch
    inputs: Tensor
    outputs: Tensor
    before: dict[str, list[Any]]


class _ReachedError(Exception):
    """The run has come as far as it is wanted."""


@torch.no_grad()
def record(model: nn.Module, name: str, batch: Batch) -> Recorded:
    """Run `model` on `batch` until its module `name` has run.

    Raises ModelError if the module does not run on the batch.
    """
    before: dict[str, list[Any]] = {}
    seen: dict[str, Tensor] = {}
    latest: dict[str, str] = {}

    def keep(part: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        before.setdefault(part, []).append(output)
        row, _, _ = part.rpartition(".")
        if isinstance(model.get_submodule(row), nn.ModuleList):
            earlier = latest.get(row, part)
            if earlier != part:
                # What a layer gives goes into the next one, which will not compute.
                before[earlier] = [_without_data(given) for given in before[earlier]]
            latest[row] = part

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(inputs=inputs[0], outputs=output)
        raise _ReachedError

    with ExitStack() as hooks:
        for part, module in _parts_beside(model, name).items():
            handle = module.register_forward_hook(partial(keep, part))
            hooks.callback(handle.remove)
        hooks.callback(model.get_submodule(name).register_forward_hook(stop).remove)
        try:
            _run(model, batch)
        except _ReachedError:
            pass
        else:
            raise ModelError(f"module {name} did not run on the prompts: it cannot be edited")
    b, t = batch.input_ids.shape
    return Recorded(
        batch=batch,
        inputs=seen["inputs"].reshape(b, t, -1),
        outputs=seen["outputs"].reshape(b, t, -1),
        before=before,
    )


@contextmanager
def replayed(
    model: nn.Module, name: str, recorded: Recorded, outputs: Tensor
) -> Iterator[Callable[[], Any]]:
    """Inside, call the function given to run `model` on the recorded batch from `name` on.

    outputs: what the matrix gives this time, (b, t, d_out).
    """
    versions = [(tensor, tensor._version) for tensor in _tensors([*recorded.before.values()])]
    with ExitStack() as stubs:
        for part, given in recorded.before.items():
            module = model.get_submodule(part)
            stub = partial(_next, iter(given), module.forward)
            stubs.enter_context(_forward_replaced(module, stub))
        stubs.enter_context(
            _forward_replaced(model.get_submodule(name), lambda inputs: _like(outputs, inputs))
        )
        yield partial(_run, model, recorded.batch)
    if any(tensor._version != version for tensor, version in versions):
        raise ModelError(
            f"{type(model).__name__} changes intermediate results in place, so that what comes "
            f"before {name} cannot be kept; choose another module"
        )


def in_dtype(recorded: Recorded, dtype: torch.dtype) -> Recorded:
    """The same with all numbers in `dtype`, for a replay by a model in that dtype."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return Recorded(
        batch=recorded.batch,
        inputs=convert(recorded.inputs),
        outputs=convert(recorded.outputs),
        before={part: _mapped(given, convert) for part, given in recorded.before.items()},
    )


@contextmanager
def computing_in(
    model: nn.Module, name: str, recorded: Recorded, dtype: torch.dtype
) -> Iterator[None]:
    """Inside, what a replay from `name` on computes with is in `dtype`; then as it was, to the bit.

    Takes the memory of these parameters in `dtype` beside the model.
    """
    skipped = tuple(f"{part}." for part in (*recorded.before, name))
    used = {
        id(parameter): parameter
        for parameter_name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter_name.startswith(skipped) and parameter.is_floating_point()
    }
    stored = {key: parameter.data for key, parameter in used.items()}
    try:
        for parameter in used.values():
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for key, parameter in used.items():
            parameter.data = stored[key]


def _parts_beside(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """The largest parts of the model that do not contain module `name`, by name."""
    parts: dict[str, nn.Module] = {}
    prefix = ""
    for step in name.split("."):
        for child, module in model.get_submodule(prefix.rstrip(".")).named_children():
            if child != step:
                parts.update(_that_run(f"{prefix}{child}", module))
        prefix += f"{step}."
    return parts


def _that_run(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """A container of modules is never called itself."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return {name: module}
    found: dict[str, nn.Module] = {}
    for child, inner in module.named_children():
        found.update(_that_run(f"{name}.{child}", inner))
    return found


def _next(given: Iterator[Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the part gave before the matrix; after it, the part computes."""
    for output in given:
        return output
    return forward(*args, **kwargs)


def _without_data(value: Any) -> Any:
    """The same in shape and dtype; an attempt to compute with it fails."""
    return _mapped(value, lambda tensor: tensor.to("meta"))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value


def _like(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Some architectures flatten batch and tokens into one dimension."""
    return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling `module` calls `forward`; an instance's own `forward` comes back."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _run(model: nn.Module, batch: Batch) -> Any:
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
