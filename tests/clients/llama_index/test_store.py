"""Nodes in a store: written, read, searched for, deleted."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import Document, IndexNode, NodeRelationship, RelatedNodeInfo
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from conftest import Call, Make, node
from vecmeter_client import CollectionNotFoundError, ConfigurationError, InvalidInputError
from vecmeter_client.llama_index import VecmeterVectorStore

NODES = [
    node("nearer", (1.0, 0.02, 0.0), year=2024, tags=["a", "b"], title="Red pump"),
    node("near", (1.0, 0.03, 0.0), year=2025, tags=["b"], title="blue pump"),
    node("aside", (0.8, -0.6, 0.0), "two", year=2026, tags=[], title=""),
    node("away", (0.0, 0.0, 1.0), "two", title=None),
]
QUERY = [1.0, 0.0, 0.0]
ALL = ["nearer", "near", "aside", "away"]


@pytest.fixture(scope="module")
def store(make: Make) -> VecmeterVectorStore:
    """What is stored stays as it is."""
    store = make("nodes", create_collection={"text_search": "simple"})
    assert store.add(NODES) == ALL
    return store


def query(**options: Any) -> VectorStoreQuery:
    return VectorStoreQuery(**({"query_embedding": QUERY, "similarity_top_k": 10} | options))


def filters(*each: Any, condition: FilterCondition = FilterCondition.AND) -> MetadataFilters:
    made = [
        MetadataFilter(key=one[0], operator=one[1], value=one[2]) if isinstance(one, tuple) else one for one in each
    ]
    return MetadataFilters(filters=made, condition=condition)


async def test_a_node_comes_back_as_it_was_written(make: Make, call: Call) -> None:
    store = make()
    written = node("a/1 ä", (1.0, 2.0), year=2024, inner={"deep": [1, None, "x"]})
    written.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id="b", metadata={"page": 2})
    written.excluded_llm_metadata_keys = ["year"]
    index = IndexNode(id_="i", text="points on", index_id="other", embedding=[0.0, 1.0])
    await call(store, "add", [written, index])
    found = (await call(store, "query", query(query_embedding=[1.0, 2.0]))).nodes
    for [one, other] in (found, await call(store, "get_nodes", ["a/1 ä", "i"])):
        for came, went in ((one, written), (other, index)):
            assert type(came) is type(went)
            assert came.model_dump(exclude={"embedding"}) == went.model_dump(exclude={"embedding"})


async def test_the_nearest_come_first_with_their_scores(store: VecmeterVectorStore, call: Call) -> None:
    found = await call(store, "query", query(similarity_top_k=3))
    assert found.ids == [one.node_id for one in found.nodes] == ["nearer", "near", "aside"]
    assert found.similarities == pytest.approx([0.9998, 0.99955, 0.8], abs=1e-4)


@pytest.mark.parametrize(
    ("key", "operator", "value", "expected"),
    [
        ("year", "==", 2025, ["near"]),
        ("year", "!=", 2025, ["nearer", "aside", "away"]),
        ("year", ">", 2025, ["aside"]),
        ("year", ">=", 2025, ["near", "aside"]),
        ("year", "<", 2025, ["nearer"]),
        ("year", "<=", 2025, ["nearer", "near"]),
        ("year", "in", [2024, 2026], ["nearer", "aside"]),
        ("year", "nin", [2024, 2026], ["near", "away"]),
        ("tags", "contains", "a", ["nearer"]),
        ("tags", "any", ["a", "b"], ["nearer", "near"]),
        ("tags", "any", [], []),
        ("tags", "all", ["a", "b"], ["nearer"]),
        ("tags", "all", [], ALL),
        ("title", "text_match", "pump", ["nearer", "near"]),
        ("title", "text_match", "blue", ["near"]),
        ("title", "is_empty", None, ["aside", "away"]),
        ("tags", "is_empty", None, ["aside", "away"]),
    ],
)
async def test_an_operator_lets_through_what_it_means(
    store: VecmeterVectorStore, call: Call, key: str, operator: str, value: Any, expected: list[str]
) -> None:
    wanted = filters((key, FilterOperator(operator), value))
    assert (await call(store, "query", query(filters=wanted))).ids == expected
    assert {one.node_id for one in await call(store, "get_nodes", None, wanted)} == set(expected)


async def test_groups_of_filters_nest(store: VecmeterVectorStore, call: Call) -> None:
    old, tagged = ("year", FilterOperator.LT, 2025), ("tags", FilterOperator.CONTAINS, "b")
    either = filters(old, ("year", FilterOperator.EQ, 2026), condition=FilterCondition.OR)
    for wanted, expected in (
        (filters(old, tagged), ["nearer"]),
        (either, ["nearer", "aside"]),
        (filters(old, tagged, condition=FilterCondition.NOT), ["aside", "away"]),
        (filters(either, filters(tagged, condition=FilterCondition.NOT)), ["aside"]),
        (filters(), ALL),
    ):
        assert (await call(store, "query", query(filters=wanted))).ids == expected


async def test_what_has_no_equal_here_is_refused_by_name(store: VecmeterVectorStore, call: Call) -> None:
    for refused, message in (
        (query(filters=filters(("title", FilterOperator.TEXT_MATCH_INSENSITIVE, "x"))), "title: .*insensitive"),
        (query(filters=filters(("year", FilterOperator.IN, 2024))), "year: in takes a list, not 2024"),
        (query(filters=filters(filters())), "a group within them is empty"),
        (query(mode=VectorStoreQueryMode.SVM), "there is no svm; there are default, mmr, hybrid"),
        (query(output_fields=["year"]), "output_fields"),
        (query(mode=VectorStoreQueryMode.MMR, query_embedding=None, query_str="x"), "mode mmr compares vectors"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            await call(store, "query", refused)
    with pytest.raises(TypeError, match="where"):
        await call(store, "query", query(), where={})
    with pytest.raises(InvalidInputError, match="node_ids or filters must be given"):
        await call(store, "delete_nodes")


async def test_a_query_stays_within_the_nodes_and_documents_it_names(store: VecmeterVectorStore, call: Call) -> None:
    assert (await call(store, "query", query(node_ids=["away", "near"]))).ids == ["near", "away"]
    assert (await call(store, "query", query(doc_ids=["two"]))).ids == ["aside", "away"]
    both = query(node_ids=["away", "near"], doc_ids=["two"], filters=filters(("year", FilterOperator.NE, 1)))
    assert (await call(store, "query", both)).ids == ["away"]
    [found] = await call(store, "get_nodes", ["near", "aside"], filters(("year", FilterOperator.GT, 2025)))
    assert found.node_id == "aside"
    assert {one.node_id for one in await call(store, "get_nodes")} == set(ALL)


async def test_words_are_searched_for_alone_and_together_with_vectors(store: VecmeterVectorStore, call: Call) -> None:
    words = {"query_str": "away", "similarity_top_k": 1}
    for mode in (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE):
        assert (await call(store, "query", query(mode=mode, query_embedding=None, **words))).ids == ["away"]
    hybrid = {"mode": VectorStoreQueryMode.HYBRID, **words}
    assert (await call(store, "query", query(alpha=0.0, **hybrid))).ids == ["away"]
    assert (await call(store, "query", query(alpha=1.0, **hybrid))).ids == ["nearer"]
    assert (await call(store, "query", query(hybrid_top_k=3, **hybrid))).ids[0] == "away"
    assert len((await call(store, "query", query(hybrid_top_k=3, **hybrid))).ids) == 3


async def test_mmr_takes_what_differs(store: VecmeterVectorStore, call: Call) -> None:
    wanted = query(mode=VectorStoreQueryMode.MMR, similarity_top_k=2)
    assert (await call(store, "query", wanted)).ids == ["nearer", "aside"]
    assert (await call(store, "query", wanted, mmr_threshold=1.0)).ids == ["nearer", "near"]
    assert (await call(store, "query", wanted, mmr_prefetch_k=2)).ids == ["nearer", "near"]
    assert (await call(store, "query", query(mode=VectorStoreQueryMode.MMR, mmr_threshold=0.0))).ids[1] == "away"


async def test_exactly_the_nodes_named_are_deleted(make: Make, call: Call) -> None:
    store = make()

    async def left() -> list[str]:
        return sorted(one.node_id for one in await call(store, "get_nodes"))

    await call(store, "add", NODES)
    await call(store, "delete_nodes", [])
    for refused in (("delete_nodes", "ab"), ("delete_nodes", "ab", filters(("year", ">", 1))), ("get_nodes", "ab")):
        with pytest.raises(InvalidInputError, match="ids: is the text 'ab'; give a list"):
            await call(store, *refused)
    await call(store, "delete_nodes", ["near", "missing"])
    await call(store, "delete_nodes", ["nearer"], filters(("year", FilterOperator.GT, 2024)))
    assert await left() == ["aside", "away", "nearer"]
    await call(store, "delete", "two")
    assert await left() == ["nearer"]
    await call(store, "add", NODES)
    await call(store, "delete_nodes", None, filters(("tags", FilterOperator.CONTAINS, "b")))
    assert await left() == ["aside", "away"]
    await call(store, "clear")
    assert await left() == []


async def test_a_store_reaches_its_own_namespace_only(store: VecmeterVectorStore, make: Make, call: Call) -> None:
    tenant = make("nodes", create_collection=False, namespace=f"tenant of {call}")
    assert (await call(tenant, "query", query())).ids == []
    await call(tenant, "add", NODES[:1])
    assert (await call(tenant, "query", query())).ids == ["nearer"]
    await call(tenant, "clear")
    assert len((await call(store, "query", query())).ids) == len(ALL)


async def test_the_service_embeds_nodes_and_queries_that_come_without_vectors(make: Make, call: Call) -> None:
    store = make(create_collection={"embedder": "built-in"}, is_embedding_query=False)
    await call(store, "add", [node("invoice", None), node("cat", None)])
    found = await call(store, "query", query(query_embedding=None, query_str="text cat", similarity_top_k=1))
    assert found.ids == ["cat"]


async def test_an_index_over_the_store_inserts_retrieves_and_deletes(make: Make, call: Call) -> None:
    store = make()
    context = StorageContext.from_defaults(vector_store=store)
    documents = [Document(text=f"page {number}", doc_id=f"doc-{number}") for number in range(3)]
    VectorStoreIndex.from_documents(documents, context, embed_model=MockEmbedding(embed_dim=4))
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=4))
    found = await call(index.as_retriever(similarity_top_k=5), "retrieve", "page")
    assert sorted(one.node.get_content() for one in found) == ["page 0", "page 1", "page 2"]
    assert {one.node.ref_doc_id for one in found} == {"doc-0", "doc-1", "doc-2"}
    index.delete_ref_doc("doc-1")
    assert len(await call(index.as_retriever(similarity_top_k=5), "retrieve", "page")) == 2


async def test_more_nodes_than_one_search_brings_are_not_passed_off_as_all(make: Make, call: Call) -> None:
    store = make()
    await call(store, "add", [node(str(number), (1.0, number), half=number % 2) for number in range(1_001)])
    with pytest.raises(InvalidInputError, match="let 1000 nodes or more through"):
        await call(store, "get_nodes", None, filters(("half", FilterOperator.NE, 2)))
    assert len(await call(store, "get_nodes", None, filters(("id", FilterOperator.NE, 1), ("half", "==", 0)))) == 501
    assert len(await call(store, "get_nodes")) == 1_001


async def test_what_reads_or_deletes_leaves_it_to_the_first_nodes_which_collection_is_made(
    make: Make, call: Call
) -> None:
    store = make()
    await call(store, "clear")
    await call(store, "delete", "two")
    await call(store, "delete_nodes", ["a"])
    assert await call(store, "get_nodes") == await call(store, "get_nodes", ["a"]) == []
    assert (await call(store, "query", query())).ids == []
    assert (await call(store, "query", query(query_embedding=None, query_str="pump"))).ids == []
    assert await call(store, "add", NODES) == ALL
    assert len(await call(store, "get_nodes")) == len(NODES)


async def test_a_missing_collection_is_made_only_if_it_is_wanted(make: Make, call: Call) -> None:
    with pytest.raises(CollectionNotFoundError):
        await call(make("missing", create_collection=False), "add", NODES)
    with pytest.raises(ConfigurationError, match=r"metric: .* is there with 'cosine', not 'l2'"):
        await call(make("nodes", create_collection={"metric": "l2"}), "query", query())


async def test_metadata_that_is_no_json_is_named_before_anything_is_sent(make: Make, call: Call) -> None:
    store = make()
    await call(store, "add", NODES[:1])
    with pytest.raises(InvalidInputError, match=r"nodes\.bad\.metadata\.price: inf"):
        await call(store, "add", [NODES[1], node("bad", (1.0, 1.0, 1.0), price=float("inf"))])
    holds_itself: dict[str, Any] = {}
    holds_itself["itself"] = holds_itself
    with pytest.raises(InvalidInputError, match=r"nodes\.bad\.metadata: is nested too deeply"):
        await call(store, "add", [NODES[1], node("bad", (1.0, 1.0, 1.0), inner=holds_itself)])
    assert len(await call(store, "get_nodes")) == 1
