"""Indexes of fields of the metadata that a collection declares filterable: by namespace, then by the field's value.

A btree answers ranges and, unlike the GIN index on all metadata, one namespace at a time. It takes no entry of more
than about 2,700 bytes: a write with a longer value would fail. So it holds values cut to a measure, which keeps their
order; filters compare these, and look at the whole value where the one they ask for does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import LiteralString

from psycopg import sql

from vecmeter.vectors.model import Collection, FieldType, FilterableField
from vecmeter.vectors.tables import SCHEMA, table_names


@dataclass(frozen=True, slots=True)
class Ordered:
    """A field's values of one type, as SQL: whole, cut to what an index holds, and the type; NULL for all others.

    ``[metadata]`` and ``[field]`` stand for the column and the field's name.
    """

    whole: LiteralString
    cut: LiteralString
    type: LiteralString


_TEXT: LiteralString = "CASE WHEN jsonb_typeof([metadata] -> [field]) = 'string' THEN [metadata] ->> [field] END"
_NUMBER: LiteralString = "([metadata] -> [field])::numeric"
_OF_NUMBER: LiteralString = "CASE WHEN jsonb_typeof([metadata] -> [field]) = 'number' THEN "

# In order of code points, whatever language the database sorts by; a character takes 4 bytes at most.
_CUT_CHARACTERS = 256
TEXT = Ordered("(" + _TEXT + ') COLLATE "C"', "left(" + _TEXT + ', 256) COLLATE "C"', "text")
# Whole numbers may have thousands of digits. 1e60 as a float is less than 10**60, so nobody compares close to that.
_CUT_NUMBER = 10**59
NUMBER = Ordered(
    _OF_NUMBER + _NUMBER + " END", _OF_NUMBER + "least(greatest(" + _NUMBER + ", -1e60), 1e60) END", "numeric"
)

# What the index of a field holds, by the field's type. What can be asked of true and false needs none of its own.
INDEXED: Mapping[FieldType, Ordered] = {FieldType.STRING: TEXT, FieldType.DATE: TEXT, FieldType.NUMBER: NUMBER}

_CREATE: LiteralString = "CREATE INDEX {index} ON {records} (namespace, ([value]))"
_CREATE_CONCURRENTLY: LiteralString = _CREATE.replace("INDEX", "INDEX CONCURRENTLY")
_DROP_CONCURRENTLY: LiteralString = "DROP INDEX CONCURRENTLY IF EXISTS {qualified}"


def index_name(collection_id: int, field: FilterableField) -> str:
    """The name of the index of a field, the same wherever in the list the field stands."""
    digest = sha256(f"{field.type.value} {field.field}".encode()).hexdigest()
    return f"records_{collection_id}_field_{digest[:16]}"


def indexed_fields(collection: Collection) -> list[FilterableField]:
    """Those of the collection's declared fields that have an index of their own."""
    return [field for field in collection.filterable if field.type in INDEXED]


def create_index(collection: Collection, field: FilterableField) -> bytes:
    """The statement that makes a field's index on a table nobody else knows yet."""
    return _statement(_CREATE, collection, field)


def create_index_concurrently(collection: Collection, field: FilterableField) -> bytes:
    """The statement that makes a field's index while others read and write. It leaves an invalid one if it fails."""
    return _statement(_CREATE_CONCURRENTLY, collection, field)


def drop_index(collection: Collection, field: FilterableField) -> bytes:
    """The statement that drops a field's index, where there is one."""
    return _statement(_DROP_CONCURRENTLY, collection, field)


def is_within(value: str | float) -> bool:
    """Whether values compare with this one as what is cut of them does."""
    return len(value) < _CUT_CHARACTERS if isinstance(value, str) else abs(value) < _CUT_NUMBER


def _statement(template: LiteralString, collection: Collection, field: FilterableField) -> bytes:
    value = INDEXED[field.type].cut.replace("[metadata]", "metadata").replace("[field]", "{field}::text")
    name = index_name(collection.collection_id, field)
    return (
        sql.SQL(template.replace("[value]", value))
        .format(
            index=sql.Identifier(name),
            qualified=sql.Identifier(SCHEMA, name),
            records=sql.Identifier(SCHEMA, table_names(collection.collection_id)[0]),
            field=sql.Literal(field.field),
        )
        .as_bytes(None)
    )
