"""What searches of a store find."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from conftest import PROJECT, Call, Known, Make
from vecmeter_client import Client, InvalidInputError, InvalidRequestError, LimitExceededError, Vector
from vecmeter_client.langchain import VecmeterVectorStore

# The vectors of "near" and "nearer" are almost the same; "query" is nearest to both.
PLACES = {
    "query": (1.0, 0.0, 0.0),
    "nearer": (1.0, 0.02, 0.0),
    "near": (1.0, 0.03, 0.0),
    "aside": (0.8, -0.6, 0.0),
    "away": (0.0, 0.0, 1.0),
}
STORED = ("away", "aside", "near", "nearer")
KINDS = [{"kind": "odd" if at % 2 else "even", "at": at} for at in range(len(STORED))]

# Each kind of search, by what it is called and the options that make it one.
SEARCHES: list[tuple[str, dict[str, Any]]] = [
    ("similarity_search", {}),
    ("similarity_search", {"mode": "hybrid"}),
    ("similarity_search", {"mode": "text"}),
    ("similarity_search_with_score", {}),
    ("similarity_search_with_relevance_scores", {}),
    ("similarity_search_by_vector", {}),
    ("similarity_search_by_vector_with_score", {}),
    ("max_marginal_relevance_search", {}),
    ("max_marginal_relevance_search", {"mode": "hybrid"}),
    ("max_marginal_relevance_search_by_vector", {}),
]


@pytest.fixture(scope="module")
def places() -> Iterator[VecmeterVectorStore]:
    """What is stored stays as it is: tests write into namespaces of their own."""
    store = VecmeterVectorStore("places", Known(PLACES), create_collection={"text_search": "simple"})
    store.add_texts(STORED, KINDS, ids=STORED)
    yield store
    store.close()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A tenant of the test's own."""
    return str(request.node.name)


async def found_by(call: Call, store: VecmeterVectorStore, search: str, **options: Any) -> list[str]:
    by = PLACES["query"] if "by_vector" in search else "query near nearer aside away"
    found = await call(store, search, by, **options)
    documents = [one[0] if isinstance(one, tuple) else one for one in found]
    assert all(isinstance(one, Document) for one in documents)
    return [one.page_content for one in documents]


@pytest.mark.parametrize(("search", "options"), SEARCHES)
async def test_every_search_finds_all_there_is(
    places: VecmeterVectorStore, call: Call, search: str, options: dict[str, Any]
) -> None:
    assert sorted(await found_by(call, places, search, k=10, **options)) == sorted(STORED)
    assert len(await found_by(call, places, search, k=3, **options)) == 3


@pytest.mark.parametrize(("search", "options"), SEARCHES)
async def test_a_filter_holds_in_every_search(
    places: VecmeterVectorStore, call: Call, search: str, options: dict[str, Any]
) -> None:
    assert sorted(await found_by(call, places, search, filter={"kind": "odd"}, **options)) == ["aside", "nearer"]
    both = {"$or": [{"at": {"$lt": 1}}, {"$not": {"kind": "even"}}], "at": {"$lte": 2}}
    assert sorted(await found_by(call, places, search, filter=both, **options)) == ["aside", "away"]


@pytest.mark.parametrize(("search", "options"), SEARCHES)
async def test_a_search_of_one_namespace_finds_nothing_of_another(
    places: VecmeterVectorStore, namespace: str, call: Call, search: str, options: dict[str, Any]
) -> None:
    tenant = places.in_namespace(namespace)
    assert await found_by(call, tenant, search, **options) == []
    await call(tenant, "add_texts", ["near"], ids=["near"])
    assert await found_by(call, tenant, search, **options) == ["near"]
    assert await found_by(call, places, search, namespace=namespace, **options) == ["near"]
    assert len(await found_by(call, places, search, k=10, **options)) == len(STORED)


async def test_writes_and_deletes_of_one_namespace_leave_another_alone(
    places: VecmeterVectorStore, namespace: str, call: Call
) -> None:
    tenant = places.in_namespace(namespace)
    assert await call(tenant, "get_by_ids", STORED) == []
    await call(places, "add_texts", ["near"], [{"whose": "tenant"}], ids=["near"], namespace=namespace)
    assert [one.metadata for one in await call(tenant, "get_by_ids", STORED)] == [{"whose": "tenant"}]
    await call(tenant, "delete", delete_all=True)
    assert await call(tenant, "get_by_ids", STORED) == []
    assert [one.metadata for one in await call(places, "get_by_ids", STORED)] == KINDS


async def test_scores_are_those_of_the_metric_the_best_first(places: VecmeterVectorStore, call: Call) -> None:
    found = await call(places, "similarity_search_with_score", "query", k=4)
    assert [document.id for document, _ in found] == ["nearer", "near", "aside", "away"]
    assert [score for _, score in found] == pytest.approx([1 / math.hypot(1, 0.02), 1 / math.hypot(1, 0.03), 0.8, 0.0])
    by_vector = await call(places, "similarity_search_by_vector_with_score", PLACES["query"], k=4)
    assert by_vector == found


async def test_the_options_of_a_search_are_those_of_the_service(places: VecmeterVectorStore, call: Call) -> None:
    assert await found_by(call, places, "similarity_search", k=2, offset=1) == ["near", "aside"]
    assert await found_by(call, places, "similarity_search", min_score=0.5, exact=True) == ["nearer", "near", "aside"]
    assert await found_by(call, places, "similarity_search", group_by="kind") == ["nearer", "near"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'where'"):
        await call(places, "similarity_search", "query", where={"kind": "odd"})
    with pytest.raises(TypeError, match="multiple values for keyword argument 'vector'"):
        await call(places, "similarity_search", "query", vector=[1.0, 0.0, 0.0])
    with pytest.raises(InvalidRequestError, match="mode"):
        await call(places, "similarity_search", "query", mode="words")


async def test_hybrid_search_finds_an_exact_word_that_the_vector_misses(make: Make, call: Call) -> None:
    texts = {f"pump number {number}": (1.0, number / 100, 0.0) for number in range(30)}
    wanted = "part QX-4471"
    embedding = Known({"QX-4471": (1.0, 0.0, 0.0), **texts, wanted: (0.0, 0.0, 1.0)})
    store = make(embedding, create_collection={"text_search": "english"})
    await call(store, "add_texts", [*texts, wanted])

    async def best(**options: Any) -> str:
        [found] = await call(store, "similarity_search", "QX-4471", k=1, **options)
        return str(found.page_content)

    assert await best() == "pump number 0"
    assert await best(mode="hybrid") == wanted
    assert await best(mode="hybrid", text_weight=0.0) == "pump number 0"
    assert await best(mode="text") == wanted
    by_default = make(embedding, mode="hybrid")
    assert (await call(by_default, "similarity_search", "QX-4471", k=1))[0].page_content == wanted
    [other, _] = await call(by_default.as_retriever(search_kwargs={"k": 2}), "invoke", "QX-4471")
    assert other.page_content == wanted


async def test_mmr_takes_what_differs(places: VecmeterVectorStore, call: Call) -> None:
    async def chosen(**options: Any) -> list[str]:
        return await found_by(call, places, "max_marginal_relevance_search", k=2, **options)

    assert await chosen(lambda_mult=1) == ["nearer", "near"]
    assert await chosen(lambda_mult=0.5) == ["nearer", "aside"]
    assert await chosen(lambda_mult=0.5, fetch_k=2) == ["nearer", "near"]
    assert await chosen(lambda_mult=0) == ["nearer", "away"]
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInputError, match="must lie between 0 and 1"):
            await chosen(lambda_mult=weight)
    with pytest.raises(InvalidInputError, match="text compares no vectors"):
        await chosen(mode="text")
    with pytest.raises(InvalidInputError, match="matches wanted is 0; it must be at least 1"):
        await call(places, "max_marginal_relevance_search", "query", k=0)


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
async def test_mmr_chooses_as_langchains_own_function(make: Make, call: Call, metric: str) -> None:
    random.seed(metric)
    vectors = {f"text {number}": [random.gauss(0, 1) for _ in range(5)] for number in range(40)}
    store = make(Known(vectors), create_collection={"metric": metric})
    await call(store, "add_texts", vectors, ids=list(vectors))
    query = [random.gauss(0, 1) for _ in range(5)]
    candidates = [str(one.id) for one in await call(store, "similarity_search_by_vector", query, k=25)]
    for weight in (0.0, 0.3, 0.5, 0.8, 1.0):
        expected = maximal_marginal_relevance(np.array(query), [vectors[id] for id in candidates], weight, 7)
        found = await call(store, "max_marginal_relevance_search_by_vector", query, k=7, fetch_k=25, lambda_mult=weight)
        assert [one.id for one in found] == [candidates[at] for at in expected]


SENTENCES = (
    "The invoice is due in March.",
    "The invoice was due in March.",
    "Invoices are paid by bank transfer.",
    "The cat sleeps on the sofa.",
    "A cat and a dog play in the garden.",
    "Bank holidays are in May.",
)


def by_server(make: Make, **options: Any) -> VecmeterVectorStore:
    return make(None, create_collection={"embedder": "built-in", **options})


async def test_without_an_embedding_the_service_embeds_texts_and_queries(make: Make, call: Call) -> None:
    store = by_server(make, text_search="english")
    await call(store, "add_texts", SENTENCES, ids=SENTENCES)
    [found] = await call(store, "similarity_search", "when must I pay the invoice?", k=1, filter={})
    assert "invoice" in found.page_content.lower()
    [(found, relevance)] = await call(store, "similarity_search_with_relevance_scores", SENTENCES[3], k=1)
    assert (found.page_content, relevance) == (SENTENCES[3], pytest.approx(1.0, abs=1e-5))
    assert len(await call(store, "similarity_search", "garden", mode="hybrid")) == 4
    assert store.embeddings is None


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
async def test_mmr_of_a_text_that_the_service_embeds_chooses_as_langchains_own_function(
    make: Make, client: Client, name: str, call: Call, metric: str
) -> None:
    store = by_server(make, metric=metric)
    await call(store, "add_texts", SENTENCES, ids=SENTENCES)
    # In another namespace, to get at the vector that the service makes of the query.
    await call(store, "add_texts", ["cats and invoices"], ids=["query"], namespace="queries")
    collection = client.project(PROJECT).collection(name)
    [query] = collection.fetch(["query"], namespace="queries")
    # Of different lengths, which tells distances and products from cosines.
    lengths = [0.5, 2.0, 1.0, 3.0, 0.7, 1.5]
    vectors = {
        one.id: [number * length for number in one.vector]
        for one, length in zip(collection.fetch(SENTENCES), lengths, strict=True)
    }
    collection.upsert([Vector(id, vector, document=id) for id, vector in vectors.items()])
    by_vector = collection.search(query.vector, top_k=6)
    candidates = [one.id for one in by_vector]
    for weight in (0.0, 0.4, 0.6, 1.0):
        expected = maximal_marginal_relevance(np.array(query.vector), [vectors[id] for id in candidates], weight, 5)
        found = await call(store, "max_marginal_relevance_search", "cats and invoices", k=5, lambda_mult=weight)
        assert [one.id for one in found] == [candidates[at] for at in expected]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("cosine", [1.0, 0.9, 0.5, 0.0]),
        ("inner_product", [1.0, 0.9, 0.5, 0.0]),
        ("l2", [1.0, 1 / (1 + math.sqrt(0.4)), 1 / (1 + math.sqrt(2)), 1 / 3]),
    ],
)
async def test_relevance_runs_from_0_to_1_under_every_metric(
    make: Make, call: Call, metric: str, expected: Sequence[float]
) -> None:
    vectors = {"same": (1.0, 0.0), "like": (0.8, 0.6), "unlike": (0.0, 1.0), "opposite": (-1.0, 0.0)}
    store = make(Known(vectors), create_collection={"metric": metric})
    await call(store, "add_texts", vectors, ids=list(vectors))
    found = await call(store, "similarity_search_with_relevance_scores", "same")
    assert [document.id for document, _ in found] == list(vectors)
    assert [relevance for _, relevance in found] == pytest.approx(expected, abs=1e-6)
    some = await call(store, "similarity_search_with_relevance_scores", "same", score_threshold=expected[1] - 1e-3)
    assert [document.id for document, _ in some] == ["same", "like"]


async def test_scores_that_are_no_relevance_are_refused_and_not_passed_off_as_one(make: Make, call: Call) -> None:
    store = make(Known({"long": (3.0, 4.0)}), create_collection={"metric": "inner_product", "text_search": "simple"})
    await call(store, "add_texts", ["long"])
    for options, message in (
        ({}, "an inner product of 25.0"),
        ({"mode": "text"}, "scores of mode text"),
        ({"mode": "hybrid", "fusion": "rrf"}, "scores of fusion rrf"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            await call(store, "similarity_search_with_relevance_scores", "long", **options)
    [(_, relevance)] = await call(store, "similarity_search_with_relevance_scores", "long", mode="hybrid")
    assert 0 <= relevance <= 1


@pytest.mark.parametrize(
    ("search_type", "options", "expected"),
    [
        ("similarity", {"k": 2}, ["nearer", "near"]),
        ("similarity", {"k": 2, "filter": {"kind": "odd"}}, ["nearer", "aside"]),
        ("mmr", {"k": 2, "fetch_k": 4}, ["nearer", "aside"]),
        ("similarity_score_threshold", {"score_threshold": 0.95}, ["nearer", "near"]),
    ],
)
async def test_retrievers_of_every_type_work(
    places: VecmeterVectorStore, call: Call, search_type: str, options: dict[str, Any], expected: list[str]
) -> None:
    retriever = places.as_retriever(search_type=search_type, search_kwargs=options)
    found = await call(retriever, "invoke", "query")
    assert [document.page_content for document in found] == expected


async def test_a_limit_of_the_key_is_raised_with_what_it_is(
    places: VecmeterVectorStore, call: Call, limited_key: Callable[..., str]
) -> None:
    store = VecmeterVectorStore("places", Known(PLACES), api_key=limited_key(daily_requests=2))
    for _ in range(2):
        assert len(await call(store, "similarity_search", "query")) == 4
    with pytest.raises(LimitExceededError) as refused:
        await call(store, "similarity_search", "query")
    [policy] = refused.value.violated_policies
    assert (policy.name, policy.scope, policy.limit) == ("daily_requests", "key", 2)
    assert refused.value.retry_after is not None
