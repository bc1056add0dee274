"""Find and load the base model. Imports transformers and the Hub client only when called."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.hub import check_address, hub_reason, scrubbed
from patches.errors import CheckpointError, ModelError, SettingError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from patches.checkpoint import Checkpoint

SPLIT = "split"
"""What names all accelerators together, as a device."""
_WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "README.md",
)


def split_revision(address: str) -> tuple[str, str | None]:
    """``id@revision`` → id, revision. An existing folder is taken whole."""
    if "@" in address and not Path(address).expanduser().exists():
        name, _, revision = address.rpartition("@")
        return name, revision
    return address, None


def resolve_model(model: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a model, and the commit it is at if it comes from the Hub.

    A Hub model is taken from the local cache where it is there, else downloaded; files are
    safetensors, configuration and tokenizer only.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve(), None
    found = _snapshot(model, revision, _WANTED)
    return found, found.name


def resolve_adapter(source: str) -> tuple[Path, str | None]:
    """The folder of an adapter (a folder, or a Hub id with optional ``@revision``), and the commit
    it is at if it comes from the Hub.

    Of a Hub repository only its configuration and its safetensors are taken.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder, None
    from patches.adapter import CONFIG_FILE, WEIGHTS_FILE

    found = _snapshot(*split_revision(source), (CONFIG_FILE, WEIGHTS_FILE))
    return found, found.name


def _snapshot(name: str, revision: str | None, wanted: Sequence[str]) -> Path:
    """The folder in the local cache with those files of a repository, downloaded if need be."""
    check_address(name)
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")):
        raise CheckpointError(f"{name}: no such folder, and not a Hub id like owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
    except Exception as error:  # as in `ledger.hub.asking`
        what = name + (f"@{scrubbed(revision)}" if revision else "")
        raise CheckpointError(
            f"{what}: not a folder here, and the Hub does not give it: {hub_reason(error)}"
        ) from None


def load_model(folder: Path, *, dtype: str | None, device: str) -> "nn.Module":
    """A causal language model in evaluation mode.

    dtype: a torch name such as ``float32``, or None for that of the checkpoint. device: as
    `parse_device` takes it, or ``split``: layer by layer over all accelerators that are here, which
    must hold all of it; where there is none, the CPU. Raises ModelError if it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    wanted: torch.dtype | str = "auto" if dtype is None else parse_dtype(dtype)
    target = parse_device(device)
    splitting = device == SPLIT and target.type != "cpu"
    quieten()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=wanted,
            local_files_only=True,
            trust_remote_code=False,
            device_map="auto" if splitting else None,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: transformers cannot load it as a causal language model "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    if splitting:
        check_whole(model)
    loaded: nn.Module = (model if splitting else model.to(target)).eval()
    return loaded


def check_whole(model: "nn.Module") -> None:
    """ModelError if parts of a split model did not fit, and wait outside the devices to be fetched
    when they are needed: their weights cannot be edited or read."""
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise ModelError(
            f"the model does not fit on the accelerators here: {len(missing)} of its tensors would "
            f"be offloaded, the first {missing[0]}. Use more of them, --dtype bfloat16, or "
            "--device cpu"
        )


def empty_model(folder: Path) -> "nn.Module":
    """The architecture of the model in `folder`, without weights: for the names of its modules."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    quieten()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{folder}: transformers cannot build it as a causal language model "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    return model.eval()


def module_outline(checkpoint: "Checkpoint") -> "nn.Module":
    """A model with the modules, parameters and ties of the one in `checkpoint`, for their names; it
    cannot run. Without transformers where its tensors say all of that."""
    from patches.outline import outlined

    found = outlined(checkpoint)
    return empty_model(checkpoint.folder) if found is None else found


def names_of(model: "nn.Module", weight: object) -> list[str]:
    """Every name under which a model has a parameter: more than one where it is tied."""
    parameters = model.named_parameters(remove_duplicate=False)
    return [name for name, value in parameters if value is weight]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside the model."""
    from transformers import AutoTokenizer

    quieten()
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{folder}: no usable tokenizer beside the model "
            f"({str(error).strip().splitlines()[0]}); copy the tokenizer files there"
        ) from error


def parse_dtype(name: str) -> "torch.dtype":
    """A floating torch dtype by its name."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise SettingError(f"--dtype is one of {', '.join(known)}, not {name!r}")
    return known[name]


def parse_device(name: str) -> "torch.device":
    """A device that is there; ``auto`` is the first accelerator, else the CPU, and so is ``split``
    for what is done on one device."""
    import torch

    if name in ("auto", SPLIT):
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        # Apple's accelerator has no float64, which exact application needs.
        usable = accelerator is not None and accelerator.type != "mps"
        return accelerator if usable and accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            f"--device {name}: not usable here ({str(error).splitlines()[0]})"
        ) from error
    return device


def quieten() -> None:
    """Keep transformers' progress bars and notes out of our output."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # as transformers ships it
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # likewise
