"""What a write of vectors is bound to in its own transaction: the limits of its project, and the key of its request."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vecmeter.vectors import stock
from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.model import Collection
from vecmeter.vectors.once import Once
from vecmeter.vectors.stock import NO_LIMITS, Change, CollectionLimits

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """``limits`` of the project's stock by their public names, and ``once`` for a request with a key."""

    limits: Mapping[str, int] = field(default_factory=lambda: NO_LIMITS)
    once: Once | None = None

    @property
    def are_free(self) -> bool:
        return not self.limits and self.once is None


FREE = Terms()


@dataclass(frozen=True, slots=True)
class Done:
    """What a write's statement did: its ``answer``, how it changed the stock, and the collection's own limits."""

    answer: list[int]
    change: Change
    own: CollectionLimits


class DefinitionChanged(Exception):
    """Since the definition of the collection was read, the texts were given another language: a write did nothing, and
    what a search found is not the answer.
    """


Work = Callable[[Connection, uuid.UUID, bool], Done | None]
"""Does a write's statement. Given False, it does nothing and returns None where the collection itself has limits."""


def write(
    database: Database,
    collection: Collection,
    work: Work,
    finish: Callable[[list[int]], T],
    terms: Terms,
    *,
    conditional: bool = False,
    foresee: Callable[[Connection], None] | None = None,
) -> T:
    """Do a write on its terms, once; ``finish`` makes the result of its answer, or raises what undoes it.

    Without terms it is one statement, for which ``finish`` comes too late: what it raises there says that nothing was
    done, unless the write is ``conditional``. Otherwise it is a transaction; ``foresee`` may refuse it before the work.

    Raises:
        AnsweredBefore: an earlier request with the key has done it.
        LimitExceededError, CostExceedsLimitError: there is no room.
        DefinitionChanged: see ``Collections.use``.
    """
    tries = itertools.count()

    def alone(connection: Connection, receipt: uuid.UUID) -> list[int]:
        done = work(connection, receipt, False)
        return bound(connection, receipt, True) if done is None else done.answer

    def bound(connection: Connection, receipt: uuid.UUID, limited: bool = bool(terms.limits)) -> list[int]:
        with connection.transaction():
            if terms.once is not None:
                terms.once.claim(connection, receipt)
            # What a try that is repeated has written may be committed and counted already.
            if next(tries) == 0 and limited and foresee is not None:
                foresee(connection)
            done = work(connection, receipt, True)
            if done is None:
                raise DefinitionChanged
            stock.enforce(connection, collection, done.change, terms.limits, done.own)
            if terms.once is not None:
                terms.once.keep(connection, finish(done.answer))
            elif conditional:
                finish(done.answer)
        return done.answer

    return finish(database.write(alone if terms.are_free and not conditional else bound))


def read_done(row: Any) -> Done | None:
    """What a write's statement ends with, see ``records.py``; None where it did nothing."""
    if row is None:
        return None
    answer, vectors, size, all_vectors, all_bytes, max_vectors, max_bytes = row[:7]
    return Done(
        list(answer),
        Change(vectors=vectors, bytes=size, all_vectors=all_vectors, all_bytes=all_bytes),
        CollectionLimits(max_vectors=max_vectors, max_storage_bytes=max_bytes),
    )
