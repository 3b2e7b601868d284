"""A payload codec that encrypts, as Temporal's samples show it, and the same decryption as a plain function."""

import os
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

ENCODING = b"binary/encrypted"
KEY_BITS = 256
NONCE_BYTES = 12  # that AES-GCM is defined for


class AesGcmCodec(PayloadCodec):
    """Encrypts each payload, with its metadata, by a key that lives as long as this object."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(KEY_BITS))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": ENCODING}, data=self._encrypted(payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self.decrypted(payload) for payload in payloads]

    def decrypted(self, payload: Payload) -> Payload:
        """Return the payload that was encrypted. Raises `cryptography.exceptions.InvalidTag` for another key's."""
        nonce, encrypted = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        return Payload.FromString(self._cipher.decrypt(nonce, encrypted, None))

    def _encrypted(self, plain: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, None)
