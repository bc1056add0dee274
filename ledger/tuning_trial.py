"""One trial: turns of edits on the live base with given settings, scored, and taken back.

Nothing is recorded in the history: patches go to a temporary folder, and the model is afterwards
what it was, to the bit.
"""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from patches import evaluation
from patches.canonical import sha256
from patches.edit import Edit, Probe
from patches.editors import EDITORS, Editor, Facts, Request
from patches.editors.neutral import NEUTRAL
from patches.editors.search_space import Choice
from patches.errors import EditingError, ModelError, SettingError
from patches.evaluation import METRICS, TOKENS, Answered, Outcome, Questions, Scores
from patches.live import LiveModel
from patches.patch import PatchFile, PatchHeader, encode_patch
from patches.tokens import context_length, encode

_KEPT = ("edit_success", "generalization", "locality", "stability", "exact_match")
# Sentences for an edit where the rows have no locality prompts.
_SENTENCES = 2
# Editing costs about as much as scoring so many prompts.
_EDITING = 3


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Edits by turn, and how much of each is scored. probes: rephrasings, and locality prompts, of
    an edit at the most; None: all. neutral: stability is measured on built-in sentences.
    """

    turns: tuple[tuple[Edit, ...], ...]
    probes: int | None = None
    neutral: bool = False

    @property
    def edits(self) -> list[Edit]:
        return [edit for turn in self.turns for edit in turn]

    @property
    def scored(self) -> list[Edit]:
        """The edits with what is asked about them."""
        return [
            replace(
                edit,
                old_target=None,
                further={},
                rephrasings=edit.rephrasings[: self.probes],
                locality=_sentences(edit) if self.neutral else edit.locality[: self.probes],
            )
            for edit in self.edits
        ]

    @property
    def effort(self) -> int:
        """How long editing and scoring takes, in prompts scored."""
        scored = self.scored
        return sum(_EDITING + 1 + len(e.rephrasings) + len(e.locality) for e in scored)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a trial; without scores where `failure` says why.

    hyperparameters: complete. scores: of all edits after the last turn. earlier: edit success of
    all turns but the last. outcomes: scores by edit, in order.
    """

    hyperparameters: dict[str, Any] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    earlier: float | None = None
    outcomes: list[Scores] = field(default_factory=list)
    failure: str | None = None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BaseJob:
    """What the base answers, which the stability of every trial on these rows is measured by."""

    rows: Rows
    at: int | None = None

    @property
    def size(self) -> int:
        return len(self.rows.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> list[Answered]:
        return _answers(live, _questions(live, tokenizer, self.rows))


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """Edit turn after turn with the settings of `choice`, and score all edits at the end.

    base: the base's fingerprint. answers: what `BaseJob` gave on the same rows.
    """

    base: str
    method: str
    choice: Choice
    rows: Rows
    answers: Sequence[Answered]
    seed: int
    at: int | None = None

    @property
    def size(self) -> int:
        return len(self.rows.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> Result:
        started = time.perf_counter()
        torch.manual_seed(self.seed)
        hyperparameters: dict[str, Any] = {}
        try:
            hyperparameters = resolved(self.method, self.choice, live, tokenizer, seed=self.seed)
            self._edit(live, tokenizer, hyperparameters)
            outcomes = [_told(outcome) for outcome in self._score(live, tokenizer)]
        except (EditingError, SettingError, ModelError) as error:
            return Result(
                hyperparameters=hyperparameters,
                failure=str(error),
                seconds=time.perf_counter() - started,
            )
        finally:
            live.set_state(())
        return Result(
            hyperparameters=hyperparameters,
            scores={name: evaluation.summary(outcomes)[name] for name in _KEPT},
            earlier=_success(outcomes[: -len(self.rows.turns[-1])]),
            outcomes=outcomes,
            seconds=time.perf_counter() - started,
        )

    def _edit(self, live: LiveModel, tokenizer: Any, hyperparameters: Mapping[str, Any]) -> None:
        editor = EDITORS[self.method].start(live, tokenizer, hyperparameters, (), seed=self.seed)
        with tempfile.TemporaryDirectory(prefix="ledger-trial-") as folder:
            for number, edits in enumerate(self.rows.turns, start=1):
                header = PatchHeader(
                    base=self.base,
                    method=self.method,
                    hyperparameters=hyperparameters,
                    turn=number,
                    parent=None,
                )
                _turn(live, tokenizer, editor, edits, header, Path(folder) / f"{number}")

    def _score(self, live: LiveModel, tokenizer: Any) -> list[Outcome]:
        questions = _questions(live, tokenizer, self.rows)
        state = _answers(live, questions)
        return evaluation.score(self.rows.scored, questions, self.answers, state)


def resolved(
    method: str, choice: Choice, live: LiveModel, tokenizer: Any, *, seed: int
) -> dict[str, Any]:
    """Complete hyperparameters: what is chosen, on top of what the method takes for the model."""
    request = Request(
        modules=choice.modules,
        assignments={name: str(value) for name, value in choice.values.items()},
        seed=seed,
    )
    found = dict(EDITORS[method].prepare(live, tokenizer, request).hyperparameters)
    for name, factor in choice.factors.items():
        # Three digits: what is printed is what is used.
        found[name] = float(f"{found[name] * factor:.3g}")
    return found


def _sentences(edit: Edit) -> tuple[Probe, ...]:
    """Some neutral sentences, always the same for an edit, with their second halves as answers."""
    start = int(sha256(edit.prompt.encode())[:8], 16)
    chosen = [NEUTRAL[(start + n) % len(NEUTRAL)].split() for n in range(_SENTENCES)]
    return tuple(
        Probe(prompt=" ".join(words[: len(words) // 2]), answer=" ".join(words[len(words) // 2 :]))
        for words in chosen
    )


def _turn(
    live: LiveModel,
    tokenizer: Any,
    editor: Editor,
    edits: Sequence[Edit],
    header: PatchHeader,
    path: Path,
) -> None:
    """One turn, on the live model only."""
    encoded = encode(tokenizer, [e.prompt for e in edits], [e.target for e in edits])
    result = editor.edit(Facts(edits=edits, encoded=encoded))
    path.write_bytes(encode_patch(header, result.changes))
    live.advance(PatchFile(path))
    editor.accept(result)


def _questions(live: LiveModel, tokenizer: Any, rows: Rows) -> Questions:
    return Questions.of(rows.scored, tokenizer, context_length(live.model.config))


def _answers(live: LiveModel, questions: Questions) -> list[Answered]:
    return evaluation.answer(live.model, questions, device=live.device)


def _told(outcome: Outcome) -> Scores:
    """Of an edit's scores those that trials are compared by, all of them shares."""
    state = outcome.state
    return {**dict.fromkeys(METRICS), **{name: state[name] for name in (*_KEPT, TOKENS)}}


def _success(outcomes: Sequence[Scores]) -> float | None:
    known = [found for one in outcomes if (found := one["edit_success"]) is not None]
    return math.fsum(known) / len(known) if known else None
