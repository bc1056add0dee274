"""Signatures over what is published, through the `model-signing` library: with a key, offline.

A signature covers every file of the repository but the card, which people edit on the Hub.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patches.errors import ManifestError, SettingError
from patches.strict_json import read_strict_json

SIGNATURE = "model.sig"
_UNSIGNED = ("README.md", SIGNATURE)


def sign(folder: Path, key: Path) -> bytes:
    """The signature over the files in `folder` by the private key (PEM) in file `key`."""
    hashing, signing, _ = _library()
    target = folder / SIGNATURE
    with _translated(key, SettingError):
        config = signing.Config().use_elliptic_key_signer(private_key=key)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=_UNSIGNED))
        config.sign(folder, target)
    return target.read_bytes()


def check_signature(folder: Path, signature: Path, key: Path, where: str) -> None:
    """ManifestError unless `signature` is one over exactly the files in `folder`, made with the
    private key that belongs to the public key (PEM) in file `key`.

    where: for messages.
    """
    _, _, verifying = _library()
    with _translated(key, SettingError):
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    try:
        config.verify(folder, signature)
    # What it raises depends on where the signature is malformed.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ManifestError(f"{where}: its signature does not hold ({reason[0][:300]})") from error


def signer(signature: Path) -> str | None:
    """What a signature says of the key it was made with; None if it is none."""
    try:
        content = read_strict_json(signature)
        hint = content["verificationMaterial"]["publicKey"]["hint"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return hint if isinstance(hint, str) else None


def require_signing_library() -> None:
    """SettingError if the optional library is not installed."""
    _library()


@contextmanager
def _translated(key: Path, kind: type[SettingError]) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise kind(
            f"{key}: cannot be used as a key ({reason[0]}); give an elliptic-curve key as PEM file"
        ) from error


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise SettingError(
            "signatures need the `model-signing` library: pip install 'edit-ledger[signing]'"
        ) from error
    return hashing, signing, verifying
