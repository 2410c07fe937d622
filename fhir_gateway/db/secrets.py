"""Encryption at rest for what must not lie in clear in the control plane: private keys, client secrets, tokens.

Fernet (AES-128-CBC with HMAC-SHA-256, https://github.com/fernet/spec): authenticated, so that a changed ciphertext or
a wrong key is noticed. The key comes from the settings or from a file of mode 600 that is made on first use.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError, Location

KEY_FILE = "encryption.key"


class SecretBox:
    """Encrypts and decrypts short secrets with one key."""

    def __init__(self, key: str | bytes) -> None:
        try:
            self._fernet = Fernet(key)
        except ValueError as error:
            raise ConfigurationError("encryption_key is not a Fernet key (32 bytes in URL-safe base64)") from error

    def encrypt(self, plain: bytes, /) -> bytes:
        """Return the secret encrypted; two calls give different bytes."""
        return self._fernet.encrypt(plain)

    def decrypt(self, token: bytes, /) -> bytes:
        """Return the secret; raises ConfigurationError when it was encrypted with another key or changed since."""
        try:
            return self._fernet.decrypt(token)
        except InvalidToken as error:
            raise ConfigurationError(
                f"a stored secret does not open with this encryption key (setting encryption_key, or {KEY_FILE} in the "
                "data folder)"
            ) from error


def open_secret_box(settings: Settings) -> SecretBox:
    """Return the box with the key of the settings, or of the key file in the data folder, made on first use."""
    if settings.encryption_key is not None:
        return SecretBox(settings.encryption_key.get_secret_value())
    return SecretBox(_key_of_file(settings.data_dir / KEY_FILE))


def _key_of_file(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(path, Fernet.generate_key())
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(
            "the key file may be read by others; set its mode to 600", location=Location(file=str(path))
        )
    return path.read_bytes().strip()


def _create(path: Path, key: bytes) -> None:
    """Write a new key file whole or not at all; when another process was faster, its key stands."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink()
