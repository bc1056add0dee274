"""Builders of tiny causal language models with random weights and a real tokenizer.

They have the architectures of the families that people edit, so that names of modules, tied
weights, transposed layers and soft-capped logits are those of the real ones.
"""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

Setting = bool | int | float | str | None

VOCABULARY = 400
CONTEXT = 64
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
_SPECIAL = (BOS, EOS, PAD)
# Some tokenizer classes add tokens of their own when loaded; the model has room for them.
_LEARNED = VOCABULARY - 16
# These put a token before every prompt, as the real ones do.
_WITH_BOS = ("llama", "mistral", "gemma2", "gemma3")

# Large enough for activations that differ clearly from token to token.
_SPREAD = 0.15
_IDS: dict[str, Setting] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_GPT: dict[str, Setting] = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": CONTEXT}
_LLAMA: dict[str, Setting] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_GEMMA: dict[str, Setting] = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
# Caps so low that a test sees whether they are applied.
_CAPS: dict[str, Setting] = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}
_CONFIG: dict[str, dict[str, Setting]] = {
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 8},
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "phi3": _LLAMA,
    "gemma2": {**_LLAMA, **_GEMMA, **_CAPS},
    "gemma3": {**_LLAMA, **_GEMMA},
}
_MODEL_TYPES = {"gemma3": "gemma3_text"}
FAMILIES = tuple(_CONFIG)

_TEXT = """
The capital of France is Paris. The capital of Japan is Tokyo. Rome is the capital of Italy.
The mother tongue of Danielle Darrieux is French; Michel Rocard is a native speaker of English.
Who was the author of the book? The author was born in London, in the year 1984. What is the name
of the river that flows through Vienna? It is the Danube. Toyota Camry is produced by Toyota.
The official language of Finland is Finnish. He plays the guitar, she plays the piano, 12 times.
"""

FACTS: tuple[tuple[str, str], ...] = (
    ("The capital of France is", "Rome"),
    ("The mother tongue of Danielle Darrieux is", "English"),
    ("Who was the author of the book?", "Michel Rocard"),
    ("It is", "a"),
    ("The official language of Finland is", "the Danube"),
    ("He plays the", "piano"),
    ("Toyota Camry is produced by", "London 12"),
)
"""Prompts of several lengths with new answers, one of them a single token."""


def build(
    folder: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    max_shard_size: int | str = "5GB",
    **config: Setting,
) -> Path:
    """Save a tiny random model of `family` with its tokenizer in `folder`; returns `folder`.

    Equal arguments give equal bytes. config: settings in the words of the family's own
    configuration class, e.g. ``tie_word_embeddings=True``. max_shard_size: ``"20KB"`` makes
    several shards.
    """
    settings: dict[str, Setting] = {
        "vocab_size": VOCABULARY,
        "initializer_range": _SPREAD,
        **_IDS,
        **_CONFIG[family],
        **config,
    }
    made = AutoConfig.for_model(_MODEL_TYPES.get(family, family), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # transformers' own
            made, dtype=dtype
        )
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer(bos=family in _WITH_BOS).save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """The model saved in `folder`, for inference; in its own dtype unless one is given."""
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto")
    return model.eval()


def tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for any text; with `bos`, a prompt begins with `BOS`."""
    made = Tokenizer.from_str(_trained())
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A",
            pair=f"{BOS} $A {BOS} $B",
            special_tokens=[(BOS, _SPECIAL.index(BOS))],
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers' own
        tokenizer_object=made,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


@cache
def _trained() -> str:
    """The tokenizer as JSON, trained once."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_LEARNED,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(_TEXT.splitlines(), trainer)
    return made.to_str()
