"""Texts on their way into a store, and out of it by id."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index

from conftest import Call, Known, Make
from vecmeter_client import InvalidInputError, InvalidRequestError, LimitExceededError
from vecmeter_client.langchain import VecmeterVectorStore

MANY = [f"text {number}" for number in range(1_200)]


def of_numbers(texts: Sequence[str] = MANY) -> Known:
    return Known({text: (1.0, number, number % 7) for number, text in enumerate(texts, 1)})


async def test_a_document_comes_back_as_it_was_written(store: VecmeterVectorStore, call: Call) -> None:
    metadata = {"n": 1, "half": 0.5, "yes": True, "none": None, "list": [1, "a"], "inner": {"ä": "ö"}, "": "empty"}
    written = [Document(page_content="", metadata=metadata, id="a"), Document(page_content="b", id="b/2 ?")]
    assert await call(store, "add_documents", written) == ["a", "b/2 ?"]
    assert await call(store, "get_by_ids", ["b/2 ?", "a"]) == [written[1], written[0]]


async def test_documents_are_got_by_any_number_of_ids_in_their_order(make: Make, call: Call) -> None:
    store = make(of_numbers())
    ids = await call(store, "add_texts", MANY)
    assert len(set(ids)) == len(MANY)
    wanted = [*reversed(ids), "missing", ids[0], ids[-1]]
    assert [found.id for found in await call(store, "get_by_ids", wanted)] == list(reversed(ids))
    assert await call(store, "get_by_ids", []) == []


async def test_texts_are_embedded_and_written_a_batch_at_a_time(make: Make, call: Call) -> None:
    embedding = of_numbers()
    store = make(embedding)
    ids = await call(store, "add_texts", MANY, batch_size=500)
    assert embedding.batches == [500, 500, 200]
    found = await call(store, "get_by_ids", ids)
    assert [document.page_content for document in found] == MANY


class Counted(list[float]):
    """A vector that can be asked whether it is still there."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


async def test_vectors_are_held_a_batch_at_a_time(make: Make, call: Call) -> None:
    alive: WeakSet[Counted] = WeakSet()
    at_most: list[int] = []

    class Watched(Known):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            made = [Counted(vector) for vector in super().embed_documents(texts)]
            at_most.append(len(alive))
            for vector in made:
                alive.add(vector)
            return list(made)

    await call(make(Watched(of_numbers().vectors)), "add_texts", MANY[:500], batch_size=100)
    assert max(at_most) <= 100
    assert at_most[-1] > 0


@pytest.mark.parametrize(
    ("metadata", "place"),
    [
        ({"due": datetime.date(2026, 3, 1)}, r"metadatas\.1\.due: date"),
        ({"inner": [{"who": {1, 2}}]}, r"metadatas\.1\.inner\.0\.who: set"),
        ({"price": float("nan")}, r"metadatas\.1\.price: nan"),
        ({"by_year": {2026: "x"}}, r"metadatas\.1\.by_year\.2026: the name is int"),
    ],
)
async def test_metadata_that_is_no_json_is_named_before_anything_is_embedded_or_sent(
    make: Make, call: Call, metadata: Any, place: str
) -> None:
    embedding = of_numbers(["a", "b"])
    store = make(embedding)
    with pytest.raises(InvalidInputError, match=place):
        await call(store, "add_texts", ["a", "b"], [{}, metadata], ids=["a", "b"])
    assert embedding.batches == []
    assert await call(store, "get_by_ids", ["a", "b"]) == []


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a", "b"], {"metadatas": [{}]}, "metadatas: there are 1, and 2 texts"),
        (["a", "b"], {"ids": ["1", "2", "3"]}, "ids: there are 3, and 2 texts"),
        (["a", 7], {}, r"texts\.1: is int, not text"),
        (["a"], {"batch_size": 0}, "batch_size: is 0"),
        ("ab", {}, "texts: is the text 'ab'; give a list"),
        (["a", "b"], {"ids": "ab"}, "ids: is the text 'ab'; give a list"),
    ],
)
async def test_what_does_not_fit_together_is_refused(
    make: Make, call: Call, texts: Any, options: Any, message: str
) -> None:
    embedding = of_numbers(["a", "b"])
    with pytest.raises(InvalidInputError, match=message):
        await call(make(embedding), "add_texts", texts, **options)
    assert embedding.batches == []


async def test_an_embedding_that_makes_too_few_vectors_is_named_and_nothing_is_written(make: Make, call: Call) -> None:
    class OneOnly(Known):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[:1]

    store = make(OneOnly({"a": (1.0,), "b": (2.0,)}))
    with pytest.raises(InvalidInputError, match="embedding: made 1 vectors of 2 texts"):
        await call(store, "add_texts", ["a", "b"], ids=["a", "b"])
    assert await call(store, "get_by_ids", ["a", "b"]) == []


async def test_an_empty_id_is_refused_and_none_is_made_up_in_its_place(make: Make, call: Call) -> None:
    with pytest.raises(InvalidRequestError, match=r"vectors\.1\.id"):
        await call(make(of_numbers(["a", "b"])), "add_texts", ["a", "b"], ids=[None, ""])


async def test_a_limit_met_halfway_says_where_to_go_on(make: Make, call: Call, limited_key: Callable[..., str]) -> None:
    make(of_numbers()).get_by_ids(["makes the collection"])
    store = make(of_numbers(), create_collection=False, api_key=limited_key(writes_per_day=600))
    with pytest.raises(LimitExceededError) as refused:
        await call(store, "add_texts", MANY, ids=MANY, batch_size=300)
    partial = refused.value.partial
    assert partial is not None
    assert (partial.next_index, partial.upserted.inserted, partial.upserted.usage.vectors) == (600, 600, 600)
    assert refused.value.violated_policies[0].name == "writes_per_day"
    ids = MANY[partial.next_index :]
    await call(make(of_numbers()), "add_texts", ids, ids=ids)
    assert len(make(of_numbers()).get_by_ids(MANY)) == len(MANY)


async def test_an_embedding_that_fails_halfway_leaves_a_note_of_what_is_written(make: Make, call: Call) -> None:
    store = make(of_numbers(MANY[:400]))
    with pytest.raises(KeyError) as failed:
        await call(store, "add_texts", MANY, ids=MANY, batch_size=300)
    assert failed.value.__notes__ == ["300 of 1200 texts are written; texts[300] is the next one."]
    assert len(store.get_by_ids(MANY)) == 300


async def test_a_fault_the_service_finds_is_named_by_its_place_among_all_texts(make: Make, call: Call) -> None:
    store = make(of_numbers())
    ids = [*MANY[:-1], "x" * 600]
    with pytest.raises(Exception, match=r"vectors\.1199\.id") as refused:
        await call(store, "add_texts", MANY, ids=ids, batch_size=500)
    assert refused.value.partial.next_index == 1000


async def test_exactly_what_is_named_is_deleted(make: Make, call: Call) -> None:
    texts = ["a", "b", "c", "d"]
    store = make(of_numbers(texts))

    async def left() -> list[str | None]:
        return [found.id for found in await call(store, "get_by_ids", texts)]

    await call(store, "add_texts", texts, [{"kind": text < "c"} for text in texts], ids=texts)
    assert await call(store, "delete", [])
    for nothing in ({}, {"ids": None}, {"ids": ["a"], "delete_all": True}, {"filter": {"kind": 1}, "ids": []}):
        with pytest.raises(InvalidInputError, match="exactly one of ids, filter and delete_all"):
            await call(store, "delete", **nothing)
    assert await left() == texts
    assert await call(store, "delete", ["a", "missing"])
    assert await left() == ["b", "c", "d"]
    await call(store, "delete", filter={"kind": True})
    assert await left() == ["c", "d"]
    await call(store, "delete", delete_all=True)
    assert await left() == []


async def test_a_single_id_is_not_taken_for_the_ids_that_its_characters_are(make: Make, call: Call) -> None:
    store = make(of_numbers(["a", "b"]))
    await call(store, "add_texts", ["a", "b"], ids=["a", "b"])
    for method in ("delete", "get_by_ids"):
        with pytest.raises(InvalidInputError, match="ids: is the text 'ab'; give a list"):
            await call(store, method, "ab")
    assert len(await call(store, "get_by_ids", ["a", "b"])) == 2


async def test_stores_are_made_from_texts_and_documents(name: str, call: Call) -> None:
    options = {"collection": name, "create_collection": True}
    embedding = of_numbers(["a", "b"])
    store = await call(VecmeterVectorStore, "from_texts", ["a", "b"], embedding, [{"n": 1}, {"n": 2}], **options)
    assert [found.metadata for found in await call(store, "similarity_search", "b", k=1)] == [{"n": 2}]
    again = await call(VecmeterVectorStore, "from_documents", [Document("b", id="b")], embedding, **options)
    assert await call(again, "get_by_ids", ["b"]) == [Document("b", id="b")]
    again.close()
    store.close()


def test_langchains_indexing_keeps_a_store_like_its_source(make: Make) -> None:
    store = make(of_numbers(["a", "b", "c"]))
    records = InMemoryRecordManager("notes")
    records.create_schema()

    def indexed(*texts: str) -> dict[str, int]:
        documents = [Document(text, metadata={"source": text}) for text in texts]
        return dict(index(documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256"))

    assert indexed("a", "b") == {"num_added": 2, "num_updated": 0, "num_skipped": 0, "num_deleted": 0}
    assert indexed("b", "c") == {"num_added": 1, "num_updated": 0, "num_skipped": 1, "num_deleted": 1}
    assert {found.page_content for found in store.similarity_search("a", k=10)} == {"b", "c"}
