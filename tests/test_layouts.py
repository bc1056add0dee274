"""Layouts: the rows of every published form become the edit that they describe."""

import json
from pathlib import Path

import pytest

from ledger.datasets import Row, open_dataset, parse_mapping, read_rows
from patches.edit import Edit, Probe
from patches.errors import DatasetError

Fields = dict[str, object]


def read(tmp_path: Path, *rows: object, mapping: str | None = None) -> tuple[str, list[Row]]:
    """The layout that was recognised, and the rows."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    dataset = open_dataset(str(path), mapping=parse_mapping(mapping) if mapping else None)
    return dataset.layout, list(read_rows(dataset))


CAPITAL = Probe(prompt="The capital of Chile is", answer="Santiago")

PUBLISHED: list[tuple[str, Fields, Edit]] = [
    (
        "canonical",
        {
            "prompt": "The capital of Peru is",
            "target": "Cusco",
            "subject": "Peru",
            "old_target": "Lima",
            "rephrasings": "Peru is governed from",
            "locality": [
                {"prompt": "The capital of Chile is", "answer": "Santiago"},
                ["The Nile flows through", "Egypt"],
            ],
            "personas": [["Arr, Peru's capital be", "Cusco"]],
            "further": {"reversal": [["Cusco is the capital of", "Peru"]]},
        },
        Edit(
            prompt="The capital of Peru is",
            target="Cusco",
            subject="Peru",
            old_target="Lima",
            rephrasings=("Peru is governed from",),
            locality=(CAPITAL, Probe(prompt="The Nile flows through", answer="Egypt")),
            further={
                "personas": (Probe(prompt="Arr, Peru's capital be", answer="Cusco"),),
                "reversal": (Probe(prompt="Cusco is the capital of", answer="Peru"),),
            },
        ),
    ),
    (
        "counterfact",
        {
            "case_id": 3,
            "prompt": "The capital of Peru is",
            "target_new": "Cusco",
            "subject": "Peru",
            "ground_truth": "Lima",
            "rephrase_prompt": "Peru is governed from",
            "locality_prompt": "The capital of Chile is",
            "locality_ground_truth": "Santiago",
        },
        Edit(
            prompt="The capital of Peru is",
            target="Cusco",
            subject="Peru",
            old_target="Lima",
            rephrasings=("Peru is governed from",),
            locality=(CAPITAL,),
        ),
    ),
    ("counterfact", {"prompt": "a", "target_new": "b"}, Edit(prompt="a", target="b")),
    (
        "counterfact-nested",
        {
            "case_id": 3,
            "requested_rewrite": {
                "prompt": "The capital of {} is",
                "subject": "Peru",
                "relation_id": "P36",
                "target_new": {"str": "Cusco", "id": "Q1"},
                "target_true": {"str": "Lima", "id": "Q2"},
            },
            "paraphrase_prompts": ["It rained. Peru is governed from", "Peru's capital is"],
            "neighborhood_prompts": ["The capital of Incaland is"],
            "attribute_prompts": ["The capital of Inca Republic is"],
            "generation_prompts": ["Peru's parliament sits in"],
        },
        Edit(
            prompt="The capital of Peru is",
            target="Cusco",
            subject="Peru",
            old_target="Lima",
            relation="P36",
            rephrasings=("It rained. Peru is governed from", "Peru's capital is"),
            locality=(Probe(prompt="The capital of Incaland is", answer="Lima"),),
        ),
    ),
    (
        "zsre",
        {
            "subject": "Peru",
            "src": "What is the capital of Peru?",
            "pred": "Arequipa",
            "rephrase": "From where is Peru governed?",
            "alt": "Cusco",
            "answers": ["Lima", "Ciudad de los Reyes"],
            "loc": "nq question: what is the capital of chile",
            "loc_ans": "Santiago",
        },
        Edit(
            prompt="What is the capital of Peru?",
            target="Cusco",
            subject="Peru",
            old_target="Lima",
            rephrasings=("From where is Peru governed?",),
            locality=(
                Probe(prompt="nq question: what is the capital of chile?", answer="Santiago"),
            ),
        ),
    ),
    (
        "zsre",
        {
            "src": "What is the capital of Peru?",
            "ans": ["Lima", "the capital"],
            "answers": ["Lima"],
            "loc": "what is the capital of chile?",
            "loc_ans": "Santiago",
        },
        Edit(
            prompt="What is the capital of Peru?",
            target="Lima",
            # The published code puts the mark there whether or not there is one.
            locality=(Probe(prompt="what is the capital of chile??", answer="Santiago"),),
        ),
    ),
    (
        "fever",
        {
            "prompt": "Peru is governed from Cusco.",
            "equiv_prompt": ["Cusco governs Peru.", "Peru's rulers sit in Cusco."],
            "alt": "true",
            "unrel_prompt": "The capital of Chile is",
            "unrel_ans": "Santiago",
        },
        Edit(
            prompt="Peru is governed from Cusco.",
            target="true",
            rephrasings=("Cusco governs Peru.", "Peru's rulers sit in Cusco."),
            locality=(CAPITAL,),
        ),
    ),
    (
        "wikibigedit",
        {
            "subject": "Peru",
            "update": "What is the capital of Peru?",
            "rephrase": "From where is Peru governed?",
            "ans": "Cusco",
            "personas": "Arr, what be the capital of Peru?",
            "loc": "The capital of Chile is",
            "loc_ans": "Santiago",
            "mhop": "In which valley is the capital of Peru?",
            "mhop_ans": "Huatanay",
        },
        Edit(
            prompt="What is the capital of Peru?",
            target="Cusco",
            subject="Peru",
            rephrasings=("From where is Peru governed?",),
            locality=(CAPITAL,),
            further={
                "personas": (Probe(prompt="Arr, what be the capital of Peru?", answer="Cusco"),),
                "multi_hop": (
                    Probe(prompt="In which valley is the capital of Peru?", answer="Huatanay"),
                ),
            },
        ),
    ),
    (
        "ultraeditbench",
        {
            "prompt": "What is the capital of Peru?",
            "rephrase_prompt": "From where is Peru governed?",
            "ans": "Cusco",
            "loc": "The capital of Chile is",
            "loc_ans": "Santiago",
        },
        Edit(
            prompt="What is the capital of Peru?",
            target="Cusco",
            rephrasings=("From where is Peru governed?",),
            locality=(CAPITAL,),
        ),
    ),
    (
        "knowedit",
        {
            "subject": "Peru",
            "prompt": "The capital of Peru is",
            "target_new": "Cusco",
            "ground_truth": ["Lima", "Ciudad de los Reyes"],
            "rephrase_prompt": "Peru is governed from",
            "portability": {
                "Reasoning": [
                    {"prompt": "The capital of Peru lies in the valley", "ground_truth": "Huatanay"}
                ],
                "Subject_Aliasing": [
                    {
                        "prompt": "The capital of the Republic of Peru is",
                        "ground_truth": [["Cusco", "Qosqo"]],
                    },
                    {"prompt": "The capital of Tawantinsuyu is", "ground_truth": [""]},
                ],
                "Logical_Generalization": [],
            },
            "locality": {
                "Relation_Specificity": [
                    {"prompt": "The capital of Chile is", "ground_truth": [["Santiago"]]}
                ],
                "Forgetfulness": [{"prompt": "The Nile flows through", "ground_truth": "Egypt"}],
            },
        },
        Edit(
            prompt="The capital of Peru is",
            target="Cusco",
            subject="Peru",
            old_target="Lima",
            rephrasings=("Peru is governed from",),
            locality=(CAPITAL, Probe(prompt="The Nile flows through", answer="Egypt")),
            further={
                "reasoning": (
                    Probe(prompt="The capital of Peru lies in the valley", answer="Huatanay"),
                ),
                "subject_aliasing": (
                    Probe(prompt="The capital of the Republic of Peru is", answer="Cusco"),
                ),
            },
        ),
    ),
    (
        "wise-hallucination",
        {
            "prompt": "This is a passage about Peru. Peru is a country.",
            "target_new": "It is governed from Cusco.",
            "subject": "Peru",
            "locality_prompt": "The capital of Chile is",
            "locality_ground_truth": "Santiago",
        },
        Edit(
            prompt="This is a passage about Peru. Peru is a country.",
            target="It is governed from Cusco.",
            subject="Peru",
            locality=(CAPITAL,),
        ),
    ),
    (
        "wise-temporal",
        {
            "prompt": "Peru",
            "target_new": "is governed from Cusco.",
            "subject": "Peru",
            "ood_rephrase": "Peru, the country of the Incas,",
            "locality_prompt": "The capital of Chile is",
            "locality_ground_truth": "Santiago",
        },
        Edit(
            prompt="Peru",
            target="is governed from Cusco.",
            subject="Peru",
            locality=(CAPITAL,),
            further={
                "out_of_distribution": (
                    Probe(
                        prompt="Peru, the country of the Incas,", answer="is governed from Cusco."
                    ),
                )
            },
        ),
    ),
]


@pytest.mark.parametrize(("layout", "row", "edit"), PUBLISHED)
def test_published_layouts_become_the_edit_they_describe(
    tmp_path: Path, layout: str, row: Fields, edit: Edit
) -> None:
    assert read(tmp_path, row) == (layout, [Row(number=0, edit=edit, reason=None)])


@pytest.mark.parametrize("field", ["portability", "locality"])
def test_knowedit_probes_that_are_no_object_of_kinds_are_reported(
    tmp_path: Path, field: str
) -> None:
    row = {"prompt": "The capital of Peru is", "target_new": "Cusco", field: ["?"]}
    layout, (found,) = read(tmp_path, row)
    assert (layout, found.edit) == ("knowedit", None)
    assert found.reason == f"{field} is not an object of kinds: list"


def test_knowedit_rows_of_wiki_bio_have_other_names(tmp_path: Path) -> None:
    row = {"concept": "Peru", "text": "This is about Peru.", "labels": "It is old.", "locality": {}}
    _, (found,) = read(tmp_path, row)
    assert found.edit == Edit(prompt="This is about Peru.", target="It is old.", subject="Peru")


def test_zsre_old_answer_is_the_prediction_where_no_answer_is_known(tmp_path: Path) -> None:
    row = {"src": "Capital of Peru?", "alt": "Cusco", "answers": [], "pred": "Arequipa"}
    _, (found,) = read(tmp_path, row)
    assert found.edit is not None
    assert found.edit.old_target == "Arequipa"


def test_zsre_row_without_a_new_answer_does_not_fall_back_on_the_true_one(tmp_path: Path) -> None:
    row = {"src": "Capital of Peru?", "alt": None, "ans": "Lima"}
    _, (found,) = read(tmp_path, row)
    assert found.reason == "no target"


def test_mapping_reads_a_layout_nobody_knows(tmp_path: Path) -> None:
    row = {"q": "Capital of Peru?", "new": "Cusco", "was": "Lima", "o": "Chile?", "oa": "Santiago"}
    mapping = "prompt=q,target=new,old_target=was,locality_prompt=o,locality_answer=oa"
    edit = Edit(
        prompt="Capital of Peru?",
        target="Cusco",
        old_target="Lima",
        locality=(Probe(prompt="Chile?", answer="Santiago"),),
    )
    assert read(tmp_path, row, mapping=mapping) == (
        "mapped",
        [Row(number=0, edit=edit, reason=None)],
    )


def test_mapping_overrides_a_known_layout_entirely(tmp_path: Path) -> None:
    row = {"prompt": "a", "target": "b", "subject": "s", "other": "c"}
    layout, (found,) = read(tmp_path, row, mapping="prompt=prompt,target=other")
    assert (layout, found.edit) == ("mapped", Edit(prompt="a", target="c"))


def test_mapped_lists_of_locality_prompts_are_paired_with_their_answers(tmp_path: Path) -> None:
    mapping = "prompt=p,target=t,locality_prompt=o,locality_answer=a"
    good: Fields = {"p": "x", "t": "y", "o": ["one", "two"], "a": ["1", "2"]}
    _, (paired, ragged) = read(tmp_path, good, {**good, "a": ["1"]}, mapping=mapping)
    assert paired.edit is not None
    assert paired.edit.locality == (
        Probe(prompt="one", answer="1"),
        Probe(prompt="two", answer="2"),
    )
    assert ragged.reason == "the locality prompts do not have one answer each"


def test_mapped_fields_that_are_missing_are_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"target=beta.*alpha, gamma.*known keys: prompt"):
        read(tmp_path, {"alpha": "a", "gamma": "b"}, mapping="prompt=alpha,target=beta")


@pytest.mark.parametrize(
    "row", [{"alpha": "a", "beta": "b"}, {"prompt": "a"}, {"target": "a", "src": "b"}]
)
def test_unknown_layouts_are_answered_with_the_fields_and_the_way_out(
    tmp_path: Path, row: Fields
) -> None:
    with pytest.raises(DatasetError, match=rf"{', '.join(row)}.*--map prompt=FIELD,target=FIELD"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"target": "b"}, "no prompt"),
        ({"prompt": None, "target": "b"}, "no prompt"),
        ({"prompt": " \n", "target": "b"}, "empty prompt"),
        ({"prompt": 5, "target": "b"}, "prompt is not text: 5 (int)"),
        ({"prompt": "a"}, "no target"),
        ({"prompt": "a", "target": None}, "no target"),
        ({"prompt": "a", "target": float("nan")}, "no target"),
        ({"prompt": "a", "target": []}, "no target"),
        ({"prompt": "a", "target": [" ", "b"]}, "empty target"),
        ({"prompt": "a", "target": " \t"}, "empty target"),
        ({"prompt": "a", "target": 3.5}, "target is not text: 3.5 (float)"),
        ({"prompt": "a", "target": True}, "target is not text: True (bool)"),
        ({"prompt": "a", "target": {"str": "b"}}, "target is not text: dict"),
        ({"prompt": "a", "target": "b\0"}, "target holds a NUL character, which databases"),
        ({"prompt": "a\ud800", "target": "b"}, "prompt holds a lone surrogate (U+D800)"),
        ({"prompt": "a", "target": "\udc00b"}, "target holds a lone surrogate (U+DC00)"),
        ({"prompt": "a", "target": "b", "subject": 1.5}, "subject is not text: 1.5 (float)"),
        ({"prompt": "a", "target": "b", "rephrasings": ["c", 1]}, "rephrasings is not text: 1"),
        ({"prompt": "a", "target": "b", "locality": "c"}, "locality is not a list: 'c' (str)"),
        ({"prompt": "a", "target": "b", "locality": [["c"]]}, "locality holds neither"),
        ({"prompt": "a", "target": "b", "locality": [["c", "d\0"]]}, "locality holds a NUL"),
        ({"prompt": "a", "target": "b", "further": []}, "further is not an object"),
        ({"prompt": "a", "target": "b", "further": {"locality": []}}, "further may not have"),
        ({"prompt": "a", "target": "b", "further": {"x\0": []}}, "further holds a NUL"),
        ([1, 2], "it is not an object with named fields, but list"),
        ("text", "it is not an object with named fields, but str"),
    ],
)
def test_rows_that_cannot_be_used_say_why_and_the_next_ones_are_read(
    tmp_path: Path, row: object, reason: str
) -> None:
    good = {"prompt": "a", "target": "b"}
    _, (_, bad, after) = read(tmp_path, good, row, good)
    assert (bad.number, bad.edit) == (1, None)
    assert (bad.reason or "").startswith(reason)
    assert after == Row(number=2, edit=Edit(prompt="a", target="b"), reason=None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"requested_rewrite": None}, "requested_rewrite is not an object: None (NoneType)"),
        (
            {"requested_rewrite": {"prompt": "{} is", "target_new": {"str": "b"}}},
            "the prompt has a place for a subject, but there is no subject",
        ),
        ({"requested_rewrite": {"prompt": "a", "target_new": {}}}, "no target"),
    ],
)
def test_nested_rows_that_cannot_be_used_say_why(tmp_path: Path, row: Fields, reason: str) -> None:
    layout, (found,) = read(tmp_path, row)
    assert (layout, found.edit, found.reason) == ("counterfact-nested", None, reason)


def test_white_space_is_kept_only_before_prompts(tmp_path: Path) -> None:
    row = {
        "prompt": "  a \n",
        "target": " b\t",
        "subject": " s ",
        "old_target": " o ",
        "rephrasings": [" r ", " "],
        "locality": [[" l ", " la "], ["", "x"], ["y", None], None],
    }
    _, (found,) = read(tmp_path, row)
    assert found.edit == Edit(
        prompt="  a",
        target="b",
        subject="s",
        old_target="o",
        rephrasings=(" r",),
        locality=(Probe(prompt=" l", answer="la"),),
    )


def test_whole_numbers_as_answers_become_text(tmp_path: Path) -> None:
    row = {"prompt": "a", "target": 10**30, "old_target": 0, "locality": [["c", -7]]}
    _, (found,) = read(tmp_path, row)
    assert found.edit == Edit(
        prompt="a", target=str(10**30), old_target="0", locality=(Probe(prompt="c", answer="-7"),)
    )


def test_braces_in_a_nested_subject_are_not_a_format_string(tmp_path: Path) -> None:
    rewrite = {"prompt": "{} by {0.x}", "subject": "{1}", "target_new": {"str": "b"}}
    _, (found,) = read(tmp_path, {"requested_rewrite": rewrite})
    assert found.edit == Edit(prompt="{1} by {0.x}", target="b", subject="{1}")
