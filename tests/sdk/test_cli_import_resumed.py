"""An import that was ended goes on where it stopped, with what it began with or not at all."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.cli_runs import Cli, Place, ids, some_rows, write_lines
from vecmeter_client import Client, Collection, ConnectionLostError, LimitExceededError, Upserted
from vecmeter_client.cli.files.formats import open_source
from vecmeter_client.cli.files.rows import FileError, Position
from vecmeter_client.cli.files.text_source import Columns
from vecmeter_client.cli.import_journal import Journal, Tally, open_journal
from vecmeter_client.cli.import_run import Import

TARGET = {"collection": "p/notes", "created_at": "2026-11-21T00:00:00+00:00"}


class Killed(BaseException):
    """In the place of a signal that nothing can catch."""


class Mortal:
    """A collection whose caller is killed at its n-th batch, before it is sent or when the answer is on its way."""

    def __init__(self, collection: Collection, at: int, *, after: bool) -> None:
        self._collection, self._left, self._after = collection, at, after

    def upsert(self, *arguments: Any, **options: Any) -> Upserted:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        written = self._collection.upsert(*arguments, **options)
        if self._left == 0:
            raise Killed
        return written


class Said:
    """What a run showed."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def moved(self, position: Position, tally: Tally) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(file: Path, collection: Any, sleep: Callable[[float], None] | None = None, **options: Any) -> Tally:
    """One run of an import of ``file``, three rows a batch, with the journal beside it."""
    with (
        closing(open_source(file, "csv" if file.suffix == ".csv" else "jsonl", Columns(), None)) as source,
        closing(open_journal(file.with_suffix(".journal"), TARGET, restart=False)) as journal,
    ):
        if not journal.is_new:
            start = journal.done or source.position
            assert source.skip_to(start, *([journal.sent] if journal.sent else [])) is None
        settings: dict[str, Any] = {
            "namespace": "",
            "batch_size": 3,
            "longest_wait": 3600,
            "display": Said(),
            "sleep": sleep or _no_sleep,
        } | options
        tally = Import(source=source, collection=collection, journal=journal, **settings).run()
        journal.finish()
        return tally


def _no_sleep(seconds: float) -> None:
    raise AssertionError(f"slept {seconds} s")


def _csv(file: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [f'{row["id"]},"{row["vector"]}","of two\nlines"' for row in rows]
    file.write_text("id,vector,document\n" + "\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "before the answer is there"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_ended_at_any_batch_each_vector_is_written_once_and_counted_once(
    place: Place, tmp_path: Path, suffix: str, after: bool
) -> None:
    rows = some_rows(10)
    file = tmp_path / f"rows.{suffix}"
    write_lines(file, rows) if suffix == "jsonl" else _csv(file, rows)
    for at in (1, 2, 1, 1):
        with pytest.raises(Killed):
            run(file, Mortal(place.collection, at, after=after))
    tally = run(file, place.collection)
    assert place.versions() == dict.fromkeys(ids(rows), 1)
    assert (tally.inserted, tally.updated, tally.usage.vectors) == (10, 0, 10)
    assert place.vectors_billed() == 10


def test_rows_that_the_service_refuses_are_left_out_once_whenever_it_is_ended(
    cli: Cli, place: Place, tmp_path: Path
) -> None:
    rows = [*some_rows(5), {"id": "short", "vector": [1]}, {"id": "v005", "vector": [6, 1, 0.5]}]
    file, skipped = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "skipped.jsonl"
    place.limit(daily_requests=4)  # two made and look at the collection; a batch, and one that is refused for its row
    options = ("--batch-size", 3, "--skip-invalid", skipped, "--max-wait", 0)
    assert cli("import", file, "notes", *options).code == 3
    place.limit()
    skipped.write_text('{"id": "short"')  # as if killed after writing it there, before recording it
    done = cli("import", file, "notes", *options, "--json")
    assert (done.code, done.json["inserted"], done.json["skipped"]) == (0, 6, 1)
    assert skipped.read_text() == '{"id": "short", "vector": [1]}\n'


def test_a_limit_with_room_soon_is_waited_for_as_long_as_the_service_says(place: Place, tmp_path: Path) -> None:
    rows = some_rows(9)
    file = write_lines(tmp_path / "rows.jsonl", rows)
    place.limit(requests_per_minute=2)
    slept: list[float] = []
    said = Said()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        place.limit()

    tally = run(file, place.collection_without_retries, sleep, display=said)
    assert (tally.inserted, place.versions()) == (9, dict.fromkeys(ids(rows), 1))
    assert len(slept) == 1
    assert 1 <= slept[0] <= 66
    [note] = said.notes
    assert note.startswith("requests_per_minute (project): 2 of 2 used; going on in ")


def test_a_journal_that_another_import_was_done_with_meanwhile_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "journal", fcntl.flock
    with closing(open_journal(path, TARGET, restart=False)) as other:

        def done_before_it_is_ours(file: Any, flags: int) -> None:
            monkeypatch.undo()
            other.acknowledge(Position(5, 1, "digest"), Tally(inserted=1))
            other.finish()
            lock(file, flags)

        monkeypatch.setattr(fcntl, "flock", done_before_it_is_ours)
        with closing(open_journal(path, TARGET, restart=False)) as journal:
            assert (journal.is_new, path.exists()) == (True, True)
            assert journal.import_id != other.import_id


def test_a_limit_that_is_reached_before_the_first_request_is_waited_for_too(
    cli: Cli, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lines(tmp_path / "rows.jsonl", some_rows(3))
    place.limit(requests_per_minute=1)
    with suppress(LimitExceededError):
        place.collection_without_retries.describe()
    assert cli("import", file, "notes", "--timeout", 1, "--max-wait", 0).code == 3
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        place.limit()

    monkeypatch.setattr(time, "sleep", wait)
    done = cli("import", file, "notes", "--timeout", 1)  # the client itself waits for no longer than twice that
    assert (done.code, len(waits), len(place.stored())) == (0, 1, 3), done.err
    assert "vecmeter: requests_per_minute (project): 1 of 1 used; going on in " in done.err


def test_a_limit_without_room_for_longer_than_asked_is_not_waited_for(place: Place, tmp_path: Path) -> None:
    place.limit(requests_per_minute=1)
    file = write_lines(tmp_path / "rows.jsonl", some_rows(6))
    with pytest.raises(LimitExceededError):
        run(file, place.collection_without_retries, longest_wait=0)


def test_a_service_that_is_away_for_a_moment_is_asked_again(place: Place, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rows.jsonl", some_rows(3))
    with Client("http://127.0.0.1:9", place.key, max_retries=0) as away:
        lost = away.project(place.project).collection("notes")
        slept: list[float] = []
        collections = iter([lost, lost, place.collection])
        tally = run(file, _Next(collections), slept.append)
    assert (tally.inserted, slept) == (3, [1.0, 2.0])


class _Next:
    """A collection that is another one each time it is written to."""

    def __init__(self, collections: Iterator[Collection]) -> None:
        self._collections = collections

    def upsert(self, *arguments: Any, **options: Any) -> Upserted:
        return next(self._collections).upsert(*arguments, **options)


class Unheard:
    """A collection whose first answer is lost, and which is at its limit then."""

    def __init__(self, place: Place) -> None:
        self._place, self._is_first = place, True

    def upsert(self, *arguments: Any, **options: Any) -> Upserted:
        written = self._place.collection_without_retries.upsert(*arguments, **options)
        assert self._is_first
        self._is_first = False
        self._place.limit(daily_requests=1)
        lost = ConnectionLostError("lost")
        lost.committed = None
        raise lost from Exception(written)


def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_written(place: Place, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rows.jsonl", some_rows(3))
    with pytest.raises(LimitExceededError):
        run(file, Unheard(place), lambda seconds: None, longest_wait=0)
    with closing(open_journal(file.with_suffix(".journal"), TARGET, restart=False)) as journal:
        assert (journal.done, journal.sent and journal.sent.number) == (None, 3)
    place.limit()
    assert run(file, place.collection).inserted == 3
    assert place.vectors_billed() == 3


def test_what_an_earlier_run_may_have_written_stays_in_doubt_until_it_is_passed() -> None:
    journal = Journal("id")
    near, far, beyond = (Position(n, n, str(n)) for n in (1, 2, 3))
    journal.sending(far)  # and the process is killed
    journal.sending(near)  # by smaller batches
    journal.withdraw()
    assert journal.sent == far
    journal.sending(near)
    journal.acknowledge(near, Tally())
    assert journal.sent == far
    journal.sending(beyond)
    journal.withdraw()
    assert journal.sent == far
    journal.acknowledge(beyond, Tally())
    assert journal.sent is None


class TestAChangedFile:
    @pytest.fixture
    def stopped(self, cli: Cli, place: Place, tmp_path: Path) -> Path:
        """A file of nine rows of which six are written."""
        file = write_lines(tmp_path / "rows.jsonl", some_rows(9))
        place.limit(daily_requests=4)  # two made and look at the collection
        assert cli("import", file, "notes", "--batch-size", 3, "--max-wait", 0).code == 3
        place.limit()
        assert len(place.stored()) == 6
        return file

    def test_whose_written_part_has_changed_is_refused_with_the_reason(
        self, cli: Cli, place: Place, stopped: Path
    ) -> None:
        rows = some_rows(9)
        rows[1]["vector"] = [9, 9, 9]
        write_lines(stopped, rows)
        done = cli("import", stopped, "notes")
        assert (done.code, "has changed since its import began, within the 6 lines" in done.err) == (2, True)
        assert len(place.stored()) == 6
        assert cli("import", stopped, "notes", "--restart").code == 0
        assert place.stored()["v001"]["vector"] == [9, 9, 9]
        assert len(place.stored()) == 9

    def test_that_has_become_shorter_is_refused(self, cli: Cli, stopped: Path) -> None:
        write_lines(stopped, some_rows(5))
        assert cli("import", stopped, "notes").code == 2

    def test_that_has_grown_is_imported_to_its_end(self, cli: Cli, place: Place, stopped: Path) -> None:
        write_lines(stopped, some_rows(12))
        assert cli("import", stopped, "notes").code == 0
        assert place.versions() == dict.fromkeys(ids(some_rows(12)), 1)

    @pytest.mark.parametrize(
        ("options", "name"), [(("--namespace", "other"), "namespace"), (("--format", "csv"), "format")]
    )
    def test_is_not_gone_on_with_into_another_place_or_read_otherwise(
        self, cli: Cli, stopped: Path, options: tuple[str, ...], name: str
    ) -> None:
        if name == "format":
            stopped.write_text("id,vector\n")
        done = cli("import", stopped, "notes", *options)
        assert (done.code, f"is of an import with {name} " in done.err) == (2, True)

    def test_is_not_gone_on_with_into_a_collection_that_was_made_anew(self, cli: Cli, stopped: Path) -> None:
        assert cli("collections", "delete", "notes", "--yes").code == 0
        assert cli("collections", "create", "notes", "--dimension", 3).code == 0
        done = cli("import", stopped, "notes")
        assert (done.code, "created_at" in done.err) == (2, True)
        assert cli("import", stopped, "notes", "--restart", "--json").json["inserted"] == 9


def test_a_batch_of_which_nobody_knows_whether_it_was_written_must_not_change(
    place: Place, tmp_path: Path, cli: Cli
) -> None:
    rows = some_rows(6)
    file = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(Killed):
        run(file, Mortal(place.collection, 2, after=True))
    rows[4]["id"] = "other"
    write_lines(file, rows)
    with closing(open_source(file, "jsonl", Columns(), None)) as source:
        journal = open_journal(file.with_suffix(".journal"), TARGET, restart=False)
        with closing(journal):
            assert journal.done is not None
            assert journal.sent is not None
            assert source.skip_to(journal.done) is None
        with closing(open_source(file, "jsonl", Columns(), None)) as fresh:
            assert fresh.skip_to(journal.done, journal.sent) == journal.sent


class TestTheJournal:
    def test_cut_off_anywhere_is_that_of_its_last_whole_line(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        positions = [Position(n, n, f"{n:064}") for n in range(1, 4)]
        journal = open_journal(path, TARGET, restart=False)
        with closing(journal):
            for position in positions:
                journal.sending(position)
                journal.acknowledge(position, Tally(inserted=position.number))
        whole = path.read_bytes()
        states = set()
        for length in range(whole.index(b"\n") + 1, len(whole) + 1):
            path.write_bytes(whole[:length])
            with closing(open_journal(path, TARGET, restart=False)) as cut:
                lines = whole[:length].count(b"\n") - 1
                assert cut.import_id == journal.import_id
                assert cut.done == (positions[lines // 2 - 1] if lines >= 2 else None)
                assert cut.sent == (positions[lines // 2] if lines % 2 else None)
                assert cut.tally.inserted == lines // 2
                states.add(lines)
                cut.sending(Position(9, 9, "9"))  # a run after a torn line writes whole ones
            with closing(open_journal(path, TARGET, restart=False)) as again:
                assert again.sent == Position(9, 9, "9")
        assert states == set(range(7))

    def test_cut_off_in_its_first_line_is_a_new_one(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        open_journal(path, TARGET, restart=False).close()
        path.write_bytes(path.read_bytes()[:20])
        with closing(open_journal(path, TARGET, restart=False)) as journal:
            assert journal.is_new

    @pytest.mark.parametrize("content", [b"hello", b'{"id": "a"}\n', b'{"vecmeter_import": 1, nonsense\n'])
    @pytest.mark.parametrize("restart", [False, True])
    def test_a_file_that_is_none_is_refused_and_left_as_it_is(
        self, tmp_path: Path, content: bytes, restart: bool
    ) -> None:
        path = tmp_path / "journal"
        path.write_bytes(content)
        with pytest.raises(FileError, match="not the journal of an import"):
            open_journal(path, TARGET, restart=restart)
        assert path.read_bytes() == content

    def test_belongs_to_one_import_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        with closing(open_journal(path, TARGET, restart=False)), pytest.raises(FileError, match="is running"):
            open_journal(path, TARGET, restart=True)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_is_on_the_disk_before_the_next_batch_goes_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[int] = []
        monkeypatch.setattr("os.fsync", synced.append)
        with closing(open_journal(tmp_path / "journal", TARGET, restart=False)) as journal:
            before = len(synced)
            journal.sending(Position(1, 1, "1"))
            assert len(synced) == before
            journal.acknowledge(Position(1, 1, "1"), Tally())
            assert len(synced) == before + 1


def test_without_a_journal_nothing_is_kept() -> None:
    journal = Journal("id")
    journal.sending(Position(1, 1, "1"))
    journal.acknowledge(Position(1, 1, "1"), Tally(inserted=1))
    journal.finish()
    assert journal.tally.inserted == 1
