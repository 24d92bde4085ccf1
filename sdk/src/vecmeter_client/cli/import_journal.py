"""How far an import came, kept beside its file: what a rerun goes on from after any end of the process.

A file of JSON lines that is only appended to. The first names the import and what it is of; then each batch writes what
it is about to send, and after the answer what became of it, which is on the disk before the next batch goes out.
A last line that was cut off is as if it had not been written.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from vecmeter_client import Usage
from vecmeter_client.cli.files.rows import FileError, Position

_MAGIC, _FORMAT = "vecmeter_import", 1


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the rows so far; ``skipped_bytes`` is how long the file of those left out is."""

    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    skipped_bytes: int = 0
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class Journal:
    """``done``: all up to there is written. ``sent``: up to there something may be, for some answer was lost."""

    import_id: str
    done: Position | None = None
    sent: Position | None = None
    tally: Tally = field(default_factory=Tally)
    left_out: str | None = None  # the file of the rows left out: no other may be cut off where the tally says
    _sent_before: Position | None = None
    _file: IO[bytes] | None = None
    _path: Path | None = None

    @property
    def is_new(self) -> bool:
        return self.done is None and self.sent is None

    def sending(self, up_to: Position) -> None:
        """Before a batch is sent. A process that is killed has written it; it need not survive the machine."""
        self._sent_before = self.sent
        if self.sent is None or self.sent.offset < up_to.offset:
            self.sent = up_to
        self._append({"sending": asdict(up_to)})

    def withdraw(self) -> None:
        """The batch was refused, so nothing of it was written now; by a run before it may have been."""
        self.sent = self._sent_before
        self._append({"withdrawn": True})

    def leaving_out_to(self, path: str) -> None:
        self.left_out = path
        self._append({"left_out": path})

    def acknowledge(self, up_to: Position, tally: Tally) -> None:
        self.done, self.tally = up_to, tally
        if self.sent is not None and self.sent.offset <= up_to.offset:
            self.sent = None
        self._append({"done": asdict(up_to), "tally": asdict(tally)})
        if self._file is not None:
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """The import is complete: there is nothing to go on from."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take has been an error already
                self._file.close()

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._file is not None:
            with _named(self._path):
                self._file.write(json.dumps(entry).encode() + b"\n")
                self._file.flush()


def without_journal() -> Journal:
    """Of what cannot be read a second time."""
    return Journal(_new_id())


def open_journal(path: Path, target: Mapping[str, Any], *, restart: bool) -> Journal:
    """The journal of an import into ``target``, with the one before's state where that did not come to its end.

    Raises:
        FileError: it is another process's at the moment, is of another target, or is no journal.
        OSError: it cannot be written.
    """
    file = _open_locked(path)
    try:
        file.seek(0)
        content = file.read()
        entries = _entries(content, path)
        if entries and not restart:
            _check_target(entries[0], target, path)
            file.truncate(content.rindex(b"\n") + 1)  # without a last line that was cut off
        else:
            entries = [{_MAGIC: _FORMAT, "id": _new_id(), "target": dict(target)}]
            file.truncate(0)
            with _named(path):
                file.write(json.dumps(entries[0]).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        journal = Journal(entries[0]["id"])
        _replay(journal, entries[1:])
        journal._file, journal._path = file, path
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    return journal


@contextmanager
def _named(path: Path | None) -> Iterator[None]:
    """Let an error say which file it is about: of a full disk it does not."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _open_locked(path: Path) -> IO[bytes]:
    while True:
        file = path.open("a+b")
        try:
            _lock(file, path)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # another import was done with it, and deleted it, before it was ours


def _lock(file: IO[bytes], path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl  # not on Windows, where nothing keeps two imports of one file apart

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileError(f"{path} is in use: another import of this file is running") from None


def _entries(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Those that were written whole. Raises FileError for a file that no import wrote, which must stay as it is."""
    start = f'{{"{_MAGIC}": {_FORMAT},'.encode()
    try:
        if content[: len(start)] != start[: len(content)]:
            raise ValueError
        return [json.loads(line) for line in content.split(b"\n")[:-1]]
    except ValueError:
        raise FileError(f"{path} is not the journal of an import; name another with --journal") from None


def _check_target(first: Mapping[str, Any], target: Mapping[str, Any], path: Path) -> None:
    before = first["target"]
    for name, value in json.loads(json.dumps(target)).items():
        if name == "created_at" and None in (value, before.get(name)):
            continue  # one of the two runs had a key that cannot look
        if before.get(name) != value:
            raise FileError(
                f"{path} is of an import with {name} {before.get(name)!r}, not {value!r}: "
                "give what it had, begin anew with --restart, or name another with --journal"
            )


def _replay(journal: Journal, entries: list[dict[str, Any]]) -> None:
    """Bring a journal that has no file yet to where these entries left it."""
    for entry in entries:
        if "done" in entry:
            tally = entry["tally"]
            journal.acknowledge(Position(**entry["done"]), Tally(**(tally | {"usage": Usage(**tally["usage"])})))
        elif "sending" in entry:
            journal.sending(Position(**entry["sending"]))
        elif "left_out" in entry:
            journal.leaving_out_to(entry["left_out"])
        else:
            journal.withdraw()


def _new_id() -> str:
    return secrets.token_hex(8)
