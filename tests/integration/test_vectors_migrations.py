"""Migrations bring any database up to date, once each and as a whole, whoever else is at it."""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from tests.fixtures.vectors import Store, fresh_database, in_threads, raised, vector
from vecmeter.errors import DatabaseUnavailableError
from vecmeter.vectors.migrations import runner
from vecmeter.vectors.migrations.runner import apply, migrate, migration_names
from vecmeter.vectors.model import Query
from vecmeter_local.postgres import PostgresServer


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    with fresh_database(postgres_server, None) as dsn:
        yield dsn


def applied(dsn: str) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [
            name for (name,) in connection.execute("SELECT name FROM vecmeter.migrations ORDER BY applied_at, name")
        ]


def test_an_empty_database_becomes_one_that_works(empty_database: str) -> None:
    assert migrate(empty_database) == migration_names() == applied(empty_database)
    store = Store(empty_database)
    collection = store.create()
    assert store.records.upsert(collection, [vector("a")])[0].inserted
    assert store.records.fetch(collection, "", ["a"])[0].id == "a"
    store.close()


def test_migrating_again_changes_nothing(empty_database: str) -> None:
    migrate(empty_database)
    store = Store(empty_database)
    store.create()
    assert migrate(empty_database) == []
    assert [collection.name for collection in store.collections.list_all()] == ["things"]
    store.close()


def test_two_at_once_apply_each_migration_once(empty_database: str) -> None:
    results = in_threads(*[lambda: migrate(empty_database)] * 4)
    assert raised(results) == []
    assert sorted(name for result in results for name in result) == migration_names()  # type: ignore[union-attr]
    assert applied(empty_database) == migration_names()


def test_two_processes_at_once_apply_each_migration_once(empty_database: str) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(migrate, [empty_database] * 2)
    assert sorted(name for result in results for name in result) == migration_names()


def test_migrations_are_numbered_without_gap_and_sorted() -> None:
    numbers = [name.split("_")[0] for name in migration_names()]
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]


def test_each_migration_says_in_its_first_line_what_it_is_for() -> None:
    for name in migration_names():
        assert (Path(runner.__file__).parent / name).read_text().startswith("-- "), name


FAILING = "CREATE TABLE vecmeter.half (); ALTER ROLE CURRENT_USER SET work_mem = '1MB'; SELECT 1 / 0;"


def test_a_migration_that_fails_leaves_nothing_behind_and_those_before_it_stay(
    empty_database: str, tmp_path: Path
) -> None:
    (tmp_path / "0001_good.sql").write_text("CREATE TABLE vecmeter.good ()")
    (tmp_path / "0002_bad.sql").write_text(FAILING)
    (tmp_path / "0003_never.sql").write_text("CREATE TABLE vecmeter.never ()")
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            apply(empty_database, tmp_path)
        assert applied(empty_database) == ["0001_good.sql"]
        with psycopg.connect(empty_database) as connection:
            tables = (
                "SELECT to_regclass('vecmeter.good')::text, to_regclass('vecmeter.half'), to_regclass('vecmeter.never')"
            )
            assert connection.execute(tables).fetchone() == ("vecmeter.good", None, None)
            assert connection.execute("SHOW work_mem").fetchone() != ("1MB",)
            held = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
            assert held == (0,), "the next one would wait for ever"
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE vecmeter.mended ()")
    assert apply(empty_database, tmp_path) == ["0002_bad.sql", "0003_never.sql"]


def test_a_migration_gives_up_on_a_lock_instead_of_making_everybody_queue_behind_it(
    empty_database: str, tmp_path: Path
) -> None:
    migrate(empty_database)
    (tmp_path / "9999_later.sql").write_text("ALTER TABLE vecmeter.collections ADD COLUMN later int")
    with psycopg.connect(empty_database) as holder:
        holder.execute("SELECT FROM vecmeter.collections")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            apply(empty_database, tmp_path)
    assert apply(empty_database, tmp_path) == ["9999_later.sql"]


def test_sessions_of_the_role_scan_on_in_relaxed_order_for_a_hundred_candidates(empty_database: str) -> None:
    migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("SELECT '[1]'::vector")  # loads the extension, which checks its settings
        show = lambda name: connection.execute(f"SHOW {name}".encode()).fetchone()  # noqa: E731
        assert show("hnsw.iterative_scan") == ("relaxed_order",)
        assert show("hnsw.ef_search") == ("100",)
        assert show("jit") == ("off",)


# --- steps outside of transactions ---

STEPS = """-- An index for each table of a list.
SELECT format('CREATE INDEX CONCURRENTLY %I ON %I (n)', name || '_n', name) FROM vecmeter.names
WHERE to_regclass(name || '_n') IS NULL
UNION ALL SELECT format('DROP INDEX CONCURRENTLY %I', relname)
FROM pg_index JOIN pg_class ON oid = indexrelid WHERE NOT indisvalid
"""


@pytest.fixture
def with_tables(empty_database: str) -> str:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA vecmeter")
        connection.execute("CREATE TABLE vecmeter.names (name text)")
        for name in ("one", "two"):
            connection.execute(f"CREATE TABLE {name} (n int)".encode())
            connection.execute("INSERT INTO vecmeter.names VALUES (%s)", [name])
    return empty_database


def indexes(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        listed = "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname LIKE '%\\_n' ORDER BY 1"
        return [name for (name,) in connection.execute(listed)]


def test_steps_are_taken_one_by_one_until_none_is_left(with_tables: str, tmp_path: Path) -> None:
    (tmp_path / "0001_indexes.steps.sql").write_text(STEPS)
    results = in_threads(*[lambda: apply(with_tables, tmp_path)] * 3)
    assert raised(results) == []
    assert sorted(name for result in results for name in result) == ["0001_indexes.steps.sql"]  # type: ignore[union-attr]
    assert indexes(with_tables) == ["one_n", "two_n"]


def test_steps_that_were_interrupted_are_taken_up_where_they_were_left(with_tables: str, tmp_path: Path) -> None:
    """The first step is done in the database after the one who began it has gone; the second is begun by the next."""
    (tmp_path / "0001_indexes.steps.sql").write_text(STEPS)
    with psycopg.connect(with_tables) as holder:
        holder.execute("INSERT INTO one VALUES (1)")
        with pytest.raises(DatabaseUnavailableError, match="its step goes on"):
            apply(with_tables, tmp_path, time.monotonic() + 1)
        with pytest.raises(DatabaseUnavailableError, match="Another migration is under way"):
            apply(with_tables, tmp_path, time.monotonic() + 0.3)
        assert applied(with_tables) == []
    assert apply(with_tables, tmp_path) == ["0001_indexes.steps.sql"]
    assert indexes(with_tables) == ["one_n", "two_n"]
    assert apply(with_tables, tmp_path) == []


def test_a_step_that_is_asked_for_again_and_again_is_a_fault_and_ends(with_tables: str, tmp_path: Path) -> None:
    (tmp_path / "0001_for_ever.steps.sql").write_text("SELECT 'ANALYZE one'")
    with pytest.raises(RuntimeError, match="again and again"):
        apply(with_tables, tmp_path)
    assert applied(with_tables) == []


# --- while the release before goes on ---

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Released by now: from here on nothing is taken away that was in use.
LAST_RELEASED = "0005"
TAKES_AWAY = re.compile(
    r"\b(DROP (TABLE|COLUMN|INDEX(?! CONCURRENTLY)|CONSTRAINT)|RENAME|SET NOT NULL|ALTER COLUMN \w+ TYPE"
    r"|ADD COLUMN [^,;]*NOT NULL(?![^,;]*DEFAULT))\b",
    re.IGNORECASE,
)


def test_no_migration_takes_away_what_the_release_before_may_use() -> None:
    for name in migration_names():
        if name > LAST_RELEASED + "~":
            text = re.sub(r"--.*", "", (Path(runner.__file__).parent / name).read_text())
            assert TAKES_AWAY.search(text) is None, name
    assert TAKES_AWAY.search("ALTER TABLE a ADD COLUMN b int NOT NULL;")
    assert not TAKES_AWAY.search("ALTER TABLE a ADD COLUMN b int NOT NULL DEFAULT 0, ADD COLUMN c text;")


def test_every_statement_of_the_release_before_is_one_after_the_migrations(store: Store) -> None:
    collection = store.create()
    assert collection.collection_id == 1
    store.collections.change("acme", "things", lambda c: replace(c, text_search="english"))
    text = (FIXTURES / "statements_before.sql").read_text()
    statements = [line for line in text.splitlines() if not line.startswith("--")]
    assert len(statements) > 40
    with psycopg.connect(store.dsn, autocommit=True) as connection:
        for statement in statements:
            prepared = connection.pgconn.prepare(b"", statement.rstrip(";").encode())
            message = prepared.error_message.decode()
            # What a parameter is, psycopg says for some; of the rest of the statement all is known.
            assert prepared.status == pq.ExecStatus.COMMAND_OK or "could not determine data type" in message, (
                message,
                statement,
            )


def test_searches_and_writes_go_on_while_migrations_are_applied(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """From the migrations released to those of now, step by step, beside a client that never stops."""
    names = migration_names()
    for name in names:
        (tmp_path / name).write_text((Path(runner.__file__).parent / name).read_text())
    with fresh_database(postgres_server, None) as dsn:
        migrate(dsn)
        reader, stop = Store(dsn), threading.Event()
        collection = reader.create()
        reader.records.upsert(collection, [vector(f"v{at}", 1.0, at, 2.0) for at in range(50)])

        def search() -> list[int]:
            found = []
            while not stop.is_set():
                query = Query(numbers=array("f", (1.0, len(found) % 50, 2.0)), top_k=50)
                reader.clock[0] += 1
                found.append(len(reader.ids(reader.collections.get("acme", "things"), query)))
                reader.records.upsert(collection, [vector("v0", 1.0, 0.0, 2.0)])
            return found

        def later() -> list[int]:
            try:
                for number in range(5):
                    name = f"9{number:03d}_later"
                    (tmp_path / f"{name}.sql").write_text(
                        f"ALTER TABLE vecmeter.collections ADD COLUMN later_{number} int; "
                        f"ALTER TABLE vecmeter.hnsw_indexes ADD COLUMN later_{number} int"
                    )
                    (tmp_path / f"{name}_on.steps.sql").write_text(
                        f"SELECT 'CREATE INDEX CONCURRENTLY later_{number} ON vecmeter.records_1 (version)' "
                        f"WHERE to_regclass('vecmeter.later_{number}') IS NULL"
                    )
                    assert len(apply(dsn, tmp_path)) == 2
            finally:
                stop.set()
            return []

        results = in_threads(search, later)
        assert raised(results) == []
        assert set(results[0]) == {50}  # type: ignore[arg-type]
        assert len(results[0]) > 10  # type: ignore[arg-type]
        reader.close()
