"""Namespaces and bulk imports by the official client."""

from __future__ import annotations

from typing import Any

import pytest
from pinecone import ApiError, NotFoundError
from stack import Account


@pytest.fixture(scope="module")
def divided(account: Account, pc: Any) -> Any:
    """An index with the namespaces a-0 to a-4 and b-0, of one to six records."""
    index = account.new_index(pc)
    for number, name in enumerate([*(f"a-{n}" for n in range(5)), "b-0"], start=1):
        index.upsert(vectors=[(f"id-{n}", [1, n, 1]) for n in range(number)], namespace=name)
    return index


def test_the_namespaces_are_listed_with_their_counts(divided: Any) -> None:
    found = [one for page in divided.list_namespaces() for one in page.namespaces]
    counts = {one.name: one.record_count for one in found}
    assert counts == {"a-0": 1, "a-1": 2, "a-2": 3, "a-3": 4, "a-4": 5, "b-0": 6}


def test_the_namespaces_are_paged_through_once_each(divided: Any) -> None:
    pages = list(divided.list_namespaces(limit=2))
    assert [len(page.namespaces) for page in pages] == [2, 2, 2]
    assert len({one.name for page in pages for one in page.namespaces}) == 6
    first = divided.list_namespaces_paginated(limit=4)
    second = divided.list_namespaces_paginated(limit=4, pagination_token=first.pagination.next)
    assert [len(first.namespaces), len(second.namespaces)] == [4, 2]


def test_the_namespaces_with_a_prefix_are_listed_and_counted(divided: Any) -> None:
    page = divided.list_namespaces_paginated(prefix="a-", limit=3)
    assert [one.name for one in page.namespaces] == ["a-0", "a-1", "a-2"]
    assert page.total_count == 5


def test_a_namespace_is_described_until_it_is_deleted(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 2, 3]), ("b", [1, 2, 3])], namespace=namespace)
    found = index.describe_namespace(name=namespace)
    assert (found.name, found.record_count) == (namespace, 2)
    index.delete_namespace(name=namespace)
    with pytest.raises(NotFoundError, match=namespace):
        index.describe_namespace(name=namespace)
    assert index.query(vector=[1, 2, 3], top_k=1, namespace=namespace).matches == []


def test_a_namespace_is_not_made_ahead_of_its_first_record(index: Any, namespace: str) -> None:
    with pytest.raises(ApiError, match=r"(?i)first|upsert") as caught:
        index.create_namespace(name=namespace)
    assert (caught.value.status_code, caught.value.error_code) == (501, "UNIMPLEMENTED")
    with pytest.raises(NotFoundError):
        index.describe_namespace(name=namespace)


def test_there_are_no_bulk_imports_and_starting_one_says_what_to_do(index: Any) -> None:
    assert list(index.list_imports()) == []
    assert len(index.list_imports_paginated(limit=10)) == 0
    with pytest.raises(ApiError, match="vecmeter import") as caught:
        index.start_import("s3://bucket/folder")
    assert (caught.value.status_code, caught.value.error_code) == (501, "UNIMPLEMENTED")
    with pytest.raises(NotFoundError):
        index.describe_import("1")
    with pytest.raises(NotFoundError):
        index.cancel_import("1")
