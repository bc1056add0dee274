"""The model card, README.md, of what `ledger push` publishes. Reads the database only.

It says nothing that the ledger does not know, and names no time, no path and no person. The facts
themselves are told only where that was asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ledger.cards.subject import SLUG, Published, Subject, read_subject
from ledger.cards.text import METRICS, body
from ledger.turn import Turn
from ledger.wording import counted, is_number
from ledger.workspace import Ledger

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

__all__ = ["Published", "card"]

_LIBRARIES = {"model": "transformers", "patch": "edit-ledger", "adapter": "peft"}


def card(ledger: Ledger, turns: Sequence[Turn], at: int | None, what: Published) -> str:
    """The card of the state after turn `at` (None: the last of `turns`, the ledger's branch).

    Equal ledgers give equal texts. HistoryError if there is no such turn.
    """
    subject = read_subject(ledger, turns, at, what)
    return f"---\n{_metadata(subject).to_yaml()}\n---\n\n{body(subject)}\n"


def _metadata(subject: Subject) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    what = subject.what
    routed = what.form == "model" and subject.memories
    results = _results(subject)
    relation = "finetune" if what.form == "model" else "adapter"
    return ModelCardData(
        base_model=what.base_model,
        base_model_relation=relation if what.base_model else None,
        base_model_revision=what.base_revision if what.base_model else None,
        datasets=_datasets(subject) or None,
        eval_results=results or None,
        library_name="edit-ledger" if routed else _LIBRARIES[what.form],
        license=subject.licence,
        model_name=what.name if results else None,
        pipeline_tag="text-generation",
        tags=_tags(subject),
    )


def _datasets(subject: Subject) -> list[str]:
    """The datasets on the Hub that the edits in force come from."""
    sources = [subject.sources.get(turn.number) for turn in subject.changing]
    return list(dict.fromkeys(source.hub for source in sources if source and source.hub))


def _tags(subject: Subject) -> list[str]:
    methods = {str(turn.row.method) for turn in subject.changing if turn.row.kind == "edit"}
    return [
        *("edit-ledger", "knowledge-editing", "model-editing"),
        *sorted(method for method in methods if SLUG.fullmatch(method)),
        *(["lora"] if subject.what.form == "adapter" else []),
    ]


def _results(subject: Subject) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    found = subject.evaluation
    if found is None:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="edit-ledger",
            dataset_name=f"{counted(found.n, 'edits')} in force at turn {len(subject.turns)}",
            metric_type=metric,
            metric_name=name,
            metric_value=round(float(found.state[metric]), 6),
        )
        for metric, (name, _) in METRICS.items()
        if is_number(found.state.get(metric))
    ]
