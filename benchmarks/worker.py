"""A process that searches, as each client of a measurement is one: ``python -m benchmarks.worker SUBJECT PLACE``.

SUBJECT is ``module:class``, PLACE the class's arguments as JSON. Orders come in as lines of JSON, answers go out the
same way; what the subject itself prints is dropped. It runs in the environment of whatever it measures.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

WARM_UP = 20
# What every index is built with, and what a search gets where its subject cannot be told.
M, EF_CONSTRUCTION, EF_SEARCH = 16, 128, 100


class Subject(Protocol):
    """What is measured. ``effort`` is its own knob for recall against speed; None leaves it as it comes."""

    def load(self, vectors: Any) -> dict[str, float]:
        """Write the vectors, numbered from 0, and index them; how many seconds each took, and bytes on disk."""

    def aim(self, effort: int | None) -> None: ...

    def search(self, query: Any) -> list[int]:
        """The numbers of the 10 nearest."""


def load(subject: Subject, vectors: str) -> dict[str, Any]:
    return dict(subject.load(np.load(vectors, mmap_mode="r")))


def warm_up(subject: Subject, queries: str, effort: int | None) -> dict[str, Any]:
    """Take the effort for what follows, and have every cache filled."""
    subject.aim(effort)
    for query in _queries(queries)[:WARM_UP]:
        subject.search(query)
    return {}


def ask(subject: Subject, queries: str, first: int, last: int) -> dict[str, Any]:
    """Each of these queries once, with the milliseconds it took and what it found."""
    milliseconds, found = [], []
    for query in _queries(queries)[first:last]:
        started = time.perf_counter()
        ids = subject.search(query)
        milliseconds.append((time.perf_counter() - started) * 1000)
        found.append(ids)
    return {"ms": milliseconds, "found": found}


def keep_asking(subject: Subject, queries: str, start: float, seconds: float) -> dict[str, Any]:
    """Queries one after the other from ``start`` (of the clock all processes share) on: how many were answered."""
    asked, answered = _queries(queries), 0
    time.sleep(max(0.0, start - time.monotonic()))
    while time.monotonic() < start + seconds:
        # Each client begins elsewhere.
        subject.search(asked[(os.getpid() + answered) % len(asked)])
        answered += 1
    return {"answered": answered}


@functools.cache
def _queries(path: str) -> Any:
    return np.load(path)


ORDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "load": load,
    "warm_up": warm_up,
    "ask": ask,
    "keep_asking": keep_asking,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    module, name = sys.argv[1].split(":")
    subject = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(ORDERS[order.pop("do")](subject, **order)), file=answers, flush=True)


if __name__ == "__main__":
    main()
