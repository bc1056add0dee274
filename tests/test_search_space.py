"""What tuning draws: different choices, the same for the same seed, all of which a method takes."""

from itertools import islice
from pathlib import Path

import pytest

from patches.checkpoint import open_checkpoint
from patches.editors import EDITORS, Request
from patches.editors.defaults import select_modules
from patches.editors.search_space import (
    PUBLISHED,
    SPACES,
    Choice,
    choices,
    module_choices,
    patterns,
)
from patches.live import LiveModel
from patches.modules import editable_modules
from tests import tiny_models

ULTRAEDIT, WISE = SPACES["ultraedit"], SPACES["wise"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


def kinds(found: list[tuple[str, ...]]) -> set[str]:
    return {name.rpartition(".")[2] for names in found for name in names}


def test_matrices_beside_the_output_are_tried_where_there_are_any(
    tiny_llama: Path, gpt2: Path
) -> None:
    llama = module_choices(tiny_models.load(tiny_llama), one_matrix=False)
    assert kinds(llama) == {"down_proj", "gate_proj", "up_proj"}
    assert kinds(module_choices(tiny_models.load(gpt2), one_matrix=False)) == {"c_proj", "c_fc"}
    assert len(set(llama)) == len(llama)


def test_a_side_memory_is_tried_beside_single_output_matrices(tiny_llama: Path) -> None:
    found = module_choices(tiny_models.load(tiny_llama), one_matrix=True)
    assert kinds(found) == {"down_proj"}
    assert {len(names) for names in found} == {1}
    assert len(found) > 1


def test_every_layer_is_in_some_range(tmp_path: Path) -> None:
    deep = tiny_models.build(tmp_path / "deep", num_hidden_layers=30, vocab_size=400)
    found = module_choices(tiny_models.load(deep), one_matrix=False)
    layers = {int(name.split(".")[2]) for names in found for name in names}
    assert layers >= set(range(6, 30))


@pytest.mark.parametrize("method", ["ultraedit", "wise"])
def test_choices_differ_from_each_other_and_depend_on_the_seed_alone(
    tiny_llama: Path, method: str
) -> None:
    model, space = tiny_models.load(tiny_llama), SPACES[method]
    first = [one.key for one in islice(choices(space, model, seed=1), 40)]
    assert len({*first, *(one.key for one in space.references.values())}) == 40 + len(
        space.references
    )
    assert first == [one.key for one in islice(choices(space, model, seed=1), 40)]
    assert first != [one.key for one in islice(choices(space, model, seed=2), 40)]


def test_drawing_ends_when_everything_was_drawn(tiny_llama: Path) -> None:
    drawn = list(choices(WISE, tiny_models.load(tiny_llama), seed=0))
    places = len(module_choices(tiny_models.load(tiny_llama), one_matrix=True))
    assert 0.9 * places * 135 < len(drawn) < places * 135


def test_what_the_method_does_by_itself_is_not_drawn(tiny_llama: Path) -> None:
    model = tiny_models.load(tiny_llama)
    own, _ = ULTRAEDIT.modules(model)
    drawn = list(islice(choices(ULTRAEDIT, model, seed=0), 200))
    assert Choice() not in drawn
    assert own not in {one.modules for one in drawn}
    usual = ULTRAEDIT.ways[0].usual
    firsts = [one.values for one in drawn if one.values.get("step") != PUBLISHED]
    assert not any(usual.get(name) == value for one in firsts for name, value in one.items())
    assert 20 < len(drawn) - len(firsts) < 80


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["ultraedit", "wise"])
def test_the_method_takes_every_choice(tmp_path: Path, family: str, method: str) -> None:
    folder = tiny_models.build(tmp_path / "model", family)
    live = LiveModel(tiny_models.load(folder), open_checkpoint(folder))
    names = editable_modules(live.model)
    for choice in islice(choices(SPACES[method], live.model, seed=0), 25):
        prepared = EDITORS[method].prepare(
            live,
            tiny_models.tokenizer(),
            Request(
                modules=choice.modules,
                assignments={name: str(value) for name, value in choice.values.items()},
            ),
        )
        found = prepared.hyperparameters
        assert {name: found[name] for name in choice.values} == choice.values
        assert all(found[name] > 0 for name in choice.factors)
        assert set(found["modules"]) <= set(names)
        way = SPACES[method].way_of(found)
        assert set(choice.values) <= {*way.fixed, *way.values}
        assert way.settled(found).keys() >= {*choice.values, *choice.factors}


def test_names_in_short_select_the_same_modules(tiny_llama: Path, gpt2: Path) -> None:
    for folder in (tiny_llama, gpt2):
        model = tiny_models.load(folder)
        for names in module_choices(model, one_matrix=False):
            assert set(select_modules(model, patterns(names))) == set(names)
    assert patterns([f"model.layers.{n}.mlp.down_proj" for n in range(20, 28)]) == [
        "*layers.{20..27}.mlp.down_proj"
    ]
    assert patterns(["h.1.mlp.c_fc", "h.4.mlp.c_fc"]) == ["*h.{1,4}.mlp.c_fc"]
    assert patterns(["lm_head"]) == ["lm_head"]
