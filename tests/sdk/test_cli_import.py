"""``vecmeter import``: what it takes, what it refuses, and that what it was told to import is what is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.cli_runs import COMMAND, Cli, Place, ids, process, some_rows, start, write_lines

pytest_plugins: list[str] = []

JOURNAL = "rows.jsonl.vecmeter-import"
HEEDING_INTERRUPTS = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


def test_every_field_of_a_line_arrives(cli: Cli, place: Place, tmp_path: Path) -> None:
    expires_at = "2099-01-02T03:04:05Z"
    row = {
        "id": "ä",
        "vector": [1, 2.5, -3],
        "document": "Größe",
        "metadata": {"a": [1, None]},
        "expires_at": expires_at,
    }
    file = write_lines(tmp_path / "rows.jsonl", [row, {"id": "b", "vector": "AACAPwAAAAAAAAAA", "namespace": "other"}])
    done = cli("import", file, "notes", "--json")
    assert (done.code, done.json["inserted"], done.json["usage"]["vectors"]) == (0, 2, 2)
    [(key, stored)] = place.stored().items()
    assert (key, stored["vector"], stored["document"], stored["metadata"]) == (
        "ä",
        [1, 2.5, -3],
        "Größe",
        {"a": [1, None]},
    )
    assert stored["expires_at"].isoformat() == "2099-01-02T03:04:05+00:00"
    assert place.stored("other")["b"]["vector"] == [1, 0, 0]


def test_a_document_is_embedded_by_the_service(cli: Cli, tmp_path: Path) -> None:
    assert cli("collections", "create", "texts", "--embedder", "built-in").code == 0
    file = write_lines(tmp_path / "rows.jsonl", [{"id": "a", "document": "The invoice is due."}])
    assert cli("import", file, "texts").code == 0
    assert [one["id"] for one in cli("search", "texts", "--text", "invoice", "--json").json["matches"]] == ["a"]


def test_stdin_is_read_as_json_lines_and_leaves_no_journal(place: Place, tmp_path: Path) -> None:
    text = json.dumps({"id": "a", "vector": [1, 2, 3]})
    done = process("import", "-", "notes", environment=place.environment(), input=text, cwd=tmp_path)
    assert (done.code, list(place.stored()), list(tmp_path.iterdir())) == (0, ["a"], [])
    refused = process("import", "-", "notes", "--restart", environment=place.environment(), input=text)
    assert (refused.code, "pipe" in refused.err) == (2, True)


def test_csv_with_quoted_lines_json_cells_and_columns_of_metadata(cli: Cli, place: Place, tmp_path: Path) -> None:
    text = (
        "id;vector;document;metadata.kind;year;left\r\n"
        'a;[1,2,3];"two\nlines; and ""quotes""";memo;2024;x\r\n'
        "b;AACAPwAAAAAAAAAA;;;;y\r\n"
    )
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    options = ("--delimiter", ";", "--metadata-columns", "year", "--ignore-columns", "left")
    assert cli("import", file, "notes", *options).code == 0
    stored = place.stored()
    assert stored["a"]["document"] == 'two\nlines; and "quotes"'
    assert (stored["a"]["metadata"], stored["b"]["metadata"]) == ({"kind": "memo", "year": "2024"}, {})
    assert (stored["b"]["vector"], stored["b"]["document"]) == ([1, 0, 0], None)
    assert cli("import", file, "notes", *options, "--infer-types").code == 0
    assert place.stored()["a"]["metadata"] == {"kind": "memo", "year": 2024}


def test_only_what_reads_like_json_numbers_and_booleans_is_inferred(cli: Cli, place: Place, tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    cells = ["1", "-2.5e3", "true", "True", "007", "nan", "1_000", " 1", "+1"]
    names = [f"metadata.{index}" for index in range(len(cells))]
    file.write_text("\t".join(["id", "x", "y", "z", *names]) + "\n" + "\t".join(["a", "1", "2", "0", *cells]) + "\n")
    assert cli("import", file, "notes", "--vector-columns", "x,y,z", "--infer-types").code == 0
    [stored] = place.stored().values()
    assert list(stored["metadata"].values()) == [1, -2500.0, True, "True", "007", "nan", "1_000", " 1", "+1"]
    assert stored["vector"] == [1, 2, 0]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"id": "a", "vector": [NaN, 1, 1]}', "NaN is no JSON number"),
        ('{"id": "a"}', "has neither vector nor document"),
        ('{"vector": [1, 2, 3]}', "id: is missing"),
        ('{"id": 7, "vector": [1, 2, 3]}', "id: must be a text"),
        ('{"id": "a", "vector": [1, true, 3]}', "vector: must be a list of numbers"),
        ('{"id": "a", "vector": [1, 2, 3], "metadata": 1}', "metadata: must be an object"),
        ('{"id": "a", "vector": [1, 2, 3], "tags": []}', "has the field 'tags'"),
        ('{"id": "a", "vector": [1, 2]}', "vector: has 2 dimensions; the collection has 3"),
        ('{"id": "a", "vector": [0, 0, 0]}', "vector: is a zero vector"),
        ('{"id": "a", "vector": [1, 2, 3], "metadata": {"a": "\\ud800"}}', "lone surrogate"),
        ('{"id": "a", "vector": [1, 2, 3], "expires_at": "tomorrow"}', "expires_at"),
    ],
)
def test_a_bad_line_is_named_with_its_fault_and_what_comes_after_it_is_not_written(
    cli: Cli, place: Place, tmp_path: Path, line: str, fault: str
) -> None:
    rows = some_rows(4)
    file = write_lines(tmp_path / "rows.jsonl", [*rows[:2], "", line, *rows[2:]])
    done = cli("import", file, "notes", "--batch-size", 2)
    assert done.code == 1
    assert "  line 4: " in done.err
    assert fault in done.err
    assert list(place.stored()) == ids(rows[:2])
    assert cli("import", file, "notes", "--json").problem["code"] == "invalid_rows"


@pytest.mark.parametrize(
    ("bad", "resumed_after"), [({"id": "v007"}, 7), ({"id": "v007", "vector": [1]}, 6)], ids=["unsendable", "refused"]
)
def test_a_line_that_is_mended_lets_the_import_go_on_without_writing_anything_twice(
    cli: Cli, place: Place, tmp_path: Path, bad: dict[str, Any], resumed_after: int
) -> None:
    rows = some_rows(9)
    file = write_lines(tmp_path / "rows.jsonl", [*rows[:7], bad, rows[8]])
    assert cli("import", file, "notes", "--batch-size", 3).code == 1
    write_lines(file, rows)
    done = cli("import", file, "notes", "--batch-size", 3, "--json")
    assert (done.code, done.json["inserted"], done.json["updated"]) == (0, 9, 0)
    assert done.json["resumed_after"] == resumed_after
    assert place.versions() == dict.fromkeys(ids(rows), 1)
    assert not (tmp_path / JOURNAL).exists()


def test_bad_rows_are_written_to_the_file_that_is_named_and_all_others_are_imported(
    cli: Cli, place: Place, tmp_path: Path
) -> None:
    rows: list[Any] = [*some_rows(7)]
    rows[1], rows[3], rows[5] = "nonsense", {"id": "v003", "vector": [1]}, {"id": "v005", "vector": [0, 0, 0]}
    file, skipped = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "skipped.jsonl"
    done = cli("import", file, "notes", "--batch-size", 4, "--skip-invalid", skipped, "--json")
    assert (done.code, done.json["inserted"], done.json["skipped"]) == (0, 4, 3)
    assert list(place.stored()) == ["v000", "v002", "v004", "v006"]
    assert skipped.read_text().splitlines() == [file.read_text().splitlines()[at] for at in (1, 3, 5)]
    again = cli("import", file, "notes", "--skip-invalid", skipped)
    assert (again.code, "exists already" in again.err) == (2, True)


@pytest.mark.parametrize("victim", ["rows.jsonl", "notes.txt"])
def test_rows_left_out_are_written_over_no_file_that_is_not_this_imports_own(
    cli: Cli, place: Place, tmp_path: Path, victim: str
) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [*some_rows(1), "nonsense", *some_rows(1)])
    (tmp_path / "notes.txt").write_text("what somebody wrote")
    before = (tmp_path / victim).read_text()
    assert cli("import", file, "notes").code == 1  # the journal of this run knows of no file for rows left out
    done = cli("import", file, "notes", "--skip-invalid", tmp_path / victim)
    assert (done.code, "exists already" in done.err) == (2, True)
    assert (tmp_path / victim).read_text() == before
    assert cli("import", file, "notes", "--skip-invalid", tmp_path / "left-out.jsonl").code == 0


def test_skipped_rows_of_csv_are_a_file_that_can_be_imported_when_mended(
    cli: Cli, place: Place, tmp_path: Path
) -> None:
    file, skipped = tmp_path / "rows.csv", tmp_path / "skipped.csv"
    file.write_text('id,vector\na,"[1,2,3]"\nb,"[1,2"\nc\n')
    assert cli("import", file, "notes", "--skip-invalid", skipped).code == 0
    assert skipped.read_text() == 'id,vector\nb,"[1,2"\nc\n'
    skipped.write_text(skipped.read_text().replace('"[1,2"', '"[1,2,3]"').removesuffix("c\n"))
    assert cli("import", skipped, "notes").code == 0
    assert list(place.stored()) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "options", "fault"),
    [
        ("rows.csv", "id,vector,colour\n", (), "nothing is said of the columns colour"),
        ("rows.csv", "vector\n", (), "there is no column id"),
        ("rows.csv", "id,vector,metadata.gr\udcf6sse\n", (), "the header is not UTF-8"),
        ("rows.csv", "id,id,vector\n", (), "more than once"),
        ("rows.csv", "id,vector,x\n", ("--vector-columns", "x"), "a column vector beside --vector-columns"),
        ("rows.csv", "id,metadata.x,x\n", ("--metadata-columns", "x"), "more than one column is the field x"),
        ("rows.csv", "id,vector\n", ("--metadata-columns", "y"), "there is no column y"),
        ("rows.csv", "id,vector\n", ("--delimiter", "||"), "--delimiter must be a single character"),
        ("rows.jsonl", "", ("--infer-types",), "columns are of CSV"),
        ("rows.jsonl", "", ("--delimiter", ";"), "--delimiter and --infer-types are of CSV"),
        ("rows.txt", "", (), "the suffix tells no format"),
        ("rows.jsonl", "x" * (8 * 1024 * 1024 + 1), (), "line 1 is longer than 8,388,608 bytes"),
        ("rows.parquet", "", (), "pip install 'vecmeter-client[parquet]'"),
    ],
)
def test_a_file_that_cannot_be_read_as_told_is_refused_with_the_reason(
    cli: Cli, tmp_path: Path, name: str, text: str, options: tuple[str, ...], fault: str
) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    done = cli("import", tmp_path / name, "notes", *options)
    assert (done.code, fault in done.err) == (2, True), done.err


def test_a_collection_that_is_not_there_ends_it_before_a_journal_is_made(cli: Cli, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rows.jsonl", some_rows(1))
    assert cli("import", file, "nothing").code == 1
    assert not (tmp_path / "rows.jsonl.vecmeter-import").exists()


def test_a_key_that_may_only_write_imports(cli: Cli, place: Place, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rows.jsonl", some_rows(3))
    assert cli("import", file, "notes", "--key", place.live.key(place.project, ["write"])).code == 0
    assert len(place.stored()) == 3


def test_killed_at_any_moment_and_run_again_each_vector_is_written_once_and_billed_once(
    place: Place, tmp_path: Path
) -> None:
    rows = some_rows(60)
    file, journal = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / JOURNAL
    command = ("import", file, "notes", "--batch-size", 3)
    kills = 0
    for event, seen in ((b'{"sending"', 2), (b'{"done"', 5), (b'{"sending"', 9), (b'{"done"', 12)):
        running = start(*command, environment=place.environment())
        _wait_for(journal, event, seen, running)
        running.send_signal(signal.SIGKILL)
        kills += running.wait() == -signal.SIGKILL
    done = process(*command, "--json", environment=place.environment())
    assert (kills, done.code) == (4, 0), done.err
    assert (done.json["inserted"], done.json["updated"]) == (60, 0)
    assert place.versions() == dict.fromkeys(ids(rows), 1)
    assert place.vectors_billed() == 60
    assert not journal.exists()


def test_a_full_disk_is_named_with_the_journal_and_costs_no_vector_twice(place: Place, tmp_path: Path) -> None:
    rows = some_rows(20)
    file = write_lines(tmp_path / "rows.jsonl", rows)
    command = ("import", file, "notes", "--batch-size", 1)
    limited = ("sh", "-c", f'ulimit -f 1; exec {COMMAND} "$@"', "sh")
    environment = place.environment(PYTHONDONTWRITEBYTECODE="1")  # a compiled module would be cut off, and kept
    stopped = process(*command, environment=environment, command=limited)
    assert stopped.code == 2
    assert stopped.err.startswith(f"vecmeter: {tmp_path / JOURNAL}: File too large\nimported so far: "), stopped.err
    assert process(*command, environment=place.environment()).code == 0
    assert place.versions() == dict.fromkeys(ids(rows), 1)
    assert place.vectors_billed() == 20


def _wait_for(journal: Path, event: bytes, seen: int, running: subprocess.Popen[bytes]) -> None:
    """Until the journal has so many lines of a kind."""
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(event) >= seen):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_interrupted_it_says_how_far_it_came_and_how_to_go_on(place: Place, tmp_path: Path) -> None:
    place.limit(requests_per_minute=20)  # so that it cannot come to its end before it is interrupted
    file = write_lines(tmp_path / "rows.jsonl", some_rows(200))
    command = ("import", file, "notes", "--batch-size", 1)
    # What runs the tests in the background may let them, and what they start, pass over this signal.
    heeding = [sys.executable, "-c", HEEDING_INTERRUPTS]
    running = subprocess.Popen(
        [*heeding, COMMAND, *map(str, command)], env=place.environment(), stderr=subprocess.PIPE, text=True
    )
    with running:
        _wait_for(tmp_path / JOURNAL, b'"done"', 1, running)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Interrupted" in said
    assert "; the same command goes on from there" in said


def test_a_limit_that_resets_too_late_stops_it_with_3_and_a_later_run_goes_on(
    cli: Cli, place: Place, tmp_path: Path
) -> None:
    place.limit(daily_requests=4)
    file = write_lines(tmp_path / "rows.jsonl", some_rows(10))
    stopped = cli("import", file, "notes", "--batch-size", 2, "--max-wait", 0)
    assert stopped.code == 3
    assert "daily_requests (project): 4 of 4 used, resets at" in stopped.err
    assert "; the same command goes on from there" in stopped.err
    assert (tmp_path / JOURNAL).exists()
    place.limit()
    done = cli("import", file, "notes", "--batch-size", 2, "--json")
    assert (done.code, done.json["inserted"], done.json["updated"]) == (0, 10, 0)
    assert place.versions() == dict.fromkeys(ids(some_rows(10)), 1)


def test_a_full_stock_stops_it_at_once_since_nobody_knows_when_there_will_be_room(
    cli: Cli, place: Place, tmp_path: Path
) -> None:
    place.limit(max_vectors=5)
    file = write_lines(tmp_path / "rows.jsonl", some_rows(10))
    done = cli("import", file, "notes", "--batch-size", 2)
    assert (done.code, "max_vectors (project)" in done.err, len(place.stored())) == (3, True, 4)
