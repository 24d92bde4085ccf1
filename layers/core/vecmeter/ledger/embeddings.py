"""Vectors of query texts in the ledger's table, for all instances to share. The text is not kept, only its hash.

Each is an item of its own: ``E#<first byte>`` / the hash, with the float32 numbers as ``v`` and a time to live. 256
partitions, none of which any request's counters lie in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import Clock
from vecmeter.ledger.table import Table

_PARTITIONS = tuple(f"{number:02x}" for number in range(256))


class EmbeddingStore:
    """Keeps vectors, as bytes, by hash. Raises LedgerUnavailableError: whoever asks can embed the text instead."""

    def __init__(self, table: Table, days: int, clock: Clock) -> None:
        self._table = table
        self._kept_for = timedelta(days=days)
        self._clock = clock

    def get_many(self, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those that are there, in one call for up to 100."""
        now = self._clock().timestamp()
        items = self._table.get_some(map(_key, hashes))
        # The table deletes what has lived its time within some days.
        return {bytes.fromhex(item["sk"]): item["v"] for item in items if item["ttl"] > now}

    def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        ttl = int((self._clock() + self._kept_for).timestamp())
        keys = ((_key(hash), vector) for hash, vector in vectors.items())
        self._table.put_some({"pk": pk, "sk": sk, "v": vector, "ttl": ttl} for (pk, sk), vector in keys)

    def clear(self, ends_at: float = math.inf) -> tuple[int, bool]:
        """Delete all, until ``ends_at`` by ``time.monotonic``; returns how many, and whether these were all."""
        deleted = 0
        for partition in _PARTITIONS:
            if time.monotonic() >= ends_at:
                return deleted, False
            deleted += self._table.delete_many((item["pk"], item["sk"]) for item in self._all(partition))
        return deleted, True

    def count(self) -> int:
        """How many there are for ``clear``."""
        return sum(1 for partition in _PARTITIONS for _ in self._all(partition))

    def _all(self, partition: str) -> Iterator[Item]:
        return self._table.query(f"E#{partition}", between=("0", "g"))


def _key(hash: bytes) -> tuple[str, str]:
    text = hash.hex()
    return f"E#{text[:2]}", text
