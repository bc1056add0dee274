"""Which matrix gets a side memory, and margins and rate that fit it, where the user does not say.

The paper's margins (5, 20, 10) and rate belong to models of 7 billion parameters. Here they are
taken from what the matrix gives on neutral text, with factors that were chosen on SmolLM2, on ZsRE
rows 200 to 239, CounterFact rows 1000 to 1029 and the first thirty facts of ``world.json``.
"""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from patches import replay
from patches.editors.defaults import output_matrices
from patches.errors import ModelError
from patches.tokens import Encoded, pad

# (family, layers, width) → layer, as in the configurations of the released code; SmolLM2's own.
_LAYERS = {
    ("gptj", 28, 4096): 21,
    ("llama", 32, 4096): 27,
    ("mistral", 32, 4096): 27,
    ("qwen2", 28, 3584): 23,
    ("llama", 30, 576): 24,
}
_DEPTH = 0.8
# In units of S, the median norm of what the matrix gives for a token.
_ALPHA, _BETA, _GAMMA = 0.13, 0.5, 0.25
# How far one step of Adam moves Δact for an input whose signs it follows, in units of S.
_STEP = 0.47


def default_matrix(model: nn.Module) -> tuple[str, str | None]:
    """The matrix, and a note where nobody has chosen one for this model."""
    config: Any = model.config
    text = config.get_text_config()
    family = str(text.model_type).removesuffix("_text")
    names = output_matrices(model)
    known = _LAYERS.get((family, text.num_hidden_layers, text.hidden_size))
    if known is not None:
        found = [name for name in names if re.search(rf"\.{known}\.", name)]
        if len(found) == 1:
            return found[0], None
    chosen = names[int(_DEPTH * len(names))]
    return chosen, (
        f"nobody has chosen a layer of {family} for WISE: the memory goes beside {chosen}, at "
        "four fifths of the depth. Try others with --modules"
    )


def calibrated(
    model: nn.Module, name: str, sentences: Sequence[Encoded], *, mask_ratio: float, device: Any
) -> dict[str, float]:
    """alpha, beta, gamma and learning_rate for matrix `name`, from its activations on sentences.

    Adam moves every masked entry by about its rate, so an input a moves what the matrix gives by
    about rate · ρ · ‖a‖₁ · √d_out: the rate is chosen so that this is a fixed share of S.
    """
    recorded = replay.record(model, name, pad(sentences).to(device), replayable=False)
    tokens = recorded.batch.attention_mask.bool()
    scale = recorded.outputs[tokens].float().norm(dim=-1).median().item()
    spread = recorded.inputs[tokens].float().abs().sum(-1).median().item()
    if not (0 < scale < float("inf") and 0 < spread < float("inf")):
        raise ModelError(
            f"module {name} gives {scale} on neutral text; the model is broken, or needs "
            "--dtype float32"
        )
    reach = mask_ratio * spread * recorded.outputs.shape[-1] ** 0.5
    return {
        "alpha": _rounded(_ALPHA * scale),
        "beta": _rounded(_BETA * scale),
        "gamma": _rounded(_GAMMA * scale),
        "learning_rate": _rounded(_STEP * scale / reach),
    }


def _rounded(value: float) -> float:
    """Three digits: what is printed is what is used."""
    return float(f"{value:.3g}")
