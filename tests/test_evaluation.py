"""Scores, against a plain computation: one prompt at a time, all logits, no batching."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from patches import asking
from patches.edit import Edit, Probe
from patches.evaluation import METRICS, TOKENS, Answered, Questions, Scores, answer, score, summary
from tests.tiny_models import CONTEXT, VOCABULARY, build, load, tokenizer

EDITS = (
    Edit(
        prompt="The capital of France is",
        target="Rome",
        old_target="Paris",
        rephrasings=("France has the capital", "What is the capital of France? It is"),
        locality=(
            Probe(prompt="The capital of Japan is", answer="Tokyo"),
            Probe(prompt="The river that flows through Vienna is", answer="the Danube"),
        ),
    ),
    Edit(
        prompt="The mother tongue of Danielle Darrieux is",
        target="English",
        locality=(Probe(prompt="Michel Rocard is a native speaker of", answer="French"),),
    ),
    Edit(prompt="He plays the", target="piano", old_target="guitar", rephrasings=("It is a",)),
    Edit(prompt="It is", target="a", old_target="the", locality=(Probe(prompt="She", answer="a"),)),
)
WORDS = tokenizer()


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A model's answer to one prompt: whether each token is right, predictions, log-probability."""

    right: list[bool]
    predicted: list[int]
    log_probability: float


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    """A base in float32, trained on a few of the answers, and a state some way off it."""
    folder = build(tmp_path_factory.mktemp("base"), dtype=torch.float32)
    base, state = load(folder), load(folder)
    _learn(base, [(EDITS[0].prompt, "Paris"), *((p.prompt, p.answer) for p in EDITS[0].locality)])
    state.load_state_dict(base.state_dict())
    _learn(state, [(edit.prompt, edit.target) for edit in EDITS[:3]])
    return base, state


def _learn(model: nn.Module, facts: Sequence[tuple[str, str]]) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        loss = -torch.stack([_log_probability(model, *fact)[0] for fact in facts]).mean()
        torch.autograd.backward(loss)
        optimiser.step()
    optimiser.zero_grad()


def _log_probability(model: nn.Module, prompt: str, text: str) -> tuple[Tensor, Tensor, list[int]]:
    """Mean log-probability of an answer, the logits at its positions, and its tokens."""
    before = WORDS(prompt)["input_ids"]
    tokens = WORDS(" " + text, add_special_tokens=False)["input_ids"]
    logits = model(input_ids=torch.tensor([before + tokens])).logits[0]
    at = logits[len(before) - 1 : -1]
    every = at.log_softmax(-1)
    return every[range(len(tokens)), tokens].mean(), at, tokens


@torch.no_grad()
def plainly(model: nn.Module, prompt: str, text: str) -> Plain:
    log_probability, logits, tokens = _log_probability(model, prompt, text)
    predicted = logits.argmax(-1).tolist()
    return Plain(
        right=[a == b for a, b in zip(predicted, tokens, strict=True)],
        predicted=predicted,
        log_probability=log_probability.item(),
    )


def average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def accuracy(model: nn.Module, prompt: str, text: str) -> float:
    right = plainly(model, prompt, text).right
    return sum(right) / len(right)


def plain_scores(edit: Edit, base: nn.Module, state: nn.Module) -> Scores:
    same = [
        a == b
        for probe in edit.locality
        for a, b in zip(
            plainly(base, probe.prompt, probe.answer).predicted,
            plainly(state, probe.prompt, probe.answer).predicted,
            strict=True,
        )
    ]
    new = plainly(state, edit.prompt, edit.target)
    preference: float | None = None
    if edit.old_target is not None:
        old = plainly(state, edit.prompt, edit.old_target)
        preference = float(new.log_probability > old.log_probability)
    return {
        "edit_success": accuracy(state, edit.prompt, edit.target),
        "generalization": average([accuracy(state, p, edit.target) for p in edit.rephrasings]),
        "locality": average([accuracy(state, p.prompt, p.answer) for p in edit.locality]),
        "stability": average(same),
        "exact_match": float(all(new.right)),
        "preference": preference,
        "perplexity": math.exp(-new.log_probability),
        **dict.fromkeys(METRICS[7:]),
        TOKENS: float(len(same)),
    }


def questions(edits: Sequence[Edit] = EDITS, longest: int | None = CONTEXT) -> Questions:
    return Questions.of(edits, WORDS, longest)


def ask(model: nn.Module, asked: Questions) -> list[Answered]:
    return answer(model, asked, device="cpu")


def test_answers_are_those_of_one_prompt_at_a_time(models: tuple[nn.Module, nn.Module]) -> None:
    asked = questions()
    for model in models:
        answers = ask(model, asked)
        for (prompt, text), at in asked.index.items():
            expected = plainly(model, prompt, text)
            assert list(answers[at].predicted) == expected.predicted
            assert answers[at].log_probability == pytest.approx(expected.log_probability, abs=1e-4)


def test_scores_are_those_of_a_plain_computation(models: tuple[nn.Module, nn.Module]) -> None:
    base, state = models
    asked = questions()
    outcomes = score(EDITS, asked, ask(base, asked), ask(state, asked))
    for edit, outcome in zip(EDITS, outcomes, strict=True):
        assert outcome.state == pytest.approx(plain_scores(edit, base, state))
        assert outcome.base == pytest.approx(plain_scores(edit, base, base))
    # The models are such that the numbers above are not all 0 or all 1.
    means = summary(outcome.state for outcome in outcomes)
    assert means["edit_success"] is not None
    assert means["edit_success"] > 0.5
    assert means["stability"] is not None
    assert 0 < means["stability"] < 1
    assert {outcome.state["preference"] for outcome in outcomes} == {0.0, 1.0, None}


def test_the_base_beside_itself_is_stable_and_equal(models: tuple[nn.Module, nn.Module]) -> None:
    asked = questions()
    answers = ask(models[0], asked)
    for outcome in score(EDITS, asked, answers, answers):
        assert outcome.state == outcome.base
        assert outcome.state["stability"] in (1.0, None)


@pytest.mark.parametrize("tokens", [1, 20, 100_000])
def test_batching_does_not_show_in_the_answers(
    models: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    expected = ask(models[0], questions())
    monkeypatch.setattr(asking, "PROCESSOR", asking.PROCESSOR._replace(tokens=tokens))
    done: list[int] = []
    answers = answer(models[0], questions(), device="cpu", progress=done.append)
    assert done[-1] == len(expected)
    assert sorted(done) == done
    for given, wanted in zip(answers, expected, strict=True):
        assert given.predicted == wanted.predicted
        assert given.log_probability == pytest.approx(wanted.log_probability, abs=1e-4)


def test_equal_questions_are_asked_once() -> None:
    assert len(questions((EDITS[0], EDITS[0])).encoded) == len(questions(EDITS[:1]).encoded)
    assert questions(()).encoded == ()


def test_probes_that_are_too_long_or_blank_are_left_out(
    models: tuple[nn.Module, nn.Module],
) -> None:
    kept = Probe(prompt="It is", answer="a")
    long, blank = Probe(prompt="x " * CONTEXT, answer="a"), Probe(prompt="It is", answer=" ")
    edit = Edit(
        prompt="He plays the",
        target="piano",
        rephrasings=(long.prompt,),
        locality=(kept, long, blank),
    )
    asked = questions([edit])
    assert list(asked.index) == [("He plays the", "piano"), ("It is", "a")]
    (outcome,) = score([edit], asked, ask(models[0], asked), ask(models[1], asked))
    assert outcome.state["generalization"] is None
    assert outcome.state[TOKENS] == 1
    alone = Edit(prompt=edit.prompt, target=edit.target, locality=(kept,))
    assert outcome.state == pytest.approx(plain_scores(alone, *models))


def test_a_probe_just_as_long_as_the_context_is_asked() -> None:
    longest = max(len(item.ids) for item in questions().encoded)
    assert questions(longest=longest).index.keys() == questions(longest=None).index.keys()
    assert len(questions(longest=longest - 1).index) < len(questions(longest=None).index)


def test_an_edit_without_a_usable_prompt_has_no_scores(models: tuple[nn.Module, nn.Module]) -> None:
    edit = Edit(prompt="x " * CONTEXT, target="a", old_target="b")
    asked = questions([edit])
    (outcome,) = score([edit], asked, [], [])
    assert outcome.state == {**dict.fromkeys(METRICS), TOKENS: 0.0}
    assert ask(models[0], asked) == []


def answered(*predicted: int, log_probability: float = -1.0) -> Answered:
    return Answered(predicted=predicted, log_probability=log_probability)


@pytest.mark.parametrize(("new", "old", "expected"), [(-1, -2, 1), (-2, -1, 0), (-1, -1, 0)])
def test_preference_is_for_the_answer_more_probable_per_token(
    new: float, old: float, expected: int
) -> None:
    edit = Edit(prompt="It is", target="a", old_target="the")
    asked = questions([edit])
    state = [answered(1, log_probability=new), answered(1, log_probability=old)]
    (outcome,) = score([edit], asked, state, state)
    assert outcome.state["preference"] == expected


@pytest.mark.parametrize("old", ["a", " a ", None])
def test_there_is_no_preference_without_another_old_answer(old: str | None) -> None:
    edit = Edit(prompt="It is", target="a", old_target=old)
    asked = questions([edit])
    state = [answered(1) for _ in asked.encoded]
    assert score([edit], asked, state, state)[0].state["preference"] is None


def row(**values: float | None) -> Scores:
    return {**dict.fromkeys(METRICS), TOKENS: 0.0, **values}


def test_stability_counts_tokens_and_the_others_count_edits() -> None:
    rows = [
        row(edit_success=1.0, stability=1.0, locality=1.0, locality_tokens=1.0),
        row(edit_success=0.5, stability=0.5, locality=0.0, locality_tokens=4.0),
        row(edit_success=0.0),
    ]
    means = summary(iter(rows))
    assert means == {
        **dict.fromkeys(METRICS),
        "edit_success": 0.5,
        "locality": 0.5,
        "stability": 3 / 5,
    }


def test_the_summary_of_nothing_has_no_numbers() -> None:
    assert summary([]) == dict.fromkeys(METRICS)


def test_the_log_probability_is_a_mean_per_token_in_nats(
    models: tuple[nn.Module, nn.Module],
) -> None:
    even = copy.deepcopy(models[0])
    with torch.no_grad():
        even.get_parameter("lm_head.weight").zero_()
    for given in ask(even, questions()):
        assert given.log_probability == pytest.approx(-math.log(VOCABULARY), abs=1e-5)
