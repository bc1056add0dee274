"""Signatures with an elliptic-curve key over bytes: ECDSA with SHA-256, keys as PEM files."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from patches.errors import SettingError

ALGORITHM = "ECDSA-SHA256"


def sign(content: bytes, key: Path) -> tuple[str, str]:
    """The fingerprint of the public key, and the signature in base64.

    key: file with the private key. SettingError if it is none, or the library is not installed.
    """
    library = _library()
    load = library.serialization.load_pem_private_key
    private = _loaded(key, lambda pem: load(pem, password=None))
    if not isinstance(private, library.ec.EllipticCurvePrivateKey):
        raise _no_key(key, "it holds another kind of key")
    value = private.sign(content, library.ec.ECDSA(library.hashes.SHA256()))
    return _fingerprint(library, private.public_key()), base64.b64encode(value).decode()


def signature_problem(content: bytes, fingerprint: str, value: str, key: Path) -> str | None:
    """What is wrong with a signature; None if it was made over `content` with the private key that
    belongs to the public key in file `key`. SettingError as of `sign`."""
    library = _library()
    public = _loaded(key, library.serialization.load_pem_public_key)
    if not isinstance(public, library.ec.EllipticCurvePublicKey):
        raise _no_key(key, "it holds another kind of key")
    expected = _fingerprint(library, public)
    if fingerprint != expected:
        return f"is signed with another key ({fingerprint[:16]}…, not {expected[:16]}… of {key})"
    try:
        signature = base64.b64decode(value, validate=True)
        public.verify(signature, content, library.ec.ECDSA(library.hashes.SHA256()))
    except (library.exceptions.InvalidSignature, ValueError):
        return "was altered after it was signed"
    return None


def _fingerprint(library: Any, public: Any) -> str:
    """SHA-256 of the key as SubjectPublicKeyInfo in DER, as ``openssl pkey -pubin -outform DER``
    writes it."""
    der = public.public_bytes(
        library.serialization.Encoding.DER, library.serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _loaded(key: Path, load: Callable[[bytes], Any]) -> Any:
    try:
        return load(key.read_bytes())
    except (OSError, ValueError, TypeError, _library().exceptions.UnsupportedAlgorithm) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _no_key(key, reason[0]) from error


def _no_key(key: Path, why: str) -> SettingError:
    return SettingError(
        f"{key}: cannot be used as a key ({why}); give an elliptic-curve key as PEM file, without "
        "a passphrase"
    )


def _library() -> SimpleNamespace:
    """What is used of `cryptography`, which comes with the extra ``signing``."""
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise SettingError(
            "signatures need the `cryptography` library: pip install 'edit-ledger[signing]'"
        ) from error
    return SimpleNamespace(exceptions=exceptions, hashes=hashes, serialization=serialization, ec=ec)
