"""WISE as an editor: its defaults, and one side memory per turn.

Besides the locality prompts of its own edits, a memory is kept away from half of the pool of
sentences, whose other half is held out for the threshold, and from locality prompts of earlier
turns in force: these are the editor state.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from patches.canonical import canonical_json, sha256
from patches.deltas import Sparse
from patches.editors import wise
from patches.editors.contexts import write_contexts
from patches.editors.defaults import select_modules
from patches.editors.editor import Facts, Prepared, Request, Result, parse_assignments
from patches.editors.neutral import NEUTRAL
from patches.editors.wise import Lesson, Trained, WiseSettings
from patches.editors.wise_defaults import calibrated, default_matrix
from patches.editors.wise_matrix import Matrix, Prompts
from patches.editors.wise_threshold import measured_routing
from patches.errors import EditingError, SettingError
from patches.live import LiveModel
from patches.modules import targets_for
from patches.patch import Change
from patches.routing import bypassed
from patches.side_memory import Form, Routing
from patches.tokens import Encoded, context_length, encode, encode_prompts

_KINDS: dict[str, Callable[[str], Any]] = {
    "learning_rate": float,
    "alpha": float,
    "beta": float,
    "gamma": float,
    "activation_weight": float,
    "iterations": int,
    "batch": int,
    "mask_ratio": float,
    "threshold": float,
    "form": str,
    "templates": int,
    "out_of_scope": str,
}
_TEMPLATES = 1
_MOST_TEMPLATES = 100
# Locality prompts of one edit that are trained on, and sentences for an edit that has none.
_OWN, _DRAWN = 8, 2
# Locality prompts of earlier turns, at the most.
_EARLIER = 32


class WiseEditor:
    """Turn after turn of WISE on one live model; each trains a memory beside the main weights."""

    method: ClassVar[str] = wise.METHOD
    turn_size: ClassVar[int] = 10

    def __init__(
        self,
        live: LiveModel,
        tokenizer: Any,
        settings: WiseSettings,
        earlier: Sequence[Encoded],
        *,
        seed: int,
    ) -> None:
        self._live = live
        self._tokenizer = tokenizer
        self._settings = settings
        self._seed = seed
        self._longest = context_length(live.model.config)
        self._pool = NEUTRAL if settings.pool is None else settings.pool
        # What reaches the matrix from them: main weights do not change while memories are added.
        self._pool_records: tuple[list[Prompts], list[Prompts]] | None = None
        self._earlier = list(earlier)
        [self._target] = targets_for(live.model, live.checkpoint, settings.modules)
        live.check_editable([self._target.tensor])
        self._form = Form.of(settings.form, live.model)

    @classmethod
    def prepare(cls, live: LiveModel, tokenizer: Any, request: Request) -> Prepared:
        values = parse_assignments(request.assignments, _KINDS)
        notes: tuple[str, ...] = ()
        if request.modules:
            modules = select_modules(live.model, request.modules)
        else:
            name, note = default_matrix(live.model)
            modules, notes = (name,), (note,) if note else ()
        if len(modules) != 1:
            raise SettingError(
                f"WISE puts its memory beside one matrix, --modules names {len(modules)}: "
                f"{modules[0]} to {modules[-1]}"
            )
        count = values.pop("templates", _TEMPLATES)
        if not 0 <= count <= _MOST_TEMPLATES:
            raise SettingError(f"templates must be from 0 to {_MOST_TEMPLATES}, not {count}")
        [target] = targets_for(live.model, live.checkpoint, modules)
        live.check_editable([target.tensor])
        # What is written and measured is the base's, so that it is the same for every run.
        with live.at_base():
            contexts = write_contexts(live.model, tokenizer, count, seed=request.seed)
            measured = calibrated(
                live.model,
                modules[0],
                encode_prompts(tokenizer, NEUTRAL),
                mask_ratio=values.get("mask_ratio", WiseSettings.mask_ratio),
                device=live.device,
            )
        settings = WiseSettings(
            modules=modules,
            contexts=contexts,
            pool=request.outside,
            **{**measured, **values},
        )
        if settings.out_of_scope == "pool":
            source = _source(settings.pool)
            notes += (f"prompts that must stay outside come from {source}, not from the rows",)
        return Prepared(hyperparameters=settings.to_json(), notes=notes)

    @classmethod
    def start(
        cls,
        live: LiveModel,
        tokenizer: Any,
        hyperparameters: Mapping[str, Any],
        states: Iterable[Mapping[str, Tensor]],
        *,
        seed: int = 0,
    ) -> Self:
        settings = WiseSettings.from_json(hyperparameters)
        earlier = [prompt for state in states for prompt in _from_state(state)]
        return cls(live, tokenizer, settings, earlier, seed=seed)

    @classmethod
    def folded(cls, states: Iterable[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        return _to_state([prompt for state in states for prompt in _from_state(state)])

    def edit(self, facts: Facts, *, progress: Callable[[int], None] = lambda _done: None) -> Result:
        started = time.perf_counter()
        drawn = [not edit.locality for edit in facts.edits]
        lessons = self._lessons(facts)
        model, name = self._live.model, self._target.name
        matrix = Matrix(model, name, form=self._form, device=self._live.device)
        # A memory is trained beside main weights; others do not take part.
        with bypassed(self._live.model):
            mask = self._mask(facts)
            pool, held_out = self._pool_of(matrix)
            always = [*pool, *matrix.record(self._drawn_from_earlier(facts))]
            trained = wise.train(
                matrix,
                lessons,
                mask,
                self._settings,
                always=always,
                told=facts.told,
                progress=progress,
            )
            between = time.perf_counter()
            delta = self._delta(trained.values, mask)
            routing = self._routing(matrix, trained, lessons, held_out, delta)
        change = Change(delta=delta, transposed=self._target.transposed, routing=routing)
        return Result(
            changes={self._target.tensor: change},
            state=_to_state(self._own_outside(facts)),
            figures={
                "losses": [round(loss, 6) for loss in trained.losses],
                "activation_loss": round(trained.activation_loss, 6),
                "iterations": self._settings.iterations,
                "threshold": routing.threshold,
            },
            seconds={
                "train": between - started,
                "threshold": time.perf_counter() - between,
            },
            notes=self._notes(drawn, routing),
        )

    def accept(self, result: Result) -> None:
        self._earlier += _from_state(result.state)

    def _lessons(self, facts: Facts) -> list[Lesson]:
        return [
            Lesson(
                wanted=(encoded, *self._after_contexts(edit.prompt, edit.target)),
                outside=self._fitting(encode_prompts(self._tokenizer, self._outside(edit))),
            )
            for edit, encoded in zip(facts.edits, facts.encoded, strict=True)
        ]

    def _pool_of(self, matrix: Matrix) -> tuple[list[Prompts], list[Prompts]]:
        """The sentences to train on, and those that are held out for the threshold."""
        if self._pool_records is None:
            pool = self._fitting(encode_prompts(self._tokenizer, self._pool))
            self._pool_records = matrix.record(pool[::2]), matrix.record(pool[1::2])
        return self._pool_records

    def _drawn_from_earlier(self, facts: Facts) -> list[Encoded]:
        draw = random.Random(f"{self._seed} {facts.edits[0].prompt}")
        return draw.sample(self._earlier, min(_EARLIER, len(self._earlier)))

    def _own_outside(self, facts: Facts) -> list[Encoded]:
        """The locality prompts of these edits that later memories are kept away from too."""
        if self._settings.out_of_scope == "pool":
            return []
        prompts = [probe.prompt for edit in facts.edits for probe in edit.locality[:_OWN]]
        return list(self._fitting(encode_prompts(self._tokenizer, list(dict.fromkeys(prompts)))))

    def _after_contexts(self, prompt: str, target: str) -> tuple[Encoded, ...]:
        contexts = self._settings.contexts
        prompts = [context + prompt for context in contexts]
        return self._fitting(encode(self._tokenizer, prompts, [target] * len(contexts)))

    def _outside(self, edit: Any) -> list[str]:
        if edit.locality and self._settings.out_of_scope == "rows":
            return [probe.prompt for probe in edit.locality[:_OWN]]
        draw = random.Random(f"{self._seed} {edit.prompt}")
        return draw.sample(self._pool, min(_DRAWN, len(self._pool)))

    def _fitting(self, encoded: Sequence[Encoded]) -> tuple[Encoded, ...]:
        """Those that the model can take."""
        longest = self._longest
        return tuple(e for e in encoded if e.ids and (longest is None or len(e.ids) <= longest))

    def _mask(self, facts: Facts) -> Tensor:
        """(d_out, d_in), bool: drawn anew for every turn, and the same for the same turn."""
        weight = self._target.module.weight
        assert isinstance(weight, Tensor)
        shape = weight.shape[::-1] if self._target.transposed else weight.shape
        texts = [[edit.prompt, edit.target] for edit in facts.edits]
        content = sha256(canonical_json([self._seed, self._target.tensor, texts]))
        draw = torch.Generator().manual_seed(int(content[:15], 16))
        mask = torch.rand(tuple(shape), generator=draw) < self._settings.mask_ratio
        if not mask.any():
            raise EditingError(
                f"mask_ratio {self._settings.mask_ratio} marks no entry of {self._target.tensor}; "
                "raise it: --set mask_ratio=0.2"
            )
        return mask.to(weight.device)

    def _delta(self, values: Tensor, mask: Tensor) -> Sparse:
        """In the checkpoint's dtype, which is what the memory will have at inference too."""
        dtype = self._live.stored(self._target.tensor).dtype
        matrix = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        rounded = matrix.masked_scatter_(mask, values.to(dtype))
        if not torch.isfinite(rounded).all():
            raise EditingError(
                f"module {self._target.name}: the side memory would hold numbers that are not "
                "finite; lower the rate: --set learning_rate=…"
            )
        if not rounded.any():
            raise EditingError(
                f"module {self._target.name}: training changed nothing; raise the rate: "
                "--set learning_rate=…"
            )
        return Sparse.of(rounded, mask)

    def _routing(
        self,
        matrix: Matrix,
        trained: Trained,
        lessons: Sequence[Lesson],
        held_out: Sequence[Prompts],
        delta: Sparse,
    ) -> Routing:
        """Taken from the memory as it is stored, on the prompts alone."""
        dense = delta.dense(dtype=torch.float32, device=self._live.device)
        prompts = [_prompt(lesson.wanted[0]) for lesson in lessons]
        return measured_routing(
            self._form,
            edits=matrix.activations_of(matrix.record(prompts, as_asked=True), dense),
            others=matrix.activations_of([*trained.outside, *held_out], dense),
            share=self._settings.threshold,
            main=self._live.stored(self._target.tensor),
        )

    def _notes(self, drawn: Sequence[bool], routing: Routing) -> tuple[str, ...]:
        notes = []
        where = _source(self._settings.pool)
        if any(drawn) and self._settings.out_of_scope == "rows":
            notes.append(
                f"{sum(drawn)} of {len(drawn)} edits have no locality prompt; {_DRAWN} sentences "
                f"each came from {where}"
            )
        if routing.others.max >= routing.edits.min:
            notes.append(
                "an unrelated prompt activates the memory as strongly as an edit "
                f"({routing.others.max:.3g} against {routing.edits.min:.3g}): some prompts will "
                "take the wrong way. Raise beta and gamma, or add locality prompts"
            )
        return tuple(notes)


def _prompt(encoded: Encoded) -> Encoded:
    """Without its answer."""
    end = encoded.first + 1 if encoded.answer else None
    return Encoded(ids=encoded.ids[:end], answer=())


def _source(pool: Sequence[str] | None) -> str:
    return "the built-in pool" if pool is None else "--locality"


def _to_state(prompts: Sequence[Encoded]) -> dict[str, Tensor]:
    """Token ids of prompts one after the other, and how many each has; nothing for none."""
    if not prompts:
        return {}
    ids = [token for prompt in prompts for token in prompt.ids]
    return {
        "outside/ids": torch.tensor(ids, dtype=torch.int32),
        "outside/lengths": torch.tensor([len(p.ids) for p in prompts], dtype=torch.int32),
    }


def _from_state(state: Mapping[str, Tensor]) -> list[Encoded]:
    """The inverse of `_to_state`."""
    if not state:
        return []
    parts = torch.split(state["outside/ids"], state["outside/lengths"].tolist())
    return [Encoded(ids=tuple(part.tolist()), answer=()) for part in parts]
