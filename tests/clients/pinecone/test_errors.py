"""Each exception class of the official client by its cause, and that its message names what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pinecone import (
    ApiError,
    ForbiddenError,
    NotFoundError,
    RateLimitError,
    ServiceError,
    UnauthorizedError,
    Vector,
)
from stack import MAJOR, SPEC, URL, Account

SPARSE = {"indices": [1], "values": [0.5]}
FIVE = {"namespace": "errors", "vector": [1, 2, 3, 4, 5], "top_k": 1}
BAD: list[tuple[str, Callable[[Any], Any], str]] = [
    ("upsert: dimension", lambda i: i.upsert(vectors=[("a", [1, 2])]), r"dimension 2 .* dimension of the index 3"),
    ("update: dimension", lambda i: i.update(id="a", values=[1, 2]), r"dimension 2 .* dimension of the index 3"),
    ("query: dimension", lambda i: i.query(**FIVE), r"dimension 5 .* dimension of the index 3"),
    ("not a number", lambda i: i.upsert(vectors=[("a", [float("nan"), 1, 2])]), r"vectors\.0\.values"),
    ("no direction", lambda i: i.upsert(vectors=[("a", [0, 0, 0])]), "zero"),
    ("stats of a filter", lambda i: i.describe_index_stats(filter={"a": 1}), "filter"),
    ("nested metadata", lambda i: i.update(id="a", set_metadata={"x": {"y": 1}}), "x"),
    ("list of numbers", lambda i: i.update(id="a", set_metadata={"x": [1, 2]}), "x"),
    ("key with a dollar", lambda i: i.upsert(vectors=[("a", [1, 2, 3], {"$x": 1})]), r"\$x"),
    ("large metadata", lambda i: i.upsert(vectors=[("a", [1, 2, 3], {"x": "y" * 41_000})]), "metadata"),
    ("upsert: id not ASCII", lambda i: i.upsert(vectors=[Vector("ü", [1, 2, 3])]), "ASCII"),
    ("upsert: long id", lambda i: i.upsert(vectors=[("x" * 513, [1, 2, 3])]), "512"),
    ("1,001 vectors", lambda i: i.upsert(vectors=[(f"{n}", [1, 2, 3]) for n in range(1001)]), "1,?000"),
    (
        "sparse record",
        lambda i: i.upsert(vectors=[{"id": "a", "values": [1, 2, 3], "sparse_values": SPARSE}]),
        "sparse",
    ),
    ("sparse update", lambda i: i.update(id="a", sparse_values=SPARSE), "sparse"),
    ("sparse query", lambda i: i.query(vector=[1, 2, 3], sparse_vector=SPARSE, top_k=1), "sparse"),
    ("unknown operator", lambda i: i.query(vector=[1, 2, 3], top_k=1, filter={"a": {"$near": 1}}), r"\$near"),
    ("word compared", lambda i: i.query(vector=[1, 2, 3], top_k=1, filter={"a": {"$gt": "b"}}), r"\$gt"),
    ("fetch: bad token", lambda i: i.fetch_by_metadata(filter={"a": 1}, pagination_token="nonsense"), "(?i)token"),
    ("list: bad token", lambda i: i.list_paginated(pagination_token="nonsense"), "(?i)token"),
]


if MAJOR < 10:  # from then on the client itself refuses these
    BAD += [
        ("upsert: nested metadata", lambda i: i.upsert(vectors=[("a", [1, 2, 3], {"x": {"y": 1}})]), "x"),
        ("upsert: list of numbers", lambda i: i.upsert(vectors=[("a", [1, 2, 3], {"x": [1, 2]})]), "x"),
    ]


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_a_400_that_names_it_and_changes_nothing(
    index: Any, call: Callable[[Any], Any], words: str
) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        call(index)
    assert type(caught.value) is ApiError
    assert (caught.value.status_code, caught.value.error_code) == (400, "INVALID_ARGUMENT")
    assert index.describe_namespace(name="__default__").record_count == 0, "no other test writes there"


def test_a_wrong_key_is_unauthorized(account: Account, index: Any) -> None:
    stranger = account.client("vm_local_nobody")
    for call in (stranger.list_indexes, lambda: stranger.index(host=index.host).describe_index_stats()):
        with pytest.raises(UnauthorizedError) as caught:
            call()
        assert caught.value.status_code == 401


def test_a_key_that_may_only_search_is_forbidden_to_write(
    account: Account, new_key: Callable[..., str], new_name: str
) -> None:
    reader = account.client(new_key(roles=["search"]))
    assert len(reader.list_indexes()) == 0
    with pytest.raises(ForbiddenError, match="write"):
        reader.create_index(name=new_name, dimension=2, spec=SPEC)


def test_an_index_that_is_not_there_is_not_found(account: Account, pc: Any, index: Any) -> None:
    with pytest.raises(NotFoundError, match="missing"):
        pc.describe_index("missing")
    with pytest.raises(NotFoundError, match="missing"):
        pc.delete_index("missing")
    gone = pc.index(host=index.host.rsplit("/", 1)[0] + "/missing")
    for call in (lambda: gone.query(vector=[1, 2, 3], top_k=1), lambda: gone.upsert(vectors=[("a", [1, 2, 3])])):
        with pytest.raises(NotFoundError, match="missing"):
            call()


def test_another_tenants_index_is_not_found_and_its_name_is_free(
    account: Account, pc: Any, index: Any, new_key: Callable[..., str]
) -> None:
    stranger, name = account.client(new_key()), index.host.rsplit("/", 1)[1]
    with pytest.raises(NotFoundError):
        stranger.index(host=index.host).describe_index_stats()
    assert not stranger.has_index(name)
    stranger.create_index(name=name, dimension=2, spec=SPEC)
    assert stranger.describe_index(name).dimension == 2
    assert pc.describe_index(name).dimension == 3


def test_a_key_of_two_requests_a_minute_is_told_when_to_come_back(
    account: Account, new_key: Callable[..., str]
) -> None:
    # By a name of its own: after a refusal the SDK itself keeps back all batches for the same host.
    localhost = URL.replace("127.0.0.1", "localhost")
    limited = account.client(new_key(quota={"requests_per_minute": 2}), host=localhost)
    limited.list_indexes()
    limited.list_indexes()
    with pytest.raises(RateLimitError, match="requests_per_minute") as caught:
        limited.list_indexes()
    assert (caught.value.status_code, caught.value.error_code) == (429, "RESOURCE_EXHAUSTED")
    assert 0 < caught.value.retry_after <= 66  # an interval is counted in parts of 5 s
    (policy,) = caught.value.body["error"]["details"]["violated_policies"]
    assert (policy["name"], policy["limit"]) == ("requests_per_minute", 2)


@pytest.mark.parametrize("word", ["records", "search"])
def test_integrated_inference_is_refused_as_not_there(index: Any, word: str) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "records": lambda: index.upsert_records(records=[{"_id": "a", "text": "b"}], namespace="n"),
        "search": lambda: index.search(namespace="n", top_k=1, inputs={"text": "b"}),
    }
    with pytest.raises(ServiceError) as caught:
        calls[word]()
    assert (caught.value.status_code, caught.value.error_code) == (501, "UNIMPLEMENTED")


def test_answers_and_errors_have_the_requests_id(index: Any, namespace: str) -> None:
    written = index.upsert(vectors=[("a", [1, 2, 3])], namespace=namespace)
    found = index.query(vector=[1, 2, 3], top_k=1, namespace=namespace)
    ids = [written.response_info.request_id, found.response_info.request_id]
    with pytest.raises(ApiError) as caught:
        index.query(vector=[1], top_k=1, namespace=namespace)
    assert len({*ids, caught.value.request_id}) == 3
    assert all([*ids, caught.value.request_id])
