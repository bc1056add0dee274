"""Side memories at inference: a router beside a weight matrix decides, per prompt, which one runs.

A prompt goes to the memory whose activation exceeds its threshold most, or to the main weight if
none does (WISE-Retrieve, arXiv 2405.14768). The decision is taken per sequence on the tokens of
the prompt, without padding, and belongs to the key-value cache from then on: while tokens are
generated nothing is decided anew. Sequences of one batch may go different ways, and one that stays
with the main weight gets exactly what the model computes without a router.

A forward pass that starts without a cache takes all real tokens of its input for the prompt; where
an answer follows in the same pass, say so with `deciding_on`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional

from patches.deltas import Sparse
from patches.errors import ModelError, PatchError
from patches.modules import Wrapper, is_conv1d, linear_modules_by_tensor
from patches.side_memory import Form, SideMemory

_F = TypeVar("_F", bound=Callable[..., Any])
MAIN = -1
"""What stands for the main weight among the indices of memories."""


def _eager(function: _F) -> _F:
    """Not to be compiled: it decides on values, and keeps what it decided.

    As `torch.compiler.disable`, which would load the compiler here, a second for every program
    that only imports this module.
    """
    left: Any = _disable_dynamo(function)
    return cast(_F, left)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How one router decided on a batch.

    activations: per sequence, of every memory. routes: per sequence, the memory's index or `MAIN`.
    """

    activations: list[list[float]]
    routes: list[int]


def attach(model: nn.Module, memories: Sequence[SideMemory], *, materialise: bool = False) -> None:
    """Put routers into `model` for these memories, instead of any that it has.

    materialise: keep every Δ as a dense matrix, which is faster on accelerators; else as a sparse
    one. Raises ModelError or PatchError, with the model as it was, if a memory does not fit.
    """
    there = _routers(model)
    known = {loaded.memory: loaded for router in there.values() for loaded in router.loaded}
    _take_out(model, there)
    if not memories:
        return
    _check_changeable(model)
    ordered = sorted(memories, key=lambda memory: memory.tensor)
    groups = {tensor: list(group) for tensor, group in groupby(ordered, key=lambda m: m.tensor)}
    session = _Session()
    routers: dict[str, Router] = {}
    for tensor, (name, module) in linear_modules_by_tensor(model, groups).items():
        loaded = [known.get(m) or _Loaded(m, materialise=materialise) for m in groups[tensor]]
        routers[name] = Router(module, loaded, session)
    session.watch(_decoder(model))
    for name, router in routers.items():
        _replace(model, name, router)


def detach(model: nn.Module) -> None:
    """Take all routers out of `model`: every module is the one that it was."""
    _take_out(model, _routers(model))


def _take_out(model: nn.Module, routers: Mapping[str, "Router"]) -> None:
    for name, router in routers.items():
        router.session.close()
        _replace(model, name, router.module)


def attached(model: nn.Module) -> dict[str, "Router"]:
    """The routers in `model`, by the tensor that they stand beside."""
    return {router.tensor: router for router in _routers(model).values()}


def deciding(model: nn.Module) -> bool:
    """Whether there are side memories, and sequences may be sent to them."""
    return any(not router.session.bypassed for router in _routers(model).values())


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Inside, every sequence goes through the main weights."""
    sessions = {id(router.session): router.session for router in _routers(model).values()}
    before = {key: session.bypassed for key, session in sessions.items()}
    for session in sessions.values():
        session.bypassed = True
    try:
        yield
    finally:
        for key, session in sessions.items():
            session.bypassed = before[key]


@contextmanager
def deciding_on(model: nn.Module, prompts: Tensor) -> Iterator[None]:
    """Inside, forward passes decide on these tokens only: (b, t), true at those of the prompt."""
    sessions = [router.session for router in _routers(model).values()]
    for session in sessions:
        session.prompts = prompts
    try:
        yield
    finally:
        for session in sessions:
            session.prompts = None


class Router(Wrapper):
    """A linear layer with side memories. decision: the last one that was taken, for people."""

    def __init__(
        self,
        module: nn.Module,
        loaded: Sequence["_Loaded"],
        session: "_Session",
    ) -> None:
        memories = tuple(one.memory for one in loaded)
        weight = module.weight
        assert isinstance(weight, Tensor)
        if weight.is_meta:
            raise ModelError(
                f"{memories[0].tensor} is offloaded; load the model onto devices that hold all of "
                "it, without offloading, to route to side memories"
            )
        transposed = is_conv1d(module)
        shape = tuple(weight.shape[::-1] if transposed else weight.shape)
        for memory in memories:
            if (memory.delta.shape, memory.transposed) != (shape, transposed):
                raise PatchError(
                    f"the side memory of turn {memory.turn} is {memory.delta.shape}, but "
                    f"{memory.tensor} is {shape}; was it trained on this model?"
                )
        super().__init__(module)
        self.tensor = memories[0].tensor
        self.memories = memories
        self.loaded = tuple(loaded)
        self.session = session
        self.decision: Decision | None = None

    @_eager
    def forward(self, inputs: Tensor) -> Tensor:
        """(…, d_in) → (…, d_out), in the dtype of `inputs`."""
        main: Tensor = self.module(inputs)
        session = self.session
        if session.bypassed or session.shape is None:
            self.decision = None
            return main
        batch = session.shape
        rows = inputs.reshape(*batch, inputs.shape[-1])
        outputs = main.reshape(*batch, main.shape[-1])
        routes = session.held(self.tensor)
        changes: list[Tensor] | None = None
        if routes is None:
            changes = [loaded.change(rows) for loaded in self.loaded]
            routes = self._decide(rows, outputs, changes)
            session.hold(self.tensor, routes)
        chosen = sorted(set(routes) - {MAIN})
        if not chosen:
            return main
        result = outputs.clone()
        for index in chosen:
            loaded = self.loaded[index]
            at = [row for row, route in enumerate(routes) if route == index]
            change = loaded.change(rows[at]) if changes is None else changes[index][at]
            main_there = loaded.main(self.module, rows[at], outputs[at])
            result[at] = (main_there.float() + change).to(result.dtype)
        return result.reshape(main.shape)

    def _decide(self, rows: Tensor, outputs: Tensor, changes: list[Tensor]) -> list[int]:
        tokens = self.session.tokens(rows.device)
        activations = torch.stack(
            [
                loaded.activation(self.module, rows, outputs, change, tokens)
                for loaded, change in zip(self.loaded, changes, strict=True)
            ],
            dim=-1,
        )
        thresholds = [memory.routing.threshold for memory in self.memories]
        strength = activations / torch.tensor(thresholds, device=activations.device)
        best = strength.max(-1)
        routes = torch.where(best.values >= 1, best.indices, MAIN)
        self.decision = Decision(activations=activations.tolist(), routes=routes.tolist())
        return self.decision.routes


class _Loaded:
    """One memory on the device where it is needed; what it takes to get there is kept."""

    def __init__(self, memory: SideMemory, *, materialise: bool) -> None:
        self.memory = memory
        self._materialise = materialise
        self._delta: Tensor | None = None
        self._own: Tensor | None = None
        self._form = Form(name=memory.routing.form, activation=memory.routing.activation)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own: sparse tensors cannot be copied everywhere."""
        return {**self.__dict__, "_delta": None, "_own": None}

    def change(self, rows: Tensor) -> Tensor:
        """A(x) (W′ − W): (…, d_in) → (…, d_out), float32."""
        delta = self._on(rows.device)
        flat = rows.reshape(-1, rows.shape[-1]).float()
        product = flat @ delta.T if self._materialise else (delta @ flat.T).T
        return product.reshape(*rows.shape[:-1], delta.shape[0])

    def main(self, module: nn.Module, rows: Tensor, outputs: Tensor) -> Tensor:
        """A(x) W for the main weight of the memory's own turn. outputs: for that of `module`."""
        stored = self.memory.main
        if stored is None:
            return outputs
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        if self._own is None or (self._own.device, self._own.dtype) != (rows.device, weight.dtype):
            with torch.inference_mode(False):
                own = stored.T if self.memory.transposed else stored
                self._own = own.to(device=rows.device, dtype=weight.dtype)
        return functional.linear(rows, self._own, bias if isinstance(bias, Tensor) else None)

    def activation(
        self, module: nn.Module, rows: Tensor, outputs: Tensor, change: Tensor, tokens: Tensor
    ) -> Tensor:
        """(b,): how strongly each prompt activates the memory."""
        main = self.main(module, rows, outputs)
        return self._form.pooled(self._form.distances(main, change), tokens)

    def _on(self, device: torch.device) -> Tensor:
        if self._delta is None or self._delta.device != device:
            # It outlives this pass, and may be part of one that computes gradients.
            with torch.inference_mode(False):
                delta = self.memory.delta
                made = delta.dense(dtype=torch.float32) if self._materialise else _compressed(delta)
                self._delta = made.to(device)
        return self._delta


def _compressed(delta: Sparse) -> Tensor:
    """Δ (d_out, d_in), float32, sparse by rows: 8 bytes for every entry that is not zero."""
    marked = delta.marked()
    ends = marked.sum(1).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.cat((ends.new_zeros(1), ends)).to(torch.int32),
            marked.nonzero()[:, 1].to(torch.int32),
            delta.values.float(),
            size=delta.shape,
            check_invariants=False,  # it has been checked that values and mask fit
        )


class _Session:
    """What the routers of one model share: the forward pass that is going on, and what was held."""

    def __init__(self) -> None:
        self.bypassed = False
        self.prompts: Tensor | None = None
        self.shape: tuple[int, int] | None = None
        self._mask: Tensor | None = None
        self._routes: dict[str, list[int]] = {}
        self._by_cache: WeakKeyDictionary[Any, dict[str, list[int]]] = WeakKeyDictionary()
        self._handles: list[Any] = []

    def watch(self, decoder: nn.Module) -> None:
        """Follow the forward passes of `decoder`, which gets the tokens and owns the cache."""
        self._handles = [
            decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            decoder.register_forward_hook(self._end, always_call=True),
        ]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    @_eager
    def _begin(self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input_ids")
        given = kwargs["inputs_embeds"] if given is None else given
        self.shape = (given.shape[0], given.shape[1])
        self._mask = kwargs.get("attention_mask")
        cache = kwargs.get("past_key_values")
        continuing = cache is not None and cache.get_seq_length() > 0
        self._routes = dict(self._by_cache.get(cache, {})) if continuing else {}
        for routes in self._routes.values():
            if len(routes) != given.shape[0]:
                raise ModelError(
                    f"{given.shape[0]} sequences go on from a cache whose prompts were "
                    f"{len(routes)}; start from the prompts, so that each is routed"
                )

    @_eager
    def _end(self, _decoder: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self.shape = self._mask = None
        cache = getattr(output, "past_key_values", None)
        if cache is not None and not self.bypassed:
            self._by_cache[cache] = self._routes

    def held(self, tensor: str) -> list[int] | None:
        """The routes of this batch, if they have been decided on already."""
        return self._routes.get(tensor)

    def hold(self, tensor: str, routes: list[int]) -> None:
        self._routes[tensor] = routes

    def tokens(self, device: torch.device) -> Tensor:
        """(b, t), bool: the tokens of this pass that decide."""
        assert self.shape is not None
        if self.prompts is not None:
            tokens = self.prompts
        elif self._mask is None:
            return torch.ones(self.shape, dtype=torch.bool, device=device)
        elif isinstance(self._mask, Tensor) and self._mask.dim() == 2:
            tokens = self._mask[:, -self.shape[1] :]
        else:
            raise ModelError(
                "routing needs an attention mask of two dimensions, (batch, tokens), to leave out "
                "padding"
            )
        if tuple(tokens.shape) != self.shape:
            raise ModelError(
                f"{tuple(tokens.shape)} tokens of prompts are given for a {self.shape} batch"
            )
        return tokens.to(device=device, dtype=torch.bool)


def _check_changeable(model: nn.Module) -> None:
    """ModelError if modules of `model` cannot be replaced."""
    compiled = any(m._compiled_call_impl is not None for m in model.modules())
    if compiled or type(model).__name__ == "OptimizedModule":
        raise ModelError(
            f"{type(model).__name__} is compiled, and would go on without the side memories; apply "
            "the state first and compile then"
        )


def _decoder(model: nn.Module) -> nn.Module:
    """The part of a causal language model that takes tokens and gives hidden states."""
    getter: Any = getattr(model, "get_decoder", None)
    decoder = getter() if getter is not None else None
    return decoder if isinstance(decoder, nn.Module) else model


def _routers(model: nn.Module) -> dict[str, Router]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Router)}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
