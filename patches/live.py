"""A model in memory as a state of a base checkpoint: set it, advance it, look at the base.

Weights are always rebuilt from the base's stored bytes plus the sum of the patches in force, so a
live model has the same bytes as one loaded from disk, however it got there. Side memories stand
beside the weights in routers (`patches.routing`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from patches import routing
from patches.application import base_tensor, last_turns, matrix_shape, patched, total_change
from patches.canonical import sha256
from patches.checkpoint import Checkpoint
from patches.deltas import Dense
from patches.dtypes import NAMES, tensor_view
from patches.errors import EditingError, ModelError, PatchError
from patches.finite import check_base, check_weight, is_finite, not_finite
from patches.kept_weights import KeptWeights
from patches.modules import parameters_by_tensor
from patches.patch import Change, PatchFile, tensors_changed
from patches.side_memory import SideMemory
from patches.totals import Totals


class LiveModel:
    """A model whose weights are kept at a state of `checkpoint`.

    Between calls the weights that patches change are those of the state, and all others are left
    as they were loaded. The sums of the deltas are kept, so that advancing by a turn costs the
    same however many turns came before.

    memories: the side memories in force, in the order of their turns.
    materialise: keep them as dense matrices, faster on accelerators.
    """

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, *, materialise: bool = False
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.memories: tuple[SideMemory, ...] = ()
        self._materialise = materialise
        self._totals = Totals()
        self._transposed: dict[str, bool] = {}
        self._last: dict[str, int] = {}

    @property
    def device(self) -> torch.device:
        """Where tokens go in. The layers of a split model may be on others, and each tensor is
        handled where it is."""
        getter: Any = getattr(self.model, "get_input_embeddings", None)
        embeddings = None if getter is None else getter()
        holder = embeddings if isinstance(embeddings, nn.Module) else self.model
        return next(holder.parameters()).device

    @property
    def changed(self) -> tuple[str, ...]:
        """The tensors that the state changes, by their names in the checkpoint."""
        return tuple(self._transposed)

    def reset(self, names: Iterable[str]) -> None:
        """Give these tensors the base's weights, whatever they have been."""
        names = list(names)
        if names:
            self._write_base(names)

    def set_state(self, patches: Sequence[PatchFile], memories: Sequence[SideMemory] = ()) -> None:
        """Make the weights those of base + `patches`, from whatever they were, with `memories`
        beside them in place of any that were there.

        EditingError, with the tensor and the turn, if a weight would not be finite.
        """
        changed = tensors_changed(patches)
        parameters = self._fitting(patches)
        leaving = {name: flag for name, flag in self._transposed.items() if name not in changed}
        totals = Totals()
        for name in changed:
            total = total_change(patches, name, device=parameters[name].device)
            if total is not None:
                totals.put(name, total)
        self._write_base(leaving)
        self._totals, self._transposed = totals, changed
        self._last = last_turns(patches)
        for name in changed:
            self._write(name, parameters[name])
        self._attach(tuple(memories))

    def advance(self, patch: PatchFile) -> None:
        """Add one more patch to the state; EditingError if a weight would not be finite."""
        memories = self._keeping_their_main(patch)
        for name, info in patch.changes.items():
            if self._transposed.get(name, info.transposed) != info.transposed:
                raise PatchError(f"{patch.path}: {name} is stored in another layout")
        parameters = self._fitting([patch])
        for name, info in patch.changes.items():
            device = parameters[name].device
            total = total_change([patch], name, device=device, start=self._totals.get(name))
            if total is not None:
                self._totals.put(name, total)
            self._transposed[name] = info.transposed
            self._last[name] = patch.header.turn
            self._write(name, parameters[name], total)
        self._attach((*memories, *(patch.memory(name) for name in patch.memories)))

    def shapes(self) -> list[tuple[int, ...]]:
        """(d_out, d_in) of every tensor that the state changes."""
        return self._totals.shapes

    def sums(self) -> Iterator[tuple[str, Change]]:
        """Σ Δ of every tensor that the state changes, float64, on the CPU; one at a time."""
        for name, total in self._totals.items():
            yield name, Change(delta=Dense(delta=total.cpu()), transposed=self._transposed[name])

    def stored(self, name: str) -> Tensor:
        """Tensor `name` of the state as a checkpoint stores it, on the CPU."""
        base = base_tensor(self.checkpoint, name)
        if name not in self._totals:
            return base
        return self._patched(name, base, base.dtype).cpu()

    def digests(self) -> dict[str, str]:
        """SHA-256 of every patched tensor's bytes in the base's dtype, as a checkpoint holds it."""
        result = {}
        for name, parameter in self._parameters(self._totals).items():
            weight = parameter.data
            # The base is read only where the model's dtype is not that of the checkpoint.
            if NAMES[parameter.dtype] != self.checkpoint.tensor(name).dtype:
                base = base_tensor(self.checkpoint, name)
                weight = self._patched(name, base, base.dtype)
            result[name] = sha256(tensor_view(weight))
        return result

    def keep(self, kept: KeptWeights, digests: Mapping[str, str]) -> None:
        """Let `kept` remember the weights of this state; digests: those of `digests`."""
        kept.keep(digests, self._parameters(digests))

    def put_back(self, kept: KeptWeights, digests: Mapping[str, str]) -> bool:
        """Give the tensors that `digests` names their weights from `kept`, and take memories away;
        False, and nothing done, if it lacks some. The sums of the state are not known afterwards.
        """
        if not kept.put_back(digests, self._parameters(digests)):
            return False
        self._attach(())
        self._totals, self._transposed, self._last = Totals(), {}, {}
        return True

    def check_editable(self, names: Iterable[str]) -> None:
        """Refuse to edit tensors that are not finite in the base or, by the dtype, in the model.

        CheckpointError or EditingError; the base is read only to tell which.
        """
        for name, parameter in self._parameters(names).items():
            if is_finite(parameter):
                continue
            check_base(name, base_tensor(self.checkpoint, name))
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise EditingError(
                f"tensor {name} holds {not_finite(parameter)} in {dtype}, so it cannot be edited; "
                "run the model in another: --dtype float32"
            )

    @contextmanager
    def at_base(self) -> Iterator[nn.Module]:
        """Inside, the model is the un-edited base; afterwards it is at its state again."""
        self._write_base(self._transposed)
        try:
            with routing.bypassed(self.model):
                yield self.model
        finally:
            for name, parameter in self._parameters(self._transposed).items():
                self._write(name, parameter)

    def _attach(self, memories: tuple[SideMemory, ...]) -> None:
        routing.attach(self.model, memories, materialise=self._materialise)
        self.memories = memories

    def _keeping_their_main(self, patch: PatchFile) -> tuple[SideMemory, ...]:
        """The memories, where `patch` changes the weight beside one with that weight as it is."""
        return tuple(
            replace(memory, main=self.stored(memory.tensor))
            if memory.main is None and memory.tensor in patch.changes
            else memory
            for memory in self.memories
        )

    def _fitting(self, patches: Sequence[PatchFile]) -> dict[str, nn.Parameter]:
        """What `patches` change in the model, by tensor; before any weight is touched it is seen
        that it has all of it, in that shape."""
        parameters = self._parameters({name: None for patch in patches for name in patch.changes})
        for patch in patches:
            for name, info in patch.changes.items():
                shape = info.shape[::-1] if info.transposed else info.shape
                if matrix_shape(parameters[name].shape) != shape:
                    raise PatchError(
                        f"{patch.path}: changes {name} as {shape}, but the model has it as "
                        f"{tuple(parameters[name].shape)}; was the patch made for this model?"
                    )
        return parameters

    def _parameters(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        found = parameters_by_tensor(self.model, names)
        for name, parameter in found.items():
            if parameter.is_meta:
                raise ModelError(
                    f"{name} is offloaded and not in memory; load the model without offloading"
                )
        return found

    def _patched(
        self, name: str, base: Tensor, dtype: torch.dtype, total: Tensor | None = None
    ) -> Tensor:
        total = self._totals[name] if total is None else total
        weight = patched(base, total, transposed=self._transposed[name], dtype=dtype)
        check_weight(name, weight, base=base, turn=self._last.get(name))
        return weight

    def _write(self, name: str, parameter: nn.Parameter, total: Tensor | None = None) -> None:
        """total: the sum, if it is at hand."""
        base = base_tensor(self.checkpoint, name)
        weight = self._patched(name, base, parameter.dtype, total)
        with torch.no_grad():
            parameter.copy_(weight)

    def _write_base(self, names: Iterable[str]) -> None:
        for name, parameter in self._parameters(names).items():
            with torch.no_grad():
                parameter.copy_(base_tensor(self.checkpoint, name))
