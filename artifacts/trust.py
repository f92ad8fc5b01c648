"""Whose artifacts count: manifests signed with Ed25519, one key for each installation.

    FOLDER/                  0700
      private_key            0600; 64 hex digits, made by the first `Trust.turn`
      trust.json             {"required": true, "keys": {PUBLIC KEY: LABEL}}

A signature lies beside the manifest (`manifest.json.sig`) and is over the manifest's bytes, which hold the
cache key and the digest of every file. With trust required, an artifact that no trusted key signed is no hit
and is not fetched: whoever can write into a shared store cannot plant a result under a key. The own key is
always trusted.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from artifacts.checks import Text, first_reason, parse_json
from artifacts.errors import StoreError
from artifacts.keys import canonical_json
from artifacts.local import LocalBackend
from artifacts.refs import Digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PURPOSE = b"artifact manifest, version 1\n"
"""Begins what is signed, so that a signature of something else never fits."""
MAX_SIGNATURE = 4_096
_PRIVATE, _SETTINGS = "private_key", "trust.json"
_KEY = re.compile(r"[0-9a-f]{64}")


class Signature(BaseModel):
    """The content of `manifest.json.sig`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    public_key: Digest
    signature: Text


class _TrustSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool = False
    keys: dict[Digest, Text] = {}


@dataclass(frozen=True)
class Trust:
    """The keys of an installation and whether they are asked for; without a folder nothing is signed."""

    folder: Path | None = None
    required: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    """Public keys of others that are trusted -> what they are called."""

    @classmethod
    def load(cls, folder: Path) -> Trust:
        """The settings in `folder`; where there are none, nothing is signed or required.

        Raises:
            StoreError: the settings cannot be read; a damaged file must not turn trust off.
        """
        document = LocalBackend(folder).read(_SETTINGS) if folder.is_dir() else None
        if document is None:
            return cls(folder)
        try:
            settings = _TrustSettings.model_validate(parse_json(document))
        except (ValueError, ValidationError) as error:
            raise StoreError(f"{folder / _SETTINGS} is damaged ({first_reason(error)})") from error
        return cls(folder, settings.required, settings.keys)

    def turn(self, required: bool) -> Trust:
        """Ask for trusted writers, or no longer; makes the own key first where there is none."""
        if self.private_key() is None:
            self._make_key()
        return self._save(replace(self, required=required))

    def add(self, public_key: str, label: str) -> Trust:
        """Trust the artifacts that are signed with `public_key`.

        Raises:
            StoreError: that is not a public key.
        """
        if not _KEY.fullmatch(public_key):
            raise StoreError(f"{public_key!r} is not a public key: it has 64 hexadecimal digits")
        return self._save(replace(self, keys={**self.keys, public_key: label}))

    def remove(self, key_or_label: str) -> Trust:
        """Trust a key no longer.

        Raises:
            StoreError: there is no such key.
        """
        kept = {key: label for key, label in self.keys.items() if key_or_label not in (key, label)}
        if kept == self.keys:
            raise StoreError(f"no trusted key is called {key_or_label!r}")
        return self._save(replace(self, keys=kept))

    def private_key(self) -> Ed25519PrivateKey | None:
        """The installation's own key, if it has one."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        document = LocalBackend(self.folder).read(_PRIVATE) if self.folder and self.folder.is_dir() else None
        if document is None:
            return None
        try:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(document.decode()))
        except ValueError as error:
            raise StoreError(f"{self.folder}/{_PRIVATE} is damaged: it is not an Ed25519 key") from error

    def public_key(self) -> str | None:
        """64 hex digits to give to others; None before the first `turn`."""
        own = self.private_key()
        return own.public_key().public_bytes_raw().hex() if own else None

    def sign(self, document: bytes) -> bytes | None:
        """The signature file of a manifest; None where the installation has no key."""
        own = self.private_key()
        if own is None:
            return None
        fields = {"public_key": self.public_key(), "signature": own.sign(PURPOSE + document).hex()}
        return canonical_json(fields)

    def accepts(self, document: bytes, signature: bytes | None) -> bool:
        """Whether a manifest may be used: always, unless trust is required."""
        if not self.required:
            return True
        signer = signed_by(document, signature)
        return signer is not None and (signer in self.keys or signer == self.public_key())

    def _make_key(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        assert self.folder is not None
        secret = Ed25519PrivateKey.generate().private_bytes_raw().hex()
        LocalBackend(self.folder).write(_PRIVATE, secret.encode())

    def _save(self, changed: Trust) -> Trust:
        assert self.folder is not None
        fields = {"required": changed.required, "keys": changed.keys}
        LocalBackend(self.folder).write(_SETTINGS, json.dumps(fields, indent=1, ensure_ascii=False).encode())
        return changed


def signed_by(document: bytes, signature: bytes | None) -> str | None:
    """The public key whose signature of `document` this is; None where it is none."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if signature is None:
        return None
    try:
        found = Signature.model_validate(parse_json(signature))
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.public_key))
        key.verify(bytes.fromhex(found.signature), PURPOSE + document)
    except (ValueError, InvalidSignature):
        return None
    return found.public_key


def trust_folder() -> Path:
    """Where this installation's key and settings lie: `trust` in `$R1_HOME` (`.r1`)."""
    return Path(os.environ.get("R1_HOME") or ".r1") / "trust"
