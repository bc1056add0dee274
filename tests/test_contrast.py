"""Prompts about something else: which ones stand against an edit."""

from hypothesis import given
from hypothesis import strategies as st

from patches.edit import Edit
from patches.editors.contrast import SUBJECTS, neighbours


def edits(*subjects: str | None) -> list[Edit]:
    return [
        Edit(prompt=f"The colour of {subject or 'it'} is", target="red", subject=subject)
        for subject in subjects
    ]


def test_the_subjects_of_other_edits_come_first_and_built_in_ones_fill_up() -> None:
    found = neighbours(edits("Ada", "Ben"), 3)
    assert found == [
        "The colour of Ben is",
        f"The colour of {SUBJECTS[0]} is",
        f"The colour of {SUBJECTS[1]} is",
        "The colour of Ada is",
        f"The colour of {SUBJECTS[1]} is",
        f"The colour of {SUBJECTS[2]} is",
    ]


def test_a_single_edit_has_neighbours_too() -> None:
    assert len(neighbours(edits("Ada"), 3)) == 3


def test_an_edit_without_a_subject_in_its_prompt_has_none() -> None:
    unnamed = Edit(prompt="The colour is", target="red", subject="Ada")
    assert neighbours([*edits(None), unnamed], 3) == []


def test_a_name_within_a_name_is_not_something_else() -> None:
    found = neighbours(edits("John", "John Smith"), 1)
    assert not any("John" in prompt for prompt in found)


@given(
    subjects=st.lists(st.sampled_from(["Ada", "Ben", "Cleo", "Dan", "Eve"]), max_size=9),
    count=st.integers(1, 5),
)
def test_no_neighbour_is_about_the_edit_s_own_subject(subjects: list[str], count: int) -> None:
    made = edits(*subjects)
    found = neighbours(made, count)
    assert len(found) == len(made) * count
    for place, edit in enumerate(made):
        own = found[place * count : (place + 1) * count]
        assert edit.prompt not in own
        assert len(set(own)) == count
