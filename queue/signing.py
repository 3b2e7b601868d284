"""Signatures of entries: where a key is set, only who knows it can have the batcher write, signal and complete."""

import hmac
from datetime import timedelta
from hashlib import sha256

from write_batcher.models import MAX_REQUEST_AGE, QueueRef
from write_batcher.queue.wire_form import Fields, milliseconds

SIGNATURE = b"sig"
REPLAYED = b"replayed"  # `1` once an operator has replayed the dead letter
SIGNED = (b"v", b"id", b"key", b"reply", b"asked", b"trace", b"payload", REPLAYED)
CLOCKS_DIFFER_BY = timedelta(hours=1)  # at most, those of callers and Redis

LONGEST_AGE_MS = 10**14  # some 3,000 years; a timedelta holds no 10**18


class Signer:
    """Signs the entries of one queue. An entry that was signed for another queue or namespace does not pass."""

    def __init__(self, key: str, queue: QueueRef) -> None:
        """`key` is shared by callers and batcher: any text, at best 32 random bytes and more."""
        self._key = key.encode()
        self._queue = str(queue).encode()

    def signed(self, fields: Fields) -> Fields:
        """Return the fields with their signature."""
        return {**fields, SIGNATURE: self._signature(fields)}

    def signature_for_replay(self, fields: Fields) -> bytes:
        """Return the signature for the replay of a signed dead letter: it covers that this is a replay.

        One that is not its caller's stays as it is: it is that of an earlier replay, or wrong, and a replay must not
        make an entry right that nobody with the key has signed.
        """
        as_asked = {name: value for name, value in fields.items() if name != REPLAYED}
        return self._signature({**as_asked, REPLAYED: b"1"}) if self.accepts(as_asked) else fields[SIGNATURE]

    def objection(self, fields: Fields, now_ms: int) -> str | None:
        """Say why an entry must not be written; None when it may be.

        A signature does not expire, so `asked` limits how long a copy of an entry can be appended again: no longer than
        the ledger remembers it. `now_ms` is the time of Redis in milliseconds since the epoch.
        """
        if not fields.get(SIGNATURE):
            return "The entry is not signed: give its caller the batcher's WRITE_BATCHER_SIGNING_KEY."
        if not self.accepts(fields):
            return (
                "The signature of the entry is wrong: it was signed with another key or for another queue, or changed "
                "later. Give its caller the batcher's WRITE_BATCHER_SIGNING_KEY."
            )
        asked_ms = milliseconds(fields.get(b"asked", b""))
        if asked_ms is None:
            return "The entry is signed but does not say when its caller asked: set its field `asked`."
        age = timedelta(milliseconds=max(now_ms - asked_ms, -LONGEST_AGE_MS))
        if age > MAX_REQUEST_AGE:
            return f"The entry was signed {age} ago, the limit is {MAX_REQUEST_AGE}: have its caller submit it anew."
        if age < -CLOCKS_DIFFER_BY:
            return (
                f"The entry was signed {-age} in the future, the limit is {CLOCKS_DIFFER_BY}: set its caller's clock."
            )
        return None

    def accepts(self, fields: Fields) -> bool:
        """Whether the signature is there and belongs to these fields."""
        return hmac.compare_digest(fields.get(SIGNATURE, b""), self._signature(fields))

    def _signature(self, fields: Fields) -> bytes:
        digest = hmac.new(self._key, self._queue, sha256)
        for name in SIGNED:
            value = fields.get(name)
            # With lengths, or a byte could move from one field to the next; a missing field is not an empty one.
            digest.update(b"-" if value is None else b"%d:" % len(value))
            digest.update(value or b"")
        return digest.hexdigest().encode()
