"""Answers of searches, remembered in this process for as long as a search would find the same again.

PostgreSQL is asked each time whether that is so: a statement of some 0.1 ms (revisions.py). What a write that anybody
acknowledged has changed, is not given again; only where PostgreSQL does not answer may an answer be older, and says so.
An answer is kept as JSON, the numbers of its vectors in binary: its bytes are known exactly, and thousands of answers
give the garbage collector nothing to do.
"""

from __future__ import annotations

import json
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

from cachetools import LRUCache

from vecmeter.vectors import revisions
from vecmeter.vectors.connection import Database
from vecmeter.vectors.model import Collection, Match, Plan, Query, SearchResult, Stamp

# What an answer takes beside its own bytes: key, stamp, and their places in three dictionaries (measured, and tested).
ENTRY_BYTES = 640
# An answer may take this part of the whole: one search for a thousand long documents must not drive out all others.
LARGEST_PART = 16
# Collections of which the revision that was seen last is remembered.
KNOWN_COLLECTIONS = 4096
_KEY_BYTES = 16

_FIELDS = tuple(field.name for field in fields(Query) if field.name != "numbers")


class CacheUse(StrEnum):
    """Where an answer comes from: remembered and confirmed, searched for, remembered and not confirmed; no cache."""

    HIT = "hit"
    MISS = "miss"
    STALE = "stale"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class _Entry:
    """An answer as of a stamp; ``made_at`` by the clock that only goes forward."""

    collection_id: int
    answer: bytes
    numbers: bytes
    stamp: Stamp
    made_at: float

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.answer) + len(self.numbers)


class Stale(NamedTuple):
    """An answer that nobody has confirmed, and its age in seconds."""

    result: SearchResult
    age: float


class _Bounded(LRUCache[bytes, _Entry]):
    """The entries used last, up to a number of bytes; counts those it lets go of for want of room."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(most_bytes, getsizeof=lambda entry: entry.size)
        self.evictions = 0

    def popitem(self) -> tuple[bytes, _Entry]:
        self.evictions += 1
        return super().popitem()


class ResultCache:
    """The answers of one process, up to ``most_bytes`` and for ``seconds``; threads share it. 0 bytes: none at all."""

    def __init__(
        self, database: Database, most_bytes: int, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._largest = most_bytes // LARGEST_PART
        self._seconds = seconds
        self._monotonic = monotonic
        self._entries = _Bounded(most_bytes)
        self._revisions: LRUCache[int, int] = LRUCache(KNOWN_COLLECTIONS)
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._largest > 0

    @property
    def size(self) -> int:
        """Bytes that the answers take, at most."""
        return int(self._entries.currsize)

    def take_evictions(self) -> int:
        """How many answers were let go of for want of room since this was asked last."""
        with self._lock:
            taken, self._entries.evictions = self._entries.evictions, 0
        return taken

    def remembers(self, keys: Sequence[bytes]) -> bool:
        """Whether there is an answer to any of these searches that ``find`` would ask about."""
        return any(self._entry(key) is not None for key in keys)

    def find(self, collection: Collection, keys: Sequence[bytes]) -> list[SearchResult | None]:
        """Of each search (``key_of``) the answer that it would find again, where one is remembered.

        One round trip where there are any, none where there are not.
        """
        entries = [self._entry(key) for key in keys]
        if not any(entries):
            return [None] * len(keys)
        now = self._database.run(lambda connection: revisions.check(connection, collection))
        self._saw(collection.collection_id, now.revision)
        confirmed = [entry if entry is not None and now.confirms(entry.stamp) else None for entry in entries]
        self._forget(key for key, entry in zip(keys, confirmed, strict=True) if entry is None)
        return [_unpack(entry) if entry is not None else None for entry in confirmed]

    def keep(self, collection: Collection, key: bytes, result: SearchResult) -> None:
        """Remember what a ``stamped`` search found, unless it is large."""
        if result.stamp is None:
            return
        self._saw(collection.collection_id, result.stamp.revision)
        entry = _Entry(collection.collection_id, *_pack(result), result.stamp, self._monotonic())
        if entry.size <= self._largest:
            with self._lock:
                self._entries[key] = entry

    def unconfirmed(self, key: bytes) -> Stale | None:
        """The answer to a search where PostgreSQL cannot be asked; never one that is known here to be outdated."""
        entry = self._entry(key)
        if entry is None:
            return None
        expiry = entry.stamp.next_expiry
        if expiry is not None and expiry <= datetime.now(UTC):
            return None
        return Stale(_unpack(entry), max(0.0, self._monotonic() - entry.made_at))

    def _entry(self, key: bytes) -> _Entry | None:
        """Unless it is known, without asking, to be of use no more."""
        with self._lock:
            entry: _Entry | None = self._entries.get(key)
            if entry is None:
                return None
            is_old = self._monotonic() - entry.made_at >= self._seconds
            if is_old or entry.stamp.revision < self._revisions.get(entry.collection_id, 0):
                del self._entries[key]
                return None
        return entry

    def _saw(self, collection_id: int, revision: int | None) -> None:
        with self._lock:
            if revision is not None:
                self._revisions[collection_id] = revision

    def _forget(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            for key in keys:
                self._entries.pop(key, None)


def key_of(collection: Collection, query: Query) -> bytes:
    """What decides the answer to a search, as a number: the definition, and all of the query. A text that is yet to be
    embedded stands for its vector: the definition names the embedder.
    """
    said = json.dumps([getattr(query, name) for name in _FIELDS], sort_keys=True, separators=(",", ":"))
    key = blake2b(_definition(collection), digest_size=_KEY_BYTES)
    key.update(said.encode())
    if query.numbers is not None:
        key.update(b"\0" + query.numbers.tobytes())
    return key.digest()


@lru_cache(maxsize=KNOWN_COLLECTIONS)
def _definition(collection: Collection) -> bytes:
    return blake2b(repr(collection).encode(), digest_size=_KEY_BYTES).digest()


def _pack(result: SearchResult) -> tuple[bytes, bytes]:
    """All but the numbers, and these one vector after the other: as JSON they take ten times as long."""
    matches = [(m.id, m.namespace, m.score, m.distance, m.metadata, m.document) for m in result.matches]
    packed = [result.plan, result.candidates, result.candidates_before, matches]
    numbers = array("d", chain.from_iterable(match.numbers or () for match in result.matches))
    return json.dumps(packed, ensure_ascii=False, separators=(",", ":")).encode(), numbers.tobytes()


def _unpack(entry: _Entry) -> SearchResult:
    plan, candidates, candidates_before, matches = json.loads(entry.answer)
    numbers = array("d", entry.numbers)
    each = len(numbers) // len(matches) if matches else 0
    return SearchResult(
        matches=[
            Match(
                id=id,
                namespace=namespace,
                score=score,
                distance=distance,
                metadata=metadata,
                document=document,
                numbers=numbers[at * each : at * each + each].tolist() if each else None,
            )
            for at, (id, namespace, score, distance, metadata, document) in enumerate(matches)
        ],
        plan=Plan(plan),
        candidates=candidates,
        candidates_before=candidates_before,
        stamp=entry.stamp,
    )
