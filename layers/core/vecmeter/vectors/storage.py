"""How much each project stores."""

from __future__ import annotations

from typing import LiteralString

from vecmeter.vectors.connection import Database

# As limits count it: see ``stock.RECORD_BYTES``.
_BYTES_BY_PROJECT: LiteralString = """
    SELECT c.project_id, sum(s.bytes + coalesce(d.bytes, 0))::bigint
    FROM vecmeter.collections c
    JOIN vecmeter.stock s USING (collection_id)
    LEFT JOIN (
        SELECT collection_id, sum(bytes) AS bytes FROM vecmeter.stock_changes GROUP BY collection_id
    ) d USING (collection_id)
    GROUP BY c.project_id ORDER BY c.project_id
"""


def bytes_by_project(database: Database) -> dict[str, int]:
    """Bytes of the records of every project that has collections. Raises DatabaseUnavailableError."""
    with database.connection() as connection:
        return dict(connection.execute(_BYTES_BY_PROJECT).fetchall())
