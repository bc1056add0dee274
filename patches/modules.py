"""The modules of a live model that can be edited, and the checkpoint tensors behind them."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from patches.checkpoint import Checkpoint
from patches.errors import ModelError


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """An edited module: its name in the model, the tensor of its weight, and how that is stored."""

    name: str
    module: nn.Module
    tensor: str
    transposed: bool


class Wrapper(nn.Module):
    """Takes a linear module's place in a model, with that very module inside.

    The parameters stay where they were, under their names: the module is not registered as a part,
    its parameters are.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Around torch's own way, which would register it.
        self.__dict__["module"] = module
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves to other devices and dtypes go on to the module inside."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        for name, parameter in self._parameters.items():
            self.module._parameters[name] = parameter
        return self


def editable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module with a weight matrix of its own between hidden states, by name, in order.

    Of a wrapped one, the module inside.
    """
    found: dict[str, nn.Module] = {}
    for name, wrapper in model.named_modules():
        module = wrapper.module if isinstance(wrapper, Wrapper) else wrapper
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() == 2 and _is_linear(module):
            found[name] = module
    return found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is stored transposed, (d_in, d_out)."""
    # Not imported: it takes a second to load, and before it is there no module can be one of it.
    transformers = sys.modules.get("transformers.pytorch_utils")
    return transformers is not None and isinstance(module, transformers.Conv1D)


def parameters_by_tensor(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The live parameter of each checkpoint tensor in `names`.

    A live name may carry the architecture's prefix, or lack it (``h.0.mlp…`` in a file is
    ``transformer.h.0.mlp…`` in the model). Tied parameters are one object, found by any name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: parameters[_matching(name, parameters, f"{type(model).__name__} has no parameter")]
        for name in names
    }


def linear_modules_by_tensor(
    model: nn.Module, names: Iterable[str]
) -> dict[str, tuple[str, nn.Module]]:
    """The linear module, with its name, of each checkpoint tensor in `names`.

    ModelError if one is not the weight of a linear module.
    """
    modules = editable_modules(model)
    found = {}
    for tensor, weight in parameters_by_tensor(model, names).items():
        name = next((n for n, m in modules.items() if m.weight is weight), None)
        if name is None:
            raise ModelError(f"{type(model).__name__}: {tensor} is not a linear module's weight")
        found[tensor] = name, modules[name]
    return found


def targets_for(
    model: nn.Module, checkpoint: Checkpoint, modules: Sequence[str]
) -> tuple[Target, ...]:
    """The modules to edit, each with the checkpoint tensor that stores its weight.

    ModelError if a module is unknown, is not linear, is quantised, or its tensor is not found.
    """
    known = editable_modules(model)
    targets = []
    for name in modules:
        module = known.get(name)
        if module is None:
            raise ModelError(f"{type(model).__name__} has no linear module {name}")
        weight = module.weight
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise ModelError(f"module {name} is quantised; load the model unquantised to edit it")
        tensor = _stored_name(model, checkpoint, f"{name}.weight")
        targets.append(
            Target(name=name, module=module, tensor=tensor, transposed=is_conv1d(module))
        )
    return tuple(targets)


def _stored_name(model: nn.Module, checkpoint: Checkpoint, parameter: str) -> str:
    """The checkpoint tensor behind a live parameter: by its name, or that of a tied one."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    same = [name for name, value in parameters.items() if value is parameters[parameter]]
    for name in [parameter, *same]:
        try:
            return _matching(name, checkpoint.tensors, "no tensor")
        except ModelError:
            continue
    raise ModelError(
        f"{checkpoint.folder} stores no tensor for {parameter}: the architecture keeps it in "
        "another form, which edits do not support"
    )


def _matching(name: str, candidates: Mapping[str, object], missing: str) -> str:
    """`name` in `candidates`, or the one that differs from it by a leading prefix only."""
    if name in candidates:
        return name
    found = [
        other for other in candidates if other.endswith(f".{name}") or name.endswith(f".{other}")
    ]
    if len(found) != 1:
        raise ModelError(f"{missing} {name}" + (f" (candidates: {found})" if found else ""))
    return found[0]
