"""The layouts in which the field publishes edits, and how a row of each becomes an `Edit`.

Every layout is one function that renames the fields of its rows to the canonical ones; what text
is acceptable is then decided in one place, `ledger.canonical_row`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ledger.canonical_row import LONGEST_ROW, Fields, UnusableRowError, shown
from ledger.wording import field_names
from patches.errors import DatasetError

Rename = Callable[[Fields], Fields]

MAPPING_KEYS = (
    "prompt",
    "target",
    "subject",
    "old_target",
    "relation",
    "rephrasings",
    "locality",
    "locality_prompt",
    "locality_answer",
)
MAPPED = "mapped"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How to know a layout and how to read it.

    needs: groups of fields; a row has this layout if it has at least one field of every group.
    lacks: fields that a row of this layout does not have.
    rename: turns a row of this layout into a row with the canonical field names.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    lacks: tuple[str, ...] = ()
    rename: Rename

    def fits(self, row: Fields) -> bool:
        """Whether a row has the fields of this layout."""
        if any(field in row for field in self.lacks):
            return False
        return all(any(field in row for field in group) for group in self.needs)


def recognise(row: Fields, source: str) -> str:
    """The name of the layout of a row. Raises DatasetError if none fits."""
    for layout in LAYOUTS:
        if layout.fits(row):
            return layout.name
    raise DatasetError(
        f"{source}: no known layout has the fields of its first row: {field_names(row)}. Say which "
        f"field is which, for example --map prompt=FIELD,target=FIELD "
        f"(known keys: {', '.join(MAPPING_KEYS)})."
    )


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raises DatasetError if a mapping has an unknown key or lacks one that it needs."""
    known = f"Known keys: {', '.join(MAPPING_KEYS)}."
    unknown = [key for key in mapping if key not in MAPPING_KEYS]
    if unknown:
        raise DatasetError(f"The mapping has unknown keys: {', '.join(unknown)}. {known}")
    missing = [key for key in ("prompt", "target") if key not in mapping]
    if missing:
        raise DatasetError(
            f"The mapping does not say which field is {' and '.join(missing)}; "
            f"add {','.join(f'{key}=FIELD' for key in missing)}. {known}"
        )
    if ("locality_prompt" in mapping) != ("locality_answer" in mapping):
        raise DatasetError(
            "The mapping names only one of locality_prompt and locality_answer; name both, "
            "since a locality prompt is tested against its answer."
        )


def check_mapped_fields(mapping: Mapping[str, str], row: Fields, source: str) -> None:
    """Raises DatasetError if a mapping names fields that the first row of a source lacks."""
    missing = [f"{key}={field}" for key, field in mapping.items() if field not in row]
    if missing:
        raise DatasetError(
            f"{source}: its first row has no such field: {', '.join(missing)}. The row has the "
            f"fields {field_names(row)}; known keys: {', '.join(MAPPING_KEYS)}."
        )


def rename_by(layout: str, mapping: Mapping[str, str]) -> Rename:
    """The function that gives rows of a layout their canonical field names.

    Raises DatasetError if no layout has that name.
    """
    if layout == MAPPED:
        return lambda row: {key: row.get(field) for key, field in mapping.items()}
    for known in LAYOUTS:
        if known.name == layout:
            return known.rename
    names = ", ".join(known.name for known in LAYOUTS)
    raise DatasetError(f"There is no layout named {layout!r}; known are {names}, {MAPPED}.")


def _canonical(row: Fields) -> Fields:
    return row


def _counterfact(row: Fields) -> Fields:
    return {
        "prompt": row.get("prompt"),
        "target": row.get("target_new"),
        "subject": row.get("subject"),
        "old_target": row.get("ground_truth"),
        "relation": _relation(row),
        "rephrasings": row.get("rephrase_prompt"),
        "locality_prompt": row.get("locality_prompt"),
        "locality_answer": row.get("locality_ground_truth"),
    }


def _wise_temporal(row: Fields) -> Fields:
    distant = [[row.get("ood_rephrase"), row.get("target_new")]]
    return {**_counterfact(row), "out_of_distribution": distant}


def _knowedit(row: Fields) -> Fields:
    """As the loader of its publishers reads it (EasyEdit, dataset/KnowEdit.py)."""
    further = _groups(row.get("portability"), "portability")
    return {
        "prompt": row.get("prompt") or row.get("text"),
        "target": _first(row.get("target_new") or row.get("labels")),
        "subject": row.get("subject") or row.get("concept"),
        "old_target": _first(row.get("ground_truth")),
        "relation": _relation(row),
        "rephrasings": row.get("rephrase_prompt") or row.get("rephrase"),
        "locality": [
            probe
            for probes in _groups(row.get("locality"), "locality").values()
            for probe in probes
        ],
        "further": {kind.lower(): probes for kind, probes in further.items()},
    }


def _groups(value: object, field: str) -> dict[str, list[object]]:
    """Kind → probes of it as [prompt, answer]."""
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        raise UnusableRowError(f"{field} is not an object of kinds: {shown(value)}")
    return {
        str(kind): [
            [one.get("prompt"), _first(one.get("ground_truth"))]
            if isinstance(one, Mapping)
            else one
            for one in probes
        ]
        for kind, probes in value.items()
        if isinstance(probes, list)
    }


def _first(answers: object) -> object:
    """The first of several answers, each of which may be a list of names for the same."""
    while isinstance(answers, list):
        answers = answers[0] if answers else None
    return answers


def _counterfact_nested(row: Fields) -> Fields:
    rewrite = row.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        raise UnusableRowError(f"requested_rewrite is not an object: {shown(rewrite)}")
    prompt, subject = rewrite.get("prompt"), rewrite.get("subject")
    if isinstance(prompt, str) and "{}" in prompt:
        if not isinstance(subject, str) or not subject.strip():
            raise UnusableRowError("the prompt has a place for a subject, but there is no subject")
        if prompt.count("{}") * len(subject) > LONGEST_ROW:
            raise UnusableRowError("the prompt has too many places for its subject")
        prompt = prompt.replace("{}", subject)
    old = _string_of(rewrite.get("target_true"))
    neighbours = row.get("neighborhood_prompts")
    return {
        "prompt": prompt,
        "target": _string_of(rewrite.get("target_new")),
        "subject": subject,
        "old_target": old,
        "relation": _relation(rewrite),
        "rephrasings": row.get("paraphrase_prompts"),
        # The neighbours are subjects of which the old answer is true, and must stay so.
        "locality": [[text, old] for text in neighbours] if isinstance(neighbours, list) else None,
    }


def _relation(row: Fields) -> str | None:
    """What of its subject a row tells, under either of the usual names; nothing depends on it."""
    named = (row.get("relation_id"), row.get("relation"))
    return next((name for name in named if isinstance(name, str) and name.strip()), None)


def _string_of(target: object) -> object:
    return target.get("str") if isinstance(target, Mapping) else target


def _zsre(row: Fields) -> Fields:
    loc = row.get("loc")
    return {
        "prompt": row.get("src"),
        "target": row.get("alt") if "alt" in row else row.get("ans"),
        "subject": row.get("subject"),
        "old_target": (row.get("answers") or row.get("pred")) if "alt" in row else None,
        "relation": _relation(row),
        "rephrasings": row.get("rephrase"),
        # As the published UltraEdit code has it (data/zsre.py): these questions lack their mark.
        "locality_prompt": loc + "?" if isinstance(loc, str) and loc.strip() else loc,
        "locality_answer": row.get("loc_ans"),
    }


def _fever(row: Fields) -> Fields:
    return {
        "prompt": row.get("prompt"),
        "target": row.get("alt"),
        "subject": row.get("subject"),
        "relation": _relation(row),
        "rephrasings": row.get("equiv_prompt"),
        "locality_prompt": row.get("unrel_prompt"),
        "locality_answer": row.get("unrel_ans"),
    }


def _wikibigedit(row: Fields) -> Fields:
    return {
        "prompt": row.get("update"),
        "target": row.get("ans"),
        "subject": row.get("subject"),
        "relation": _relation(row),
        "rephrasings": row.get("rephrase"),
        "locality_prompt": row.get("loc"),
        "locality_answer": row.get("loc_ans"),
        "personas": [[row.get("personas"), row.get("ans")]],
        "multi_hop": [[row.get("mhop"), row.get("mhop_ans")]],
    }


def _ultraeditbench(row: Fields) -> Fields:
    return {
        "prompt": row.get("prompt"),
        "target": row.get("ans"),
        "subject": row.get("subject"),
        "relation": _relation(row),
        "rephrasings": row.get("rephrase_prompt"),
        "locality_prompt": row.get("loc"),
        "locality_answer": row.get("loc_ans"),
    }


# The first that fits is taken: the more telling fields come first.
LAYOUTS = (
    Layout(name="counterfact-nested", needs=(("requested_rewrite",),), rename=_counterfact_nested),
    Layout(
        name="knowedit",
        needs=(("prompt", "text"), ("target_new", "labels"), ("portability", "locality")),
        lacks=("target",),
        rename=_knowedit,
    ),
    Layout(name="canonical", needs=(("prompt",), ("target",)), rename=_canonical),
    Layout(
        name="wise-temporal",
        needs=(("prompt",), ("target_new",), ("ood_rephrase",)),
        rename=_wise_temporal,
    ),
    Layout(
        name="wise-hallucination",
        needs=(("prompt",), ("target_new",), ("locality_prompt",)),
        lacks=("ground_truth", "rephrase_prompt"),
        rename=_counterfact,
    ),
    Layout(name="counterfact", needs=(("prompt",), ("target_new",)), rename=_counterfact),
    Layout(name="zsre", needs=(("src",), ("alt", "ans")), rename=_zsre),
    Layout(name="fever", needs=(("prompt",), ("equiv_prompt",), ("alt",)), rename=_fever),
    Layout(name="wikibigedit", needs=(("update",), ("ans",)), rename=_wikibigedit),
    Layout(name="ultraeditbench", needs=(("prompt",), ("ans",)), rename=_ultraeditbench),
)
