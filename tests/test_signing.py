"""Signatures over what is published: made with a key, checked with the other half, offline."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ledger.rolling_back import rollback_turn
from ledger.sharing.pulling import clone, pull
from ledger.sharing.signing import SIGNATURE
from ledger.workspace import Ledger
from patches.errors import ManifestError, SettingError
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.loopback_hub import Hub
from tests.test_push import push

EDITS = "me/edits"


@pytest.fixture
def publisher(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    source = write_facts(tmp_path / "facts.json", facts(3))
    with new_ledger(tmp_path / "publisher", tiny_llama) as ledger:
        add(ledger, source)
        yield ledger


@pytest.fixture
def other(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "other", tiny_llama) as ledger:
        yield ledger


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Files with a private key and the public one that belongs to it."""
    private = ec.generate_private_key(ec.SECP256R1())
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return secret, public


def test_what_is_signed_is_pulled_with_the_public_key(
    hub: Hub, publisher: Ledger, other: Ledger, tmp_path: Path
) -> None:
    secret, public = keys(tmp_path, "mine")
    push(publisher, EDITS, "patch", key=secret, include_edits=True)
    assert pull(other, EDITS, key=public).signed
    there = hub.repository(EDITS)
    there.commit({"README.md": b"Edited on the Hub."})
    cloned, done = clone(EDITS, folder=tmp_path / "clone", model=other.config.model, key=public)
    cloned.close()
    assert done.signed
    content = secret.read_bytes().splitlines()[1]
    assert all(content not in data for data in there.files().values())


@pytest.mark.usefixtures("hub")
def test_signing_again_makes_no_new_commit_but_a_new_state_does(
    publisher: Ledger, tmp_path: Path
) -> None:
    secret, _ = keys(tmp_path, "mine")
    assert push(publisher, EDITS, "patch", key=secret).new
    assert not push(publisher, EDITS, "patch", key=secret).new
    rollback_turn(publisher, 1)
    assert push(publisher, EDITS, "patch", key=secret).new
    new, _ = keys(tmp_path, "new")
    assert push(publisher, EDITS, "patch", key=new).new
    assert not push(publisher, EDITS, "patch", key=new).new


def test_another_key_no_signature_and_altered_files_are_refused(
    hub: Hub, publisher: Ledger, other: Ledger, tmp_path: Path
) -> None:
    secret, public = keys(tmp_path, "mine")
    _, stranger = keys(tmp_path, "stranger")
    push(publisher, "me/plain", "patch")
    push(publisher, EDITS, "patch", key=secret)
    before = contents(other)
    with pytest.raises(ManifestError, match="is not signed"):
        pull(other, "me/plain", key=public)
    with pytest.raises(ManifestError, match="its signature does not hold"):
        pull(other, EDITS, key=stranger)
    there = hub.repository(EDITS)
    plain = hub.repository("me/plain")
    # A whole and consistent history of somebody else's, under the signature of this one.
    rollback_turn(publisher, 1)
    push(publisher, "me/plain", "patch")
    there.commit({n: c for n, c in plain.files().items() if n != ".gitattributes"})
    with pytest.raises(ManifestError, match="its signature does not hold"):
        pull(other, EDITS, key=public)
    there.commit({SIGNATURE: b"{}"})
    with pytest.raises(ManifestError, match="its signature does not hold"):
        pull(other, EDITS, key=public)
    assert contents(other) == before
    assert pull(other, EDITS).turns == [1, 2]


@pytest.mark.usefixtures("hub")
def test_what_is_no_key_is_refused(publisher: Ledger, other: Ledger, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("not a key")
    with pytest.raises(SettingError, match=r"junk.pem: cannot be used as a key"):
        push(publisher, EDITS, "patch", key=junk)
    secret, _ = keys(tmp_path, "mine")
    push(publisher, EDITS, "patch", key=secret)
    with pytest.raises(SettingError, match=r"junk.pem: cannot be used as a key"):
        pull(other, EDITS, key=junk)


@pytest.mark.usefixtures("hub")
def test_without_the_library_it_says_what_to_install(
    publisher: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, _ = keys(tmp_path, "mine")
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(SettingError, match=r"pip install 'edit-ledger\[signing\]'"):
        push(publisher, EDITS, "patch", key=secret)
