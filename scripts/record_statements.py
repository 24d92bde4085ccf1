"""Write down the statements that this release sends to PostgreSQL, for the migrations of the next one to be held to.

    .venv/bin/python -m scripts.record_statements

A deployment migrates first and puts the functions in place afterwards, so that for a while the old functions work on
the new tables: `tests/integration/test_vectors_migrations.py` wants each statement of the release before to be one yet.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["PSYCOPG_IMPL"] = "python"  # whose calls can be listened to

from psycopg.pq import pq_ctypes
from tests.fixtures.vectors import FORCED, Store, as_numbers, clustered, write_all

from vecmeter.vectors.migrations.runner import migrate
from vecmeter.vectors.model import FieldType, FilterableField, Mode, Query, Vector
from vecmeter_local.postgres import PostgresServer

FILE = Path(__file__).parents[1] / "tests" / "fixtures" / "statements_before.sql"
HEAD = """\
-- What the functions of the release before this one send to PostgreSQL, of a collection with the number 1: they go on
-- while a deployment migrates. Written by 'python -m scripts.record_statements' when a release is made.
"""
_CALLS = ("send_query", "send_query_params", "send_prepare", "exec_", "exec_params")


def listen(heard: dict[str, None]) -> None:
    """Put the text of every statement that is sent from now on into ``heard``."""
    for name in _CALLS:
        send = getattr(pq_ctypes.PGconn, name)

        def heard_first(self: Any, *arguments: Any, _send: Any = send, _name: str = name, **named: Any) -> Any:
            text = arguments[1] if _name == "send_prepare" else arguments[0]
            without_comments = re.sub(rb"--[^\n]*", b"", bytes(text))
            heard.setdefault(re.sub(rb"\s+", b" ", without_comments).strip().decode())
            return _send(self, *arguments, **named)

        setattr(pq_ctypes.PGconn, name, heard_first)


def work(store: Store) -> None:
    """A little of everything."""
    store.create(dimension=3)
    declared = (FilterableField("n", FieldType.NUMBER),)
    change = store.collections.change
    things = change("acme", "things", lambda c: replace(c, text_search="english", filterable=declared))
    rows = clustered(1500, 3)
    vectors = [
        Vector(id=f"v{at}", numbers=as_numbers(row), document="dogs run", metadata={"n": at})
        for at, row in enumerate(rows)
    ]
    write_all(store, things, vectors)
    things = store.build(things)
    numbers = as_numbers(rows[0])
    for query in (
        Query(numbers=numbers),
        Query(numbers=numbers, filter={"n": {"$lt": 900}}),
        Query(numbers=numbers, exact=True),
        Query(text="dogs", mode=Mode.TEXT),
        Query(text="dogs", numbers=numbers, mode=Mode.HYBRID),
        Query(id="v1"),
        Query(numbers=numbers, group_by="n", include_document=True, include_vector=True),
    ):
        store.search(things, query)
    store.records.fetch(things, "", ["v1"])
    store.records.delete_ids(things, "", ["v1"], dry_run=False)
    store.records.add(things, replace(vectors[0], id="new"))
    store.collections.page("acme", after="", limit=5)
    store.collections.size(things)
    store.descriptions.indexes(things)
    store.descriptions.plans(things)
    for task in ("vacuum_analyze", "reindex_hnsw", "probe_recall", "tune_ef_search"):
        getattr(store.maintenance, task)([things], FORCED)
    store.maintenance.purge_expired([things])
    store.maintenance.recount_stock([things])
    store.maintenance.forget(datetime.now(UTC))
    store.history.begin("t", datetime.now(UTC), {}).finish({"status": "ok", "message": "m"}, datetime.now(UTC))
    store.history.page(limit=3)
    store.collections.set_limits("acme", "things", max_vectors=5)
    store.collections.drop("acme", "things")


def main() -> None:
    heard: dict[str, None] = {}
    with tempfile.TemporaryDirectory(prefix="vecmeter-record-") as name:
        Path(name).chmod(0o711)
        server = PostgresServer(Path(name), durable=False)
        server.start()
        try:
            migrate(server.dsn())
            listen(heard)
            store = Store(server.dsn(), prepare_threshold=0)
            work(store)
            store.close()
        finally:
            server.stop()
    kept = [text for text in heard if re.match(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\b", text) and "vecmeter" in text]
    FILE.write_text(HEAD + "".join(f"{text.rstrip('; ')};\n" for text in kept))
    sys.stdout.write(f"{FILE}: {len(kept)} statements\n")


if __name__ == "__main__":
    main()
