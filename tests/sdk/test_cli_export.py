"""``vecmeter export``, and that what it wrote is what an import reads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.cli_runs import COMMAND, Cli, Place, Run, process, with_pyarrow, write_lines
from tests.fixtures.clients import python_of
from vecmeter_client import Vector

ROWS = [
    Vector("plain", [1, 2, 3]),
    Vector('quotes, "commas"; and\nlines', [0.1, -2.5e-7, 3e7], document="=1+1\tÄ 漢 🙂\r\n", metadata={"a,b": "c\nd"}),
    Vector(
        "metadata",
        [1e-12, 1, 0],
        metadata={"n": 1, "x": 1.5, "t": "1", "no": False, "list": [1, "2", None], "in": {"a": {}}},
    ),
    Vector("expiring", [1, 1, 1], expires_at="2099-01-01T00:00:00.123456Z", document=" "),
]

Command = Callable[..., Run]


@pytest.fixture(params=["jsonl", "csv", "tsv", "parquet"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def command(suffix: str, place: Place, cli: Cli) -> Command:
    """The command in an environment that can write the format."""
    if suffix != "parquet":
        return cli
    return lambda *arguments: with_pyarrow(*arguments, environment=place.environment())


def test_what_is_exported_and_imported_is_what_was_there(
    command: Command, cli: Cli, place: Place, tmp_path: Path, suffix: str
) -> None:
    place.collection.upsert(ROWS)
    file = tmp_path / f"rows.{suffix}"
    assert command("export", "notes", file, "--json").json["vectors"] == len(ROWS)
    assert cli("collections", "create", "copy", "--dimension", 3, "--embedder", "none").code == 0
    done = command("import", file, "copy", "--json")
    assert (done.code, done.json["inserted"]) == (0, len(ROWS)), done.err
    copy = replace(place, collection=place.client.project(place.project).collection("copy"))
    assert copy.stored() == place.stored()


def test_an_export_of_more_than_a_page_has_every_vector_once(cli: Cli, place: Place, tmp_path: Path) -> None:
    place.collection.upsert((f"v{n:04}", [n + 1, 1, 1]) for n in range(1203))
    assert cli("export", "notes", tmp_path / "rows.csv", "--no-vectors").code == 0
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines == ["id,document,metadata,namespace,expires_at", *(f"v{n:04},,,," for n in range(1203))]


def test_one_namespace_all_of_them_or_a_prefix(cli: Cli, place: Place, tmp_path: Path) -> None:
    place.collection.upsert([Vector("a1", [1, 1, 1]), Vector("a2", [1, 1, 1], namespace="x"), Vector("b", [1, 1, 1])])

    def exported(*options: str) -> list[tuple[str, str]]:
        done = cli("export", "notes", "-", *options)
        assert done.code == 0
        return [(row["id"], row.get("namespace", "")) for row in done.lines]

    assert exported() == [("a1", ""), ("b", "")]
    assert exported("--namespace", "x") == [("a2", "x")]
    assert exported("--prefix", "a") == [("a1", "")]
    assert exported("--all-namespaces") == [("a1", ""), ("b", ""), ("a2", "x")]
    assert cli("export", "notes", "-", "--namespace", "x", "--all-namespaces").code == 2


def test_the_file_is_there_when_it_is_complete_and_not_before(cli: Cli, place: Place, tmp_path: Path) -> None:
    place.collection.upsert([Vector("a", [1, 1, 1]), Vector("b", [1, 1, 1], document="")])
    assert "empty text, which CSV cannot tell from none" in cli("export", "notes", tmp_path / "rows.csv").err
    assert cli("export", "nothing", tmp_path / "rows.jsonl").code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_overwritten_unasked_and_survives_a_failure(
    cli: Cli, place: Place, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "rows.jsonl", ["before"])
    assert cli("export", "notes", file).code == 2
    assert cli("export", "nothing", file, "--overwrite").code == 1
    assert file.read_text() == "before\n"
    assert cli("export", "notes", file, "--overwrite").code == 0
    assert file.read_text() == ""


def test_what_is_no_file_stays_and_of_a_link_what_it_names_is_replaced(cli: Cli, place: Place, tmp_path: Path) -> None:
    place.collection.upsert(ROWS)
    pipe, link, named = tmp_path / "pipe.jsonl", tmp_path / "link.jsonl", tmp_path / "elsewhere" / "named.jsonl"
    os.mkfifo(pipe)
    done = cli("export", "notes", pipe, "--overwrite")
    assert (done.code, "is no file that can be replaced" in done.err, pipe.is_fifo()) == (2, True, True)
    named.parent.mkdir()
    named.write_text("before")
    link.symlink_to(named)
    assert cli("export", "notes", link, "--overwrite").code == 0
    assert (link.is_symlink(), len(named.read_text().splitlines())) == (True, len(ROWS))


def test_a_full_disk_is_named_with_the_file_and_leaves_nothing_behind(place: Place, tmp_path: Path) -> None:
    place.collection.upsert((f"v{n}", [n + 1, 1, 1]) for n in range(900))
    file = tmp_path / "rows.jsonl"
    limited = ("sh", "-c", f'ulimit -f 1; exec {COMMAND} "$@"', "sh")
    environment = place.environment(PYTHONDONTWRITEBYTECODE="1")  # a compiled module would be cut off, and kept
    done = process("export", "notes", file, environment=environment, command=limited)
    assert (done.code, done.err, list(tmp_path.iterdir())) == (2, f"vecmeter: {file}: File too large\n", [])


def test_a_pipe_that_is_closed_ends_it_without_a_word(place: Place) -> None:
    place.collection.upsert((f"v{n}", [n + 1, 1, 1]) for n in range(1000))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        running = subprocess.Popen(
            [COMMAND, "export", "notes", "-"], stdout=pipe, stderr=subprocess.PIPE, env=place.environment()
        )
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (141, b"")


def test_parquet_without_pyarrow_says_what_to_install(cli: Cli, tmp_path: Path) -> None:
    done = cli("export", "notes", tmp_path / "rows.parquet")
    assert (done.code, "pip install 'vecmeter-client[parquet]'" in done.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


_MAKE_PARQUET = """
import datetime as dt, decimal, sys
import pyarrow as pa, pyarrow.parquet as pq
moment = dt.datetime(2026, 3, 1, 12, tzinfo=dt.timezone.utc)
text = pa.array([b"v0", b"\\xff"]).view(pa.string())
pq.write_table(pa.table({"id": text, "vector": [[1.0, 1.0, 0.5]] * 2}), sys.argv[1] + "/damaged.parquet")
table = pa.table({
    "id": [f"v{n}" for n in range(7)],
    "vector": pa.array([[n + 1.0, 1.0, 0.5] for n in range(7)], pa.list_(pa.float64(), 3)),
    "metadata": [{"kind": "memo", "tags": ["a"], "at": moment}, {"kind": None, "tags": None, "at": None}, *[None] * 5],
    "metadata.day": pa.array([dt.date(2026, 3, 1), *[None] * 6]),
    "year": pa.array([2024, *[None] * 6], pa.int32()),
    "left": pa.array([decimal.Decimal(1)] * 7),
})
pq.write_table(table, sys.argv[1] + "/rows.parquet", row_group_size=3)
pq.write_table(table.slice(0, 2).drop_columns(["id"]), sys.argv[1] + "/no_id.parquet")
names = ["id", "vector", "metadata", "metadata.day", "year", "metadata.left"]
pq.write_table(table.rename_columns(names), sys.argv[1] + "/left.parquet")
"""


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """A folder of Parquet files as others write them."""
    subprocess.run([str(python_of("clients")), "-c", _MAKE_PARQUET, str(tmp_path)], check=True)
    return tmp_path


def test_parquet_of_others_with_structs_moments_and_columns_goes_on_in_the_middle_of_a_row_group(
    place: Place, parquet: Path
) -> None:
    command = ("import", parquet / "rows.parquet", "notes", "--batch-size", 2)
    options = ("--metadata-columns", "year", "--ignore-columns", "left", "--max-wait", "0")
    place.limit(daily_requests=4)  # two made and look at the collection
    assert with_pyarrow(*command, *options, environment=place.environment()).code == 3
    place.limit()
    done = with_pyarrow(*command, *options, "--json", environment=place.environment())
    assert (done.code, done.json["inserted"], done.json["resumed_after"]) == (0, 7, 4), done.err
    stored = place.stored()
    assert {id: one["vector"] for id, one in stored.items()} == {f"v{n}": [n + 1, 1, 0.5] for n in range(7)}
    metadata = {"kind": "memo", "tags": ["a"], "at": "2026-03-01T12:00:00+00:00", "day": "2026-03-01", "year": 2024}
    assert [one["metadata"] for one in stored.values()][:2] == [metadata, {}]
    assert {one["version"] for one in stored.values()} == {1}


def test_parquet_that_cannot_be_taken_is_refused_by_row_or_column(place: Place, parquet: Path) -> None:
    def refusal(name: str, *options: str) -> str:
        done = with_pyarrow("import", parquet / name, "notes", *options, environment=place.environment())
        assert done.code in (1, 2)
        return done.err

    assert "nothing is said of the columns year, left" in refusal("rows.parquet")
    assert "there is no column id" in refusal("no_id.parquet", "--ignore-columns", "year,left")
    assert "what comes after row 0 cannot be read: 'utf-8' codec" in refusal("damaged.parquet")
    assert "row 1: metadata.left: is of the type Decimal" in refusal("left.parquet", "--ignore-columns", "year")
    (parquet / "none.parquet").write_text("none")
    assert "is not Parquet" in refusal("none.parquet")


def test_the_command_as_it_is_installed_exports_to_a_pipe(place: Place) -> None:
    place.collection.upsert([Vector("ä", [1, 2, 3], metadata={"a": 1})])
    done = process("export", "notes", "-", environment=place.environment(PYTHONIOENCODING="ascii"))
    assert (done.code, done.lines) == (0, [{"id": "ä", "vector": [1, 2, 3], "metadata": {"a": 1}}])
