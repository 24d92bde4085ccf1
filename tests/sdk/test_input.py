"""What is given becomes what the service takes: numbers, batches, names."""

from __future__ import annotations

import base64
import json
import struct
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter_client import InvalidInputError, Vector
from vecmeter_client._batches import batches, vector_body
from vecmeter_client._input import pack
from vecmeter_client._operations.vectors import GET, LIST, UPSERT

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


def _unpacked(text: str) -> list[float]:
    content = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(content) // 4}f", content))


@given(FLOATS)
def test_numbers_arrive_bit_for_bit_from_whatever_holds_them(numbers: list[float]) -> None:
    forms: list[Any] = [
        numbers,
        tuple(numbers),
        array("f", numbers),
        array("d", numbers),
        memoryview(array("f", numbers)),
    ]
    forms += [np.array(numbers, dtype=kind) for kind in ("<f4", ">f4", "<f8", ">f8")]
    forms += [iter(numbers), base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()]
    for form in forms:
        assert struct.pack(f"<{len(numbers)}f", *_unpacked(pack(form))) == struct.pack(f"<{len(numbers)}f", *numbers)


def test_numbers_that_no_buffer_can_hold_are_named_or_taken_one_by_one() -> None:
    class Bfloat16:
        """As numpy's arrays of types that others registered: a sequence of numbers whose buffer nobody can have."""

        def __buffer__(self, flags: int) -> memoryview:
            raise ValueError("cannot include dtype 'E' in a buffer")

        def __iter__(self) -> Iterator[float]:
            return iter((0.5, 2.0))

    assert _unpacked(pack(Bfloat16())) == [0.5, 2]
    with pytest.raises(InvalidInputError, match=r"^vector: is no sequence of numbers that float32 can hold: "):
        pack(np.array(["2026-11-21"], dtype="M8[D]"))


def test_numbers_that_only_know_float_are_taken() -> None:
    class Tensor:
        def __float__(self) -> float:
            return 0.5

    assert _unpacked(pack([Tensor(), np.float32(2), np.int64(3)])) == [0.5, 2, 3]


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        (np.zeros((2, 3)), "vector: has 2 dimensions; give one vector"),
        (b"abcd", "vector: is bytes; give numbers, or text of base64"),
        (["1", "2"], "vector: is no sequence of numbers that float32 can hold: must be real number, not str"),
        ([[1, 2]], "vector: is no sequence of numbers that float32 can hold: must be real number, not list"),
        (3, "vector: is no sequence of numbers that float32 can hold: 'int' object is not iterable"),
        ([10**400], "vector: is no sequence of numbers that float32 can hold: int too large to convert to float"),
    ],
)
def test_what_is_no_vector_is_an_error_that_says_so(numbers: Any, fault: str) -> None:
    with pytest.raises(InvalidInputError) as failed:
        pack(numbers)
    assert str(failed.value) == fault


def test_a_vector_is_given_as_itself_a_mapping_or_a_tuple() -> None:
    packed = pack([1.0, 2.0])
    assert vector_body(Vector("a", [1.0, 2.0], metadata={"n": 1})) == {
        "id": "a",
        "vector": packed,
        "metadata": {"n": 1},
    }
    assert vector_body({"id": "a", "document": "x", "if_version": 0}) == {"id": "a", "document": "x", "if_version": 0}
    assert vector_body(("a", [1.0, 2.0])) == {"id": "a", "vector": packed}
    assert vector_body(("a", [1.0, 2.0], {"n": 1}))["metadata"] == {"n": 1}
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    assert vector_body(Vector("a", expires_at=moment))["expires_at"] == "2027-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("given_", "fault"),
    [
        ({"vector": [1.0]}, "vectors.0.id: is missing"),
        (
            {"id": "a", "values": [1.0]},
            "vectors.0.values: is no field of a vector; there are "
            "id, vector, document, metadata, namespace, expires_at, if_version",
        ),
        (("a",), "vectors.0: is a tuple of 1; give a Vector, a mapping, or (id, vector[, metadata])"),
        ("a", "vectors.0: is str; give a Vector, a mapping, or (id, vector[, metadata])"),
        (Vector("a", [1.0], metadata={"x": {1, 2}}), "vectors.0.metadata.x: set is no JSON"),
        (
            Vector("a", [1.0], metadata={"x": {1: 2}}),
            "vectors.0.metadata.x.1: the name is int; names in JSON are text",
        ),
        (Vector("a", [1.0], metadata={"x": [1, float("nan")]}), "vectors.0.metadata.x.1: nan is no JSON number"),
        (Vector("a", [1.0], metadata={"x": np.int64(3)}), "vectors.0.metadata.x: int64 is no JSON"),
        (
            Vector("a", [1.0], metadata={"x": "\ud800"}),
            "vectors.0.metadata.x: has a lone surrogate, which is not Unicode text",
        ),
        (
            Vector("a", [1.0], expires_at=datetime(2027, 1, 1)),  # noqa: DTZ001 - that is the fault
            "vectors.0.expires_at: 2027-01-01T00:00:00 has no time zone",
        ),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_place(given_: Any, fault: str) -> None:
    with pytest.raises(InvalidInputError) as failed:
        list(batches([given_], ""))
    assert str(failed.value) == fault


@pytest.mark.parametrize(
    ("id", "fault"), [(7, "is int; give text"), ("\ud800", "has a lone surrogate, which is not Unicode text")]
)
def test_an_id_that_is_no_text_is_named_before_anything_is_sent(id: Any, fault: str) -> None:
    with pytest.raises(InvalidInputError) as failed:
        list(batches([(id, [1.0])], ""))
    assert str(failed.value) == f"vectors.0.id: {fault}"
    with pytest.raises(InvalidInputError) as failed:
        GET.to("p", "c", id)
    assert str(failed.value) == f"id: {fault}"
    with pytest.raises(InvalidInputError, match=r"^prefix: has a lone surrogate"):
        LIST.to("p", "c", query={"prefix": "\ud800"})


def test_metadata_that_holds_itself_is_named() -> None:
    metadata: dict[str, Any] = {}
    metadata["itself"] = metadata
    with pytest.raises(InvalidInputError, match=r"^vectors\.0: is nested too deeply, or holds itself$"):
        list(batches([Vector("a", [1.0], metadata=metadata)], ""))


@given(
    st.lists(st.tuples(st.text(max_size=5), st.integers(1, 40), st.text(max_size=40)), max_size=60),
    st.integers(1, 10),
    st.integers(200, 2000),
)
def test_batches_keep_the_order_and_their_limits_and_hold_everything_once(
    items: list[tuple[str, int, str]], most: int, most_bytes: int
) -> None:
    vectors = [Vector(id, [0.5] * size, document=text) for id, size, text in items]
    made = list(batches(iter(vectors), "n", most, most_bytes))
    assert [batch.first for batch in made] == [sum(one.count for one in made[:at]) for at in range(len(made))]
    sent = []
    for batch in made:
        body = json.loads(batch.content)
        assert body["namespace"] == "n"
        assert len(body["vectors"]) == batch.count <= most
        assert len(batch.content) <= most_bytes or batch.count == 1
        sent += body["vectors"]
    assert sent == [vector_body(vector) for vector in vectors]
    # No batch could have taken the first of the next one.
    for batch, following in pairwise(made):
        [first, *_] = json.loads(following.content)["vectors"]
        longer = len(json.dumps(first, ensure_ascii=False, separators=(",", ":")).encode()) + 1
        assert batch.count == most or len(batch.content) + longer > most_bytes


def test_no_more_is_taken_than_the_next_batch_needs_and_one() -> None:
    taken = 0

    def endless() -> Iterator[Vector]:
        nonlocal taken
        while True:
            taken += 1
            yield Vector(f"{taken}", [1.0])

    found = batches(endless(), "", 100)
    for number in range(1, 4):
        next(found)
        assert taken == 100 * number + 1


def test_a_batch_of_wide_vectors_ends_before_four_mebibytes() -> None:
    rows = np.zeros((1200, 1536), dtype=np.float32)
    sizes = [len(batch.content) for batch in batches(((f"{at}", row) for at, row in enumerate(rows)), "")]
    assert len(sizes) == 3
    assert all(size <= 4 * 1024 * 1024 for size in sizes)


def test_names_in_paths_are_encoded_so_that_nothing_of_them_is_taken_for_more() -> None:
    request = UPSERT.to("a/b", "..", body=b"{}")
    assert request.path == "/projects/a%2Fb/collections/%2E%2E/vectors"
