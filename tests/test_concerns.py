"""What a report says should be looked at first."""

from ledger.overview.concerns import concerns
from ledger.overview.forgotten import Kept
from tests.overviews import point, rollback, timeline, whole

_FINE = Kept(asked=10, right_then=10, right_now=10, lost=0, gained=0)


def test_a_history_that_went_well_raises_none() -> None:
    told = timeline([point(1), point(2)], wholes=[whole(2, 0.97)])
    assert concerns(told, _FINE, overridden=0) == []


def test_the_turn_that_did_not_take_comes_first_by_its_number() -> None:
    weak = point(2, edits=3, state={"edit_success": 1 / 6})
    told = timeline([point(1), weak], wholes=[whole(2, 0.97)])
    assert concerns(told, _FINE, overridden=0) == [
        "turn 2 (3 edits) did not take: 17 % of its own edits were answered right after it"
    ]


def test_a_turn_that_was_taken_back_is_no_concern() -> None:
    weak = point(1, in_force=False, undone_by=2, state={"edit_success": 0.0})
    told = timeline([weak, rollback(2, 1), point(3)], wholes=[whole(3, 0.97)])
    assert concerns(told, _FINE, overridden=0) == []


def test_of_many_weak_turns_the_weakest_are_named_and_the_others_counted() -> None:
    weak = [point(n, state={"edit_success": n / 100}) for n in range(1, 10)]
    found = concerns(timeline(weak, wholes=[whole(9, 0.97)]), _FINE, overridden=0)
    assert [line.split(" (")[0] for line in found[:5]] == [f"turn {n}" for n in range(1, 6)]
    assert found[5:] == ["nor did 4 more turns"]


def test_edits_that_were_never_scored_together_are_told_with_the_command() -> None:
    assert concerns(timeline([point(1)]), _FINE, overridden=0) == [
        "the edits in force have not been scored together: ledger evaluate"
    ]


def test_scores_of_an_earlier_state_are_not_told_as_those_of_now() -> None:
    told = timeline([point(1), point(2)], wholes=[whole(1, 0.5)])
    assert concerns(told, _FINE, overridden=0) == [
        "the edits in force have not been scored together since turn 1: ledger evaluate"
    ]


def test_where_nothing_is_in_force_there_is_nothing_to_score() -> None:
    undone = point(1, in_force=False, undone_by=2)
    told = timeline([undone, rollback(2, 1, edits_in_force=0)], wholes=[whole(1, 0.5)])
    assert concerns(told, _FINE, overridden=0) == []


def test_an_empty_history_raises_none() -> None:
    nothing = Kept(asked=0, right_then=0, right_now=0, lost=0, gained=0)
    assert concerns(timeline([]), nothing, overridden=0) == []


def test_low_scores_of_the_whole_lost_edits_and_conflicts_are_told() -> None:
    one = whole(1, 0.5)
    told = timeline([point(1)], wholes=[one])
    kept = Kept(asked=9, right_then=8, right_now=7, lost=1, gained=0)
    assert concerns(told, kept, overridden=2) == [
        "50 % of the edits in force are answered right",
        "1 edit was right when it was made and is wrong now",
        "2 edits in force have another answer than a later edit",
    ]


def test_whole_answers_count_where_they_were_recorded() -> None:
    """Half of the tokens of every answer may be right, and no answer."""
    weak = point(1, edits=4, state={"edit_success": 0.9, "exact_match": 0.0})
    told = timeline([weak], wholes=[whole(1, 0.97)])
    assert concerns(told, _FINE, overridden=0) == [
        "turn 1 (4 edits) did not take: 0 % of its own edits were answered right after it"
    ]


def test_scores_that_are_not_there_raise_none() -> None:
    told = timeline([point(1, state={}, n=None)], wholes=[whole(1, None)])
    assert concerns(told, _FINE, overridden=0) == []


def test_scores_of_a_publisher_that_are_no_numbers_are_left_out() -> None:
    odd = point(1, state={"edit_success": "all", "exact_match": None})
    told = timeline([odd, point(2, state={"exact_match": []})], wholes=[whole(2, 0.97)])
    assert concerns(told, _FINE, overridden=0) == []
