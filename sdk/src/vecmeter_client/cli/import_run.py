"""An import: rows in batches, each sent until it is written, each recorded before the next."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from vecmeter_client import (
    ApiError,
    Collection,
    InternalError,
    InvalidInputError,
    InvalidRequestError,
    LimitExceededError,
    Partial,
    PayloadTooLargeError,
    RequestError,
    TransportError,
    UnavailableError,
    Upserted,
    VecmeterError,
)
from vecmeter_client.cli.failures import ExitCode, StoppedError
from vecmeter_client.cli.files.rows import FaultyRow, FileError, Position, Row, Source
from vecmeter_client.cli.import_journal import Journal, Tally

# Of the file, so that what is in memory is bounded; the client splits a batch further where it is too large to send.
_BATCH_BYTES = 4 * 1024 * 1024
_TRIES = 4
_FIRST_WAIT = 1.0
_SHOWN_FAULTS = 20
_STOCK = frozenset({"max_vectors", "max_storage_bytes", "max_vectors_per_collection"})
_ITEM = re.compile(r"vectors\.(\d+)\.?(.*)")


class Display(Protocol):
    def moved(self, position: Position, tally: Tally) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows, the faulty ones among them, and where they begin and end."""

    rows: Sequence[Row]
    faulty: Sequence[FaultyRow]
    start: Position
    end: Position


class SkippedRows:
    """The file of rows that were left out, which a later run goes on with where the journal says."""

    def __init__(self, path: Path, source: Source, journal: Journal) -> None:
        tally = journal.tally
        name = str(path.resolve())
        if name != journal.left_out and path.exists() and path.stat().st_size:
            raise FileError(f"{path} exists already; rows that are left out go to a file of their own")
        if tally.skipped_bytes and (not path.exists() or path.stat().st_size < tally.skipped_bytes):
            raise FileError(f"{path} has not the {tally.skipped} rows that this import has left out so far")
        journal.leaving_out_to(name)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(tally.skipped_bytes)
        self._file.seek(0, 2)
        self._header = source.header_of_faulty()

    def add(self, rows: Iterable[FaultyRow]) -> int:
        """Returns how long the file is now."""
        for row in sorted(rows, key=lambda row: row.number):
            if not self._file.tell():
                self._file.write(self._header)
            self._file.write(row.raw if row.raw.endswith(b"\n") else row.raw + b"\n")
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One run of an import.

    Attributes:
        longest_wait: seconds; a limit that has no room for longer ends the run.
        skipped: where rows go that are no vectors; None: the first of them ends the run.
    """

    source: Source
    collection: Collection
    namespace: str
    batch_size: int
    longest_wait: float
    journal: Journal
    display: Display
    skipped: SkippedRows | None = None
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> Tally:
        """Import what is not imported yet.

        Raises:
            StoppedError: at a row that is no vector.
            FileError: the rest of the file cannot be read.
            VecmeterError: the service does not take a batch, for a reason that is none of its rows; LimitExceededError
                where there is no room for longer than ``longest_wait``.
        """
        for batch in self._batches():
            self._write(batch)
            self.display.moved(batch.end, self.journal.tally)
        return self.journal.tally

    def _batches(self) -> Iterator[Batch]:
        """Raises StoppedError at a faulty row that nobody wants skipped, after what is before it."""
        start = end = self.source.position
        rows: list[Row] = []
        faulty: list[FaultyRow] = []
        size = 0
        for row in self.source.rows():
            if isinstance(row, Row):
                rows.append(row)
            elif self.skipped is None:
                if rows:
                    yield Batch(rows, (), start, end)
                raise self._stopped([row])
            else:
                faulty.append(row)
            end = self.source.position
            size += len(row.raw)
            if len(rows) + len(faulty) == self.batch_size or size >= _BATCH_BYTES:
                yield Batch(rows, faulty, start, end)
                start, rows, faulty, size = end, [], [], 0
        if rows or faulty:
            yield Batch(rows, faulty, start, end)

    def _write(self, batch: Batch) -> None:
        """Send a batch, without the rows that the service refuses if those are to be skipped, and record it."""
        rows, faulty = list(batch.rows), list(batch.faulty)
        written = Upserted()
        self.journal.sending(batch.end)
        for turn in itertools.count():
            if not rows:
                break
            try:
                written = _sum(written, self._send(rows, f"{self._key(batch)}-{turn}"))
                break
            except VecmeterError as error:
                before = error.partial or Partial(upserted=Upserted(), next_index=0)
                written = _sum(written, before.upserted)
                if written == Upserted() and not (isinstance(error, RequestError) and error.committed is not False):
                    self.journal.withdraw()
                refused = _refused(error, rows)
                if not refused:
                    raise
                if self.skipped is None:
                    raise self._stopped(refused) from error
                numbers = {row.number for row in refused}
                rows = [row for row in rows[before.next_index :] if row.number not in numbers]
                faulty += refused
                self.journal.sending(batch.end)
        self._record(batch, written, faulty)

    def _record(self, batch: Batch, written: Upserted, faulty: Sequence[FaultyRow]) -> None:
        tally = self.journal.tally
        skipped_bytes = self.skipped.add(faulty) if self.skipped and faulty else tally.skipped_bytes
        tally = Tally(
            inserted=tally.inserted + written.inserted,
            updated=tally.updated + written.updated,
            skipped=tally.skipped + len(faulty),
            skipped_bytes=skipped_bytes,
            usage=tally.usage + written.usage,
        )
        self.journal.acknowledge(batch.end, tally)

    def _key(self, batch: Batch) -> str:
        """One for these rows of this import: a run after this one sends them again, and they are written once."""
        return f"import-{self.journal.import_id}-{batch.start.offset}-{batch.end.offset}-{batch.end.digest[:32]}"

    def _send(self, rows: Sequence[Row], key: str) -> Upserted:
        vectors = [row.vector for row in rows]
        failures, lost = 0, False
        while True:
            try:
                return self.collection.upsert(vectors, namespace=self.namespace, idempotency_key=key)
            except LimitExceededError as error:
                if lost:
                    error.committed = None  # this attempt wrote nothing; one before it may have
                self._wait(*room_after(error, self.longest_wait))
            except (UnavailableError, InternalError, TransportError) as error:
                failures += 1
                lost = lost or error.committed is not False
                if lost:
                    error.committed = None
                if failures == _TRIES:
                    raise
                named = error.retry_after if isinstance(error, ApiError) else None
                self._wait(named or _FIRST_WAIT * 2 ** (failures - 1), str(error))

    def _wait(self, seconds: float, reason: str) -> None:
        wait(seconds, reason, self.display.note, self.sleep)

    def _stopped(self, rows: Sequence[FaultyRow]) -> StoppedError:
        word = self.source.word
        faults = [(f"{word} {row.number}", row.fault) for row in rows[:_SHOWN_FAULTS]]
        more = f", the first {_SHOWN_FAULTS} of them" if len(rows) > _SHOWN_FAULTS else ""
        what = f"{len(rows)} {word}s hold" if len(rows) > 1 else f"{word} {rows[0].number} holds"
        detail = f"{what} no vector that can be written{more}; the import stopped there"
        return StoppedError(ExitCode.REFUSED, "invalid_rows", detail, faults)


def room_after(error: LimitExceededError, longest_wait: float) -> tuple[float, str]:
    """Seconds until a limit has room, and which it is. Raises the error where that is longer, or nobody knows."""
    seconds = error.retry_after or _FIRST_WAIT
    # Nobody knows when something will be deleted: what the service names there is a guess.
    if seconds > longest_wait or any(policy.name in _STOCK for policy in error.violated_policies):
        raise error
    limits = [f"{one.name} ({one.scope}): {one.used:g} of {one.limit:g} used" for one in error.violated_policies]
    return seconds, "; ".join(limits) or error.detail


def wait(
    seconds: float, reason: str, note: Callable[[str], None], sleep: Callable[[float], None] | None = None
) -> None:
    """Wait, and say why and until when."""
    then = datetime.now(UTC) + timedelta(seconds=seconds)
    note(f"{reason}; going on in {seconds:.0f} s, at {then:%H:%M:%S} UTC")
    (sleep or time.sleep)(seconds)


def _sum(one: Upserted, other: Upserted) -> Upserted:
    return Upserted(
        inserted=one.inserted + other.inserted, updated=one.updated + other.updated, usage=one.usage + other.usage
    )


def _refused(error: VecmeterError, rows: Sequence[Row]) -> list[FaultyRow]:
    """The rows an error is about, in order; none: it is about something else."""
    places: list[tuple[str, str]] = []
    if isinstance(error, InvalidRequestError | PayloadTooLargeError):
        places = [(violation.path, violation.message) for violation in error.violations]
    elif isinstance(error, InvalidInputError):
        path, _, message = str(error).partition(": ")
        places = [(path, message)]
    faults: dict[int, list[str]] = {}
    for path, message in places:
        if found := _ITEM.fullmatch(path):
            faults.setdefault(int(found[1]), []).append(f"{found[2]}: {message}" if found[2] else message)
    return [
        FaultyRow(rows[index].number, "; ".join(messages), rows[index].raw or _as_line(rows[index]))
        for index, messages in sorted(faults.items())
        if index < len(rows)
    ]


def _as_line(row: Row) -> bytes:
    return json.dumps(row.vector, ensure_ascii=False).encode(errors="replace") + b"\n"
