"""The text of a model card: what was edited, from which data, and how well it worked.

Whatever comes from a dataset, from the base's files or from another's history is `escaped`.
"""

from collections.abc import Sequence

from ledger.cards.markdown import (
    LONGEST,
    bullets,
    capped_table,
    code,
    escaped,
    left_out,
    section,
    table,
)
from ledger.cards.subject import Source, Subject
from ledger.cards.use import limits, loading, verifying
from ledger.gates import was_rejected
from ledger.history import CHANGING
from ledger.turn import Turn
from ledger.wording import NOTHING, counted, is_number, score, turn_numbers

METRICS = {
    "edit_success": (
        "edit success",
        "share of the new answers' tokens that are predicted on the edits' own prompts",
    ),
    "generalization": ("generalisation", "the same on rephrasings of the prompts"),
    "locality": (
        "locality",
        "share of the answers' tokens that are predicted on prompts that no edit is about",
    ),
    "stability": ("stability", "share of the locality tokens that are predicted as by the base"),
    "exact_match": ("exact match", "share of edits with every token of the new answer predicted"),
    "preference": (
        "P(new) > P(old)",
        "share of edits whose new answer is more probable per token than the old one",
    ),
    "perplexity": ("perplexity", "of the new answers, mean over the edits; lower is better"),
    "out_of_distribution": (
        "out of distribution",
        "share of the answers' tokens that are predicted on probes of that kind",
    ),
    "generated_match": (
        "generated match",
        "share of edits whose new answer greedy generation gives, token by token",
    ),
    "routed_edits": ("edits routed", "share of the edits' prompts that go to a side memory"),
    "routed_rephrasings": (
        "rephrasings routed",
        "share of the rephrasings that go to a side memory",
    ),
    "routed_locality": (
        "locality routed",
        "share of the locality prompts that go to a side memory; lower is better",
    ),
}
"""Metric → what people call it, and what it is."""
_METHODS = {
    "ultraedit": "UltraEdit (arXiv 2505.14679)",
    "wise": "WISE (arXiv 2405.14768)",
    "lora": "an imported LoRA adapter",
    "difference": "an imported difference between two checkpoints",
}


def body(subject: Subject) -> str:
    """All of the card that people read."""
    parts = (_opening, _edited, _data, _scores, loading, verifying, limits, _facts)
    return "\n\n".join(text for part in parts if (text := part(subject)))


def _opening(subject: Subject) -> str:
    what = subject.what
    named = f"`{what.base_model}`" if what.base_model else "a base model"
    about = {
        "model": f"This is {named} with {_made(subject)}. Its weights are those of the base plus "
        "the changes of the turns in force, summed in float64 and rounded once; tensors that no "
        "turn in force changes have the bytes of the base.",
        "patch": f"This is the history of an edit ledger for {named}, with {_made(subject)}: a "
        "safetensors patch for every turn, and no model. Applied to the base it gives the edited "
        "model.",
        "adapter": f"This is a LoRA adapter for {named}, with {_made(subject)}: the sum of the "
        "weight changes in force, as low-rank factors.",
    }[what.form]
    if subject.memories:
        about += (
            " Side memories stand beside the weights: a prompt that activates one of them strongly "
            "enough is sent there, any other gets the main weights."
        )
    about += (
        " It was made with edit-ledger, which records edits of a model's knowledge in turns that "
        "can be applied, taken back and verified."
    )
    facts = [
        f"base: {_base(subject)}",
        f"state: turn {len(subject.turns)} of the ledger",
        f"licence: {_licence(subject)}",
    ]
    return f"# {escaped(what.name)}\n\n{about}\n\n{bullets(facts)}"


def _made(subject: Subject) -> str:
    """The edits in force, and by what they were made."""
    labels: dict[str, dict[str, None]] = {kind: {} for kind in CHANGING}
    for turn in subject.changing:
        method = str(turn.row.method)
        labels[turn.row.kind][_METHODS.get(method, escaped(method))] = None
    if not subject.changing:
        return "no edit in force"
    parts = list(labels["import"])
    if labels["edit"]:
        edits = counted(subject.edits, "edits")
        parts.insert(0, f"{edits} made by {' and '.join(labels['edit'])}")
    return " and ".join(parts)


def _base(subject: Subject) -> str:
    what, base = subject.what, subject.base
    architecture = escaped(base.architecture)
    if what.base_model is None:
        return f"not named; {architecture}, it must have the fingerprint `{base.fingerprint}`"
    at = f", revision `{what.base_revision}`" if what.base_revision else ""
    return f"`{what.base_model}`{at} ({architecture})"


def _licence(subject: Subject) -> str:
    stated = subject.base.licence
    if not stated:
        return "not known to the ledger; that of the base applies"
    return f"{subject.licence or escaped(stated)}, that of the base"


def _edited(subject: Subject) -> str:
    gone = [
        turn
        for turn in subject.turns
        if turn.row.kind in CHANGING and turn.number not in subject.active
    ]
    said = [f"In force: {_count(subject.changing)}. Rolled back: {_count(gone)}."]
    if skipped := sum(turn.row.skipped for turn in subject.turns):
        said.append(f"Rows of the data that could not be used: {skipped:,}.")
    if not subject.what.include_edits:
        said.append("The facts themselves are not published here.")
    shown, note = "", ""
    if subject.turns:
        shown = capped_table(
            ("turn", "what", "edits", "dataset", "state", "success", "generalisation", "stability"),
            [_turn_cells(subject, turn) for turn in subject.turns],
            right="turn|edits|success|generalisation|stability",
        )
    if any(turn.scores for turn in subject.turns):
        note = "The scores of a turn are those of the state right after it, on its own edits."
    return section("What was edited", " ".join(said), shown, note)


def _count(turns: Sequence[Turn]) -> str:
    if not turns:
        return "none"
    edits = counted(sum(turn.row.edits for turn in turns), "edits")
    return f"{edits} ({turn_numbers([turn.number for turn in turns])})"


def _turn_cells(subject: Subject, turn: Turn) -> tuple[str, ...]:
    state = (turn.scores or {}).get("state")
    values = state if isinstance(state, dict) else {}
    return (
        str(turn.number),
        _kind(turn),
        f"{turn.row.edits:,}" if turn.row.edits else NOTHING,
        _rows(subject.sources.get(turn.number), turn),
        _state(subject, turn),
        *(score(values.get(name)) for name in ("edit_success", "generalization", "stability")),
    )


def _state(subject: Subject, turn: Turn) -> str:
    if turn.number in subject.active:
        return "in force"
    return "rejected" if was_rejected(turn.row.figures) else "rolled back"


def _kind(turn: Turn) -> str:
    method = escaped(turn.row.method or "")
    return {
        "edit": method,
        "rollback": f"rollback of {turn_numbers(turn.undoes)}",
        "merge": f"merge of {turn_numbers(turn.replaces)} ({method})",
        "import": f"import ({method})",
    }[turn.row.kind]


def _rows(source: Source | None, turn: Turn) -> str:
    if turn.row.kind != "edit":
        return NOTHING
    if source is None or not source.name:
        return "not published"
    first, last = turn.row.first_row, turn.row.last_row
    if first is None or last is None:
        return code(source.name)
    return f"{code(source.name)}, {f'row {first}' if first == last else f'rows {first}-{last}'}"


def _data(subject: Subject) -> str:
    turns: dict[Source, list[int]] = {}
    for number, source in subject.sources.items():
        turns.setdefault(source, []).append(number)
    if not turns:
        return ""
    rows = [
        (
            code(source.name),
            code(source.layout),
            "not stated" if source.licence is None else escaped(source.licence),
            code(source.sha256),
            turn_numbers(numbers),
        )
        for source, numbers in turns.items()
    ]
    note = ""
    if any(source.whole for source in turns):
        note = (
            "The SHA-256 of a whole repository is that of its name, commit, configuration and "
            "split; of a file, that of its bytes."
        )
    return section(
        "Data", capped_table(("dataset", "layout", "licence", "SHA-256", "used by"), rows), note
    )


def _scores(subject: Subject) -> str:
    found = subject.evaluation
    if found is None:
        return section("Scores", _unscored(subject))
    rows = [
        (name, score(found.base.get(metric)), score(found.state.get(metric)), meaning)
        for metric, (name, meaning) in METRICS.items()
        if is_number(found.state.get(metric))
    ]
    n = f"{found.n:,}" if found.n == subject.edits else f"{found.n:,} of {subject.edits:,}"
    name, version = (str(found.protocol.get(key)) for key in ("name", "version"))
    about = (
        f"The base beside the state at turn {len(subject.turns)}, on the edits in force (n = {n}). "
        f"Protocol: {escaped(name)}, version {escaped(version)}, seed {found.seed}."
    )
    if name == "teacher-forced":
        about += (
            " A token counts as predicted if it is the most probable one after the prompt and the "
            "answer's earlier tokens."
        )
    if subject.what.form == "adapter":
        about += " Scored were the weights that `ledger apply` writes, not those with this adapter."
    return section(
        "Scores", about, table(("score", "base", "edited", "what it is"), rows, right="base|edited")
    )


def _unscored(subject: Subject) -> str:
    if not subject.changing:
        return "No edit is in force: there is nothing to score."
    missing = (
        f"The state at turn {len(subject.turns)} was never scored on all edits in force: there are "
        "no scores of what is published here."
    )
    if any(turn.scores for turn in subject.changing):
        return (
            f"{missing} Those of the turns, above, were taken when each was made; later turns may "
            "have changed them."
        )
    return f"{missing} Nor were its turns scored when they were made."


def _facts(subject: Subject) -> str:
    if not subject.what.include_edits or not subject.changing:
        return ""
    rows = [
        (
            str(number),
            escaped(edit.prompt),
            "not known" if edit.old_target is None else escaped(edit.old_target),
            escaped(edit.target),
        )
        for number, edit in subject.facts
    ]
    missing = {t.number: t.row.edits - subject.texts.get(t.number, 0) for t in subject.changing}
    without = [number for number, count in missing.items() if count]
    note = ""
    if without:
        note = (
            f"Of {counted(sum(missing.values()), 'edits')} in {turn_numbers(without)} the texts "
            "were not published where they come from."
        )
    shown = table(("turn", "prompt", "old", "new"), rows, right="turn") if rows else ""
    more = left_out(sum(subject.texts.values()) - len(rows))
    about = f"The edits in force; texts of more than {LONGEST} characters are cut."
    return section("Facts", about, shown, more, note)
