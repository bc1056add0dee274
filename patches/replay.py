"""Run a model again and again from one of its matrices on, with everything before it computed once.

What a model computes before a matrix does not depend on it. `record` runs the model up to there
and keeps what every part has given; inside `replayed` those parts give it again instead of
computing it, and the matrix gives what the caller says. The model's own code does the rest, so
this works for any architecture, and gives the same numbers as a whole run.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patches import packed
from patches.errors import ModelError
from patches.label_losses import forward_replaced
from patches.packed_attention import attending
from patches.tokens import Batch

Given = Batch | packed.Row
"""What a model is run on: b padded sequences of t tokens, or one row of t (b = 1)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """A run up to the inputs of a matrix.

    inputs: A(x), (b, t, d_in).  outputs: what the matrix gave, (b, t, d_out).
    before: name of a part → what its calls have given, in their order; empty if it is not kept.
    part: what gives the outputs in a replay: the matrix, or the part around it that ends with it.
    """

    given: Given
    inputs: Tensor
    outputs: Tensor
    before: dict[str, list[Any]]
    part: str

    @property
    def batch(self) -> Batch:
        """What was run, which must have been padded sequences."""
        assert isinstance(self.given, Batch)
        return self.given


class _ReachedError(Exception):
    """The run has come as far as it is wanted."""


@torch.no_grad()
def record(
    model: nn.Module, name: str, given: Given, *, replayable: bool = True, called: bool = True
) -> Recorded:
    """Run `model` until its module `name` has run.

    replayable: keep what a replay needs, which takes most of the memory. called: whether the module
    must be called in a replay; it is not if the part around it gives what it gives, and then no
    more of that part is kept. Raises ModelError if the module does not run on what is given.
    """

    def stop(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        raise _ReachedError

    around = name if called else name.rpartition(".")[0] or name
    with recording(model, name, given, replayable=replayable, around=around) as recorded:
        handle = model.get_submodule(around).register_forward_hook(stop)
        try:
            _run(model, given)
        except _ReachedError:
            pass
        finally:
            handle.remove()
    return recorded()


@contextmanager
def recording(
    model: nn.Module,
    name: str,
    given: Given,
    *,
    replayable: bool = True,
    around: str | None = None,
) -> Iterator[Callable[[], Recorded]]:
    """Inside, a run of `model` on what is given is recorded, as far as `record` would make it;
    call the function afterwards.

    around: a part that the module belongs to, to be left out of a replay as a whole if it can be.
    """
    before: dict[str, list[Any]] = {}
    seen: dict[str, Tensor] = {}
    latest: dict[str, str] = {}
    giving = name
    versions: list[int] = []

    def keep(part: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if seen:
            return
        before.setdefault(part, []).append(output)
        row, _, _ = part.rpartition(".")
        if isinstance(model.get_submodule(row), nn.ModuleList):
            earlier = latest.get(row, part)
            if earlier != part:
                # What a layer gives goes into the next one, which will not compute.
                before[earlier] = [_without_data(given) for given in before[earlier]]
            latest[row] = part

    def reached(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(inputs=inputs[0].detach(), outputs=output.detach(), given=output)
        versions.append(output._version)

    def ended(part: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal giving
        same = isinstance(output, Tensor) and output is seen.get("given")
        if same and [output._version] == versions:
            giving = part

    def recorded() -> Recorded:
        if not seen:
            raise ModelError(f"module {name} did not run on the prompts: it cannot be edited")
        b, t = (given.input_ids if isinstance(given, Batch) else given.ids).shape
        return Recorded(
            given=given,
            inputs=seen["inputs"].reshape(b, t, -1),
            outputs=seen["outputs"].reshape(b, t, -1),
            before={p: made for p, made in before.items() if not p.startswith(f"{giving}.")},
            part=giving,
        )

    with ExitStack() as hooks:
        beside = _parts_beside(model, name) if replayable else {}
        for part, module in beside.items():
            handle = module.register_forward_hook(partial(keep, part))
            hooks.callback(handle.remove)
        hooks.callback(model.get_submodule(name).register_forward_hook(reached).remove)
        if around is not None:
            handle = model.get_submodule(around).register_forward_hook(partial(ended, around))
            hooks.callback(handle.remove)
        yield recorded


@contextmanager
def replayed(
    model: nn.Module, name: str, recorded: Recorded, outputs: Tensor
) -> Iterator[Callable[[], Any]]:
    """Inside, call the function given to run `model` on what was recorded from `name` on.

    outputs: what the matrix gives this time, (b, t, d_out).
    """
    with beginning_at(model, name, recorded, outputs):
        yield partial(_run, model, recorded.given)


@contextmanager
def beginning_at(
    model: nn.Module, name: str, recorded: Recorded, outputs: Tensor
) -> Iterator[None]:
    """Inside, a run of `model` on what was recorded computes only what comes after `name`.

    Raises ModelError afterwards if the run has changed what was kept.
    """
    versions = [(tensor, tensor._version) for tensor in _tensors([*recorded.before.values()])]
    with ExitStack() as stubs:
        for part, given in recorded.before.items():
            module = model.get_submodule(part)
            stub = partial(_next, iter(given), module.forward)
            stubs.enter_context(forward_replaced(module, stub))
        around = model.get_submodule(recorded.part)
        stub = partial(_instead, outputs)
        stubs.enter_context(forward_replaced(around, stub))
        yield
    if any(tensor._version != version for tensor, version in versions):
        raise ModelError(
            f"{type(model).__name__} changes intermediate results in place, so that what comes "
            f"before {name} cannot be kept; choose another module"
        )


def first_to_run(model: nn.Module, names: Iterable[str]) -> str:
    """Which of these modules runs first; ModelError if none does."""
    found: list[str] = []

    def stop(name: str, _module: nn.Module, _inputs: Any) -> None:
        found.append(name)
        raise _ReachedError

    device = next(model.parameters()).device
    one = torch.zeros((1, 1), dtype=torch.int64, device=device)
    with ExitStack() as hooks, torch.no_grad(), suppress(_ReachedError):
        for name in names:
            module = model.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(partial(stop, name)).remove)
        model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=False)
    if not found:
        raise ModelError("none of the modules to edit runs on a prompt: they cannot be edited")
    return found[0]


def in_dtype(recorded: Recorded, dtype: torch.dtype) -> Recorded:
    """The same with all numbers in `dtype`, for a replay by a model in that dtype."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return Recorded(
        given=recorded.given,
        inputs=convert(recorded.inputs),
        outputs=convert(recorded.outputs),
        before={part: _mapped(given, convert) for part, given in recorded.before.items()},
        part=recorded.part,
    )


@contextmanager
def computing_in(model: nn.Module, recorded: Recorded, dtype: torch.dtype) -> Iterator[None]:
    """Inside, what a replay computes with is in `dtype`; then as it was, to the bit.

    Takes the memory of these parameters in `dtype` beside the model.
    """
    skipped = tuple(f"{part}." for part in (*recorded.before, recorded.part))
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


def _instead(outputs: Tensor, inputs: Tensor) -> Tensor:
    """What the matrix gives. Some architectures flatten batch and tokens into one dimension."""
    return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _run(model: nn.Module, given: Given) -> Any:
    if isinstance(given, packed.Row):
        with attending(model, given) as arguments:
            return model(**arguments)
    return model(input_ids=given.input_ids, attention_mask=given.attention_mask, use_cache=False)
