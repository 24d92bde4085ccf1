"""What decides an answer is in the key it is remembered by."""

from __future__ import annotations

import dataclasses
from array import array

from tests.unit.test_cache_memory import COLLECTION
from vecmeter.vectors.model import Query
from vecmeter.vectors.result_cache import key_of

ANY = Query(numbers=array("f", [1, 0, 0]), stamped=True, include_document=True, include_vector=True)


def test_every_part_of_a_search_and_of_the_definition_makes_another_answer() -> None:
    changed = {
        "mode": "text",
        "numbers": array("f", [1, 0, 0.5]),
        "id": "a",
        "text": "word",
        "fusion": "rrf",
        "text_weight": 0.5,
        "top_k": 11,
        "offset": 1,
        "namespace": "n",
        "filter": {"kind": "old"},
        "group_by": "kind",
        "min_score": 0.5,
        "exact": True,
        "ef_search": 40,
        "include_metadata": False,
        "include_document": False,
        "include_vector": False,
        "counted": True,
        "stamped": False,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(Query)}
    keys = [
        key_of(COLLECTION, ANY),
        *(key_of(COLLECTION, dataclasses.replace(ANY, **{n: v})) for n, v in changed.items()),
    ]
    keys += [key_of(COLLECTION, dataclasses.replace(ANY, filter={"kind": kind})) for kind in (1, True, "1", None, 1.5)]
    keys += [
        key_of(dataclasses.replace(COLLECTION, **{name: 7}), ANY) for name in ("collection_id", "ef_search", "hnsw")
    ]
    assert len(set(keys)) == len(keys)


def test_filters_that_say_the_same_are_the_same_search() -> None:
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert len({key_of(COLLECTION, dataclasses.replace(ANY, filter=filter)) for filter in (one, other)}) == 1
