"""Which modules are edited where the user does not say, and how the user says it."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from patches.editors.defaults import default_for, select_modules
from patches.errors import ModelError, SettingError
from patches.modules import editable_modules


def skeleton(family: str, **settings: object) -> nn.Module:
    """A model of real size without memory for its weights."""
    config = AutoConfig.for_model(family, **settings)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config
        )
    return model


def layers(pattern: str, first: int, last: int) -> list[str]:
    return [pattern.format(at) for at in range(first, last + 1)]


GEMMA = {
    "hidden_size": 5376,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
}
TUNED: dict[str, tuple[str, dict[str, object], list[str], float]] = {
    "GPT-J 6B": (
        "gptj",
        {"n_embd": 4096, "n_layer": 28},
        layers("transformer.h.{}.mlp.fc_out", 18, 26),
        1e-6,
    ),
    "Mistral 7B": (
        "mistral",
        {"hidden_size": 4096, "num_hidden_layers": 32},
        layers("model.layers.{}.mlp.down_proj", 29, 30),
        1e-6,
    ),
    "Llama 3 8B": (
        "llama",
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_key_value_heads": 8},
        layers("model.layers.{}.mlp.gate_proj", 11, 15)
        + layers("model.layers.{}.mlp.up_proj", 18, 24),
        1e-6,
    ),
    "Qwen2.5 7B": (
        "qwen2",
        {
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        layers("model.layers.{}.mlp.gate_proj", 18, 26)
        + layers("model.layers.{}.mlp.up_proj", 18, 26),
        1e-6,
    ),
    "Phi-4 14B": (
        "phi3",
        {
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 10,
        },
        layers("model.layers.{}.mlp.down_proj", 30, 38),
        1e-6,
    ),
    "Gemma 3 27B, text": (
        "gemma3_text",
        {**GEMMA},
        layers("model.layers.{}.mlp.gate_proj", 52, 60)
        + layers("model.layers.{}.mlp.up_proj", 52, 60),
        1e-6,
    ),
    "Gemma 3 27B, with pictures": (
        "gemma3",
        {"text_config": GEMMA},
        layers("model.language_model.layers.{}.mlp.gate_proj", 52, 60)
        + layers("model.language_model.layers.{}.mlp.up_proj", 52, 60),
        1e-6,
    ),
    "SmolLM2 135M": (
        "llama",
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
        layers("model.layers.{}.mlp.down_proj", 20, 27),
        3e-4,
    ),
}


@pytest.mark.parametrize("name", TUNED)
def test_a_tuned_model_keeps_the_published_modules_and_rate(name: str) -> None:
    family, settings, modules, rate = TUNED[name]
    model = skeleton(family, **settings)
    default = default_for(model)
    assert list(default.modules) == modules
    assert default.learning_rate == rate
    assert default.note is None
    assert set(modules) <= editable_modules(model).keys()


SMALL = {"hidden_size": 64, "num_hidden_layers": 10, "num_attention_heads": 2}
UNTUNED: dict[str, tuple[str, dict[str, object], list[str]]] = {
    "another size of a tuned family": (
        "llama",
        {**SMALL},
        layers("model.layers.{}.mlp.down_proj", 6, 9),
    ),
    "the depth of one size, the width of another": (
        "llama",
        {"hidden_size": 576, "num_hidden_layers": 32, "num_attention_heads": 9},
        layers("model.layers.{}.mlp.down_proj", 21, 28),
    ),
    "GPT-2": (
        "gpt2",
        {"n_embd": 768, "n_layer": 12},
        layers("transformer.h.{}.mlp.c_proj", 8, 10),
    ),
    "GPT-NeoX": ("gpt_neox", {**SMALL}, layers("gpt_neox.layers.{}.mlp.dense_4h_to_h", 6, 9)),
    "OPT": (
        "opt",
        {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 64},
        layers("model.decoder.layers.{}.fc2", 6, 9),
    ),
    "one layer": (
        "gpt2",
        {"n_embd": 64, "n_layer": 1, "n_head": 2},
        ["transformer.h.0.mlp.c_proj"],
    ),
    "a model with a vision tower": (
        "gemma3",
        {
            "text_config": {
                "hidden_size": 2560,
                "num_hidden_layers": 34,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
            }
        },
        layers("model.language_model.layers.{}.mlp.down_proj", 22, 30),
    ),
}


@pytest.mark.parametrize("name", UNTUNED)
def test_an_untuned_model_gets_late_output_matrices_and_a_note(name: str) -> None:
    family, settings, modules = UNTUNED[name]
    default = default_for(skeleton(family, **settings))
    assert list(default.modules) == modules
    assert default.note is not None
    assert "nobody has tuned" in default.note
    assert modules[0] in default.note
    assert f"{default.learning_rate:g}" in default.note
    assert "ledger tune" in default.note
    assert default.modules_note is not None
    assert "rate" not in default.modules_note


def test_the_rule_s_rate_falls_with_the_width_from_the_one_that_was_tuned() -> None:
    def rate(width: int) -> float:
        settings = {**SMALL, "hidden_size": width}
        return default_for(skeleton("llama", **settings)).learning_rate

    assert rate(576) == 3e-4
    assert rate(4096) == pytest.approx(1e-6, rel=0.2)
    assert rate(64) > rate(128) > rate(256)


def test_a_model_without_feed_forward_layers_asks_for_modules() -> None:
    settings = {"hidden_size": 64, "num_hidden_layers": 2}
    with pytest.raises(ModelError, match=r"MambaForCausalLM.*--modules"):
        default_for(skeleton("mamba", **settings))


def test_a_tuned_size_with_other_modules_is_refused_and_not_guessed() -> None:
    model = skeleton("mistral", hidden_size=4096, num_hidden_layers=32)
    del model.get_submodule("model.layers.29.mlp").down_proj
    with pytest.raises(ModelError, match=r"MistralForCausalLM: 0 modules match .*29.*--modules"):
        default_for(model)


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    settings = {**SMALL, "num_hidden_layers": 12}
    return skeleton("llama", **settings)


DOWN = "model.layers.{}.mlp.down_proj"


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["model.layers.3.mlp.down_proj"], [DOWN.format(3)]),
        (["layers.3.mlp.down_proj"], [DOWN.format(3)]),
        (["3.mlp.down_proj"], [DOWN.format(3)]),
        (["layers.{9..11}.mlp.down_proj"], layers(DOWN, 9, 11)),
        (["layers.{1,3}.mlp.down_proj"], [DOWN.format(1), DOWN.format(3)]),
        (["layers.{ 1, 3..4 }.mlp.down_proj"], [DOWN.format(at) for at in (1, 3, 4)]),
        (["*.down_proj"], layers(DOWN, 0, 11)),
        (["model.layers.1*.mlp.down_proj"], [DOWN.format(at) for at in (1, 10, 11)]),
        ([DOWN.format(5), "*.{2,5}.mlp.down_proj"], [DOWN.format(2), DOWN.format(5)]),
        (
            ["layers.0.mlp.{up_proj,gate_proj}"],
            ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"],
        ),
        (["lm_head"], ["lm_head"]),
    ],
)
def test_patterns_choose_modules_in_the_order_of_the_model(
    llama: nn.Module, patterns: list[str], expected: list[str]
) -> None:
    assert list(select_modules(llama, patterns)) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "down_pro",
        "own_proj",
        "model.layers.12.mlp.down_proj",
        "layers.{12..14}.mlp.down_proj",
        "model.layers.1.input_layernorm",
        "model.embed_tokens",
        "modelxlayers.1.mlp.down_proj",
        "layers.{3..1}.mlp.down_proj",
        "layers.{1.mlp.down_proj",
        "",
    ],
)
def test_a_pattern_without_a_match_is_refused_with_what_there_is(
    llama: nn.Module, pattern: str
) -> None:
    with pytest.raises(SettingError, match=r"matches no linear module.*layers\.\*\.mlp\.down_proj"):
        select_modules(llama, [DOWN.format(1), pattern])
