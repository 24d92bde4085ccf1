"""Vectors of query texts, remembered: a text and a model make the same vector every time.

In this process, and for models that are asked over the network in a store that all instances share. The built-in model
makes a vector in less time than a store answers.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cachetools import TTLCache

from vecmeter import deadline
from vecmeter.embedding import bedrock
from vecmeter.embedding.model import Embedder, with_paths
from vecmeter.errors import InvalidRequestError, LedgerUnavailableError

# What a vector takes beside its numbers (measured, and tested).
ENTRY_BYTES = 512
# Until this process looks into the shared store again: so long a vector may outlive the store's being cleared.
MEMORY_SECONDS = 300.0
# The longest the shared store is waited for: about what a model takes that is asked instead.
STORE_SECONDS = 0.5
# A store that did not answer is not asked again for so long.
AWAY_SECONDS = 2.0


class SharedEmbeddings(Protocol):
    """Vectors as float32 bytes by hash, for all instances. Raises LedgerUnavailableError."""

    def get_many(self, hashes: Iterable[bytes]) -> dict[bytes, bytes]: ...

    def put_many(self, vectors: Mapping[bytes, bytes]) -> None: ...

    def clear(self, ends_at: float) -> tuple[int, bool]: ...

    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Remembered:
    """The vectors of some texts, and how many of them were remembered."""

    vectors: list[array[float]]
    hits: int


class _Bounded(TTLCache[bytes, bytes]):
    """Vectors used last, up to a number of bytes; counts those it lets go of for want of room."""

    def __init__(self, most_bytes: int, monotonic: Callable[[], float]) -> None:
        super().__init__(most_bytes, MEMORY_SECONDS, monotonic, getsizeof=lambda packed: ENTRY_BYTES + len(packed))
        self.evictions = 0

    def popitem(self) -> tuple[bytes, bytes]:
        self.evictions += 1
        return super().popitem()


class QueryEmbeddings:
    """Embeds query texts, those it remembers without an embedder. Threads share it."""

    def __init__(
        self, most_bytes: int, shared: SharedEmbeddings | None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = shared
        self._monotonic = monotonic
        self._known = _Bounded(most_bytes, monotonic)
        self._lock = threading.Lock()
        self._away_until = -1.0

    @property
    def size(self) -> int:
        """Bytes that the vectors take, at most."""
        with self._lock:  # looking takes out what is too old
            return int(self._known.currsize)

    def take_evictions(self) -> int:
        """How many vectors were let go of for want of room since this was asked last."""
        with self._lock:
            taken, self._known.evictions = self._known.evictions, 0
        return taken

    def embed(
        self, provider: str, model: str, dimension: int, texts: Sequence[str], load: Callable[[], Embedder]
    ) -> Remembered:
        """The vectors of texts, in their order; ``load`` gives the embedder where one is needed.

        Raises as ``Embedder`` does, naming texts by their positions.
        """
        hashes = [_hash(provider, model, dimension, text) for text in texts]
        shared = self._shared if provider == bedrock.PROVIDER else None
        known = self._remembered(set(hashes))
        if shared is not None and len(known) < len(set(hashes)):
            known |= self._fetched(shared, [hash for hash in dict.fromkeys(hashes) if hash not in known])
        missing = {hash: at for at, hash in reversed(list(enumerate(hashes))) if hash not in known}
        hits = sum(hash not in missing for hash in hashes)
        if missing:
            made = _embedded(load(), texts, list(missing.values()))
            fresh = dict(zip(missing, made, strict=True))
            self._remember(fresh)
            if shared is not None:
                self._share(shared, fresh)
            known |= fresh
        return Remembered([array("f", known[hash]) for hash in hashes], hits)

    def clear(self, ends_at: float = math.inf) -> tuple[int, bool]:
        """Forget all; returns how many the shared store had, and whether these were all until ``ends_at``."""
        with self._lock:
            self._known.clear()
        return self._shared.clear(ends_at) if self._shared is not None else (0, True)

    def count(self) -> int:
        """How many the shared store has."""
        return self._shared.count() if self._shared is not None else 0

    def _remembered(self, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        with self._lock:
            found = ((hash, self._known.get(hash)) for hash in hashes)
            return {hash: packed for hash, packed in found if packed is not None}

    def _remember(self, vectors: Mapping[bytes, bytes]) -> None:
        with self._lock:
            for hash, packed in vectors.items():
                if ENTRY_BYTES + len(packed) <= self._known.maxsize:
                    self._known[hash] = packed

    def _fetched(self, shared: SharedEmbeddings, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        if self._monotonic() < self._away_until:
            return {}
        try:
            with deadline.within(STORE_SECONDS):
                found = shared.get_many(hashes)
        except LedgerUnavailableError:
            self._away_until = self._monotonic() + AWAY_SECONDS
            return {}
        self._remember(found)
        return found

    def _share(self, shared: SharedEmbeddings, vectors: Mapping[bytes, bytes]) -> None:
        if self._monotonic() < self._away_until:
            return
        try:
            with deadline.within(STORE_SECONDS):
                shared.put_many(vectors)
        except LedgerUnavailableError:
            self._away_until = self._monotonic() + AWAY_SECONDS


def _embedded(embedder: Embedder, texts: Sequence[str], positions: Sequence[int]) -> list[bytes]:
    """The vectors of the texts at some positions; errors name these."""
    try:
        vectors = embedder.embed_queries([texts[at] for at in positions]).vectors
    except InvalidRequestError as error:
        raise with_paths(error, list(map(str, positions))) from None
    return [vector.tobytes() for vector in vectors]


def _hash(provider: str, model: str, dimension: int, text: str) -> bytes:
    """Of the very text: what looks alike may be embedded otherwise. A lone surrogate is refused by every embedder."""
    return sha256(f"{provider}\0{model}\0{dimension}\0{text}".encode(errors="surrogatepass")).digest()
