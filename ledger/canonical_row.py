"""A row with canonical field names, and the edit that it describes.

What text is acceptable, and what is made of numbers, lists and absent values, is decided here for
every layout.
"""

import math
from collections.abc import Mapping

from patches.edit import Edit, Probe

Fields = Mapping[str, object]

# No edit is this long; a longer line or row is a damaged file, and would fill the memory: an array
# of empty arrays takes thirty times the room of its text. It also bounds all texts of an edit
# together, each as often as it is asked.
LONGEST_ROW = 1 << 23

FURTHER_KINDS = ("personas", "multi_hop", "out_of_distribution")


class UnusableRowError(Exception):
    """A row cannot become an edit; the message is the reason. Caught inside this package."""


def edit_from_row(row: Fields) -> Edit:
    """The edit that a row with canonical field names describes.

    Targets and answers lose white space on both sides, prompts only at their end. Rephrasings
    and probes without text are left out. Raises UnusableRowError with the reason if the prompt or
    the target is missing, or any text that would be stored is not text.
    """
    prompt = _prompt(row.get("prompt"), "prompt")
    if prompt is None:
        raise UnusableRowError("no prompt")
    if not prompt:
        raise UnusableRowError("empty prompt")
    target = _answer(row.get("target"), "target")
    if target is None:
        raise UnusableRowError("no target")
    if not target:
        raise UnusableRowError("empty target")
    edit = Edit(
        prompt=prompt,
        target=target,
        subject=_answer(row.get("subject"), "subject") or None,
        old_target=_answer(row.get("old_target"), "old_target") or None,
        relation=_answer(row.get("relation"), "relation") or None,
        rephrasings=_rephrasings(row.get("rephrasings")),
        locality=_probes(row.get("locality"), "locality") + _flat_locality(row),
        further=_further(row),
    )
    _check_length(edit)
    return edit


def _check_length(edit: Edit) -> None:
    """A short file can ask for one long answer very often."""
    probes = [*edit.locality, *(probe for kind in edit.further.values() for probe in kind)]
    length = len(edit.prompt) + len(edit.target) + sum(map(len, edit.rephrasings))
    length += sum(len(probe.prompt) + len(probe.answer) for probe in probes)
    if length > LONGEST_ROW:
        raise UnusableRowError(f"its texts have {length:,} characters together")


def _rephrasings(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(text for item in items if (text := _prompt(item, "rephrasings")))


def _flat_locality(row: Fields) -> tuple[Probe, ...]:
    """Locality given as two fields: a prompt and its answer, or equally long lists of them."""
    prompts, answers = row.get("locality_prompt"), row.get("locality_answer")
    if not isinstance(prompts, (list, tuple)):
        return _probes([[prompts, answers]], "locality")
    if not isinstance(answers, (list, tuple)) or len(answers) != len(prompts):
        raise UnusableRowError("the locality prompts do not have one answer each")
    return _probes(list(zip(prompts, answers, strict=True)), "locality")


def _further(row: Fields) -> dict[str, tuple[Probe, ...]]:
    named = row.get("further")
    if named is not None and not isinstance(named, Mapping):
        raise UnusableRowError(f"further is not an object of kinds: {shown(named)}")
    kinds = {kind: row.get(kind) for kind in FURTHER_KINDS}
    for kind, value in (named or {}).items():
        if kind in ("rephrasings", "locality"):
            raise UnusableRowError(f"further may not have the kind {kind}: it has its own field")
        kinds[_checked(str(kind), "further")] = value
    found = {kind: _probes(value, kind) for kind, value in kinds.items()}
    return {kind: probes for kind, probes in found.items() if probes}


def _probes(value: object, field: str) -> tuple[Probe, ...]:
    """Probes given as {prompt, answer} or [prompt, answer]; those without both are left out."""
    if _is_missing(value) or value == "":
        return ()
    if not isinstance(value, (list, tuple)):
        raise UnusableRowError(f"{field} is not a list: {shown(value)}")
    probes = []
    for item in value:
        if item is None:
            continue
        if isinstance(item, Mapping):
            pair: tuple[object, object] = (item.get("prompt"), item.get("answer"))
        elif isinstance(item, (list, tuple)) and len(item) == 2:
            pair = (item[0], item[1])
        else:
            raise UnusableRowError(
                f"{field} holds neither {{prompt, answer}} nor [prompt, answer]: {shown(item)}"
            )
        prompt, answer = _prompt(pair[0], field), _answer(pair[1], field)
        if prompt and answer:
            probes.append(Probe(prompt=prompt, answer=answer))
    return tuple(probes)


def _prompt(value: object, field: str) -> str | None:
    """A prompt without trailing white space; None if there is no value."""
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise UnusableRowError(f"{field} is not text: {shown(value)}")
    return _checked(value, field).rstrip()


def _answer(value: object, field: str) -> str | None:
    """An answer without white space around it; of several, the first; None if there is none."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if _is_missing(value):
        return None
    # True is an int in Python, but "True" is hardly the answer that was meant.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UnusableRowError(f"{field} is not text: {shown(value)}")
    return _checked(value, field).strip()


def _is_missing(value: object) -> bool:
    """Whether there is no value; a NaN is what pandas writes for an absent text."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _checked(text: str, field: str) -> str:
    """The text, if every database and tokenizer can take it."""
    if "\0" in text:
        raise UnusableRowError(f"{field} holds a NUL character, which databases cannot store")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UnusableRowError(f"{field} holds a lone surrogate (U+{code:04X})") from None
    return text


def shown(value: object) -> str:
    """A value that is not what it should be, as a reason names it."""
    kind = type(value).__name__
    # A list or an object may be huge, or nested too deeply to be written out.
    if isinstance(value, (list, tuple, Mapping)):
        return kind
    text = ascii(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({kind})"
