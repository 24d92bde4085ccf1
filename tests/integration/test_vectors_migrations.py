"""Migrations bring any database up to date, once each and as a whole, whoever else is at it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.vectors import Store, fresh_database, in_threads, raised, vector
from vecmeter.vectors.migrations import runner
from vecmeter.vectors.migrations.runner import apply, migrate, migration_names
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
