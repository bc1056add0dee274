"""Models with PEFT's own adapters, as if trained."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from tests.tiny_models import load

# PEFT asks the model for something that transformers has renamed.
FILTER = "ignore:.is_gradient_checkpointing:FutureWarning"
PROMPT = torch.arange(3, 40).unsqueeze(0)


def trained(folder: Path, module: str, *, seed: int = 3, **config: Any) -> Any:
    """The model in `folder` with an adapter for all modules of that name; no factor is zero."""
    settings = LoraConfig(
        **{
            "task_type": "CAUSAL_LM",
            "target_modules": [module],
            "fan_in_fan_out": module.startswith("c_"),
            "init_lora_weights": "gaussian",
            **config,
        }
    )
    made: Any = get_peft_model(load(folder), settings)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=draw) / 8)
    return made.eval()


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=PROMPT).logits
    return found


def with_adapter(folder: Path, adapter: Path) -> Any:
    """The model in `folder` with the adapter, both loaded as their users do."""
    return PeftModel.from_pretrained(load(folder), str(adapter)).eval()
