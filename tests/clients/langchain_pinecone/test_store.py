"""What LangChain's Pinecone store is used for, on Vecmeter."""

from __future__ import annotations

import os

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_pinecone import PineconeVectorStore
from pinecone.exceptions import NotFoundException, PineconeApiException, UnauthorizedException

TEXTS = [f"text {number}" for number in range(10)]
METADATAS = [{"number": number, "kinds": ["even" if number % 2 == 0 else "odd", "any"]} for number in range(10)]


@pytest.fixture
def filled(store: PineconeVectorStore) -> PineconeVectorStore:
    """Ten documents, by the ids 0 to 9."""
    store.add_texts(TEXTS, [dict(metadata) for metadata in METADATAS], ids=[str(number) for number in range(10)])
    return store


def test_texts_are_found_by_a_store_of_the_same_index(
    index_name: str, embedding: DeterministicFakeEmbedding, namespace: str
) -> None:
    PineconeVectorStore.from_texts(TEXTS, embedding, index_name=index_name, namespace=namespace, batch_size=3)
    other = PineconeVectorStore.from_existing_index(index_name, embedding, namespace=namespace)
    assert {document.page_content for document in other.similarity_search("text 3", k=20)} == set(TEXTS)


def test_documents_come_back_with_their_id_text_and_metadata(filled: PineconeVectorStore) -> None:
    (found,) = filled.similarity_search("text 4", k=1)
    assert found == Document(id="4", page_content="text 4", metadata=METADATAS[4])


def test_scores_are_cosines_and_fall(filled: PineconeVectorStore) -> None:
    found = filled.similarity_search_with_score("text 4", k=10)
    scores = [score for _, score in found]
    assert (found[0][0].id, scores[0]) == ("4", pytest.approx(1, abs=1e-6))
    assert scores == sorted(scores, reverse=True)
    relevance = [score for _, score in filled.similarity_search_with_relevance_scores("text 4", k=10)]
    assert relevance == pytest.approx([(score + 1) / 2 for score in scores])


def test_a_search_is_filtered_by_metadata(filled: PineconeVectorStore) -> None:
    def found(**chosen: object) -> set[str | None]:
        return {document.id for document in filled.similarity_search("text 4", k=10, filter=dict(chosen))}

    assert found(number={"$gte": 8}) == {"8", "9"}
    assert found(kinds="odd") == {"1", "3", "5", "7", "9"}
    assert found(kinds={"$in": ["even"]}, number={"$lt": 3}) == {"0", "2"}


def test_mmr_takes_the_nearest_and_then_what_differs_from_it(
    store: PineconeVectorStore, embedding: DeterministicFakeEmbedding
) -> None:
    store.add_texts(["same", "same", "same", "other"], [{"n": n} for n in range(4)])
    plain = store.similarity_search("same", k=2)
    assert [document.page_content for document in plain] == ["same", "same"]
    mmr = store.max_marginal_relevance_search("same", k=2, fetch_k=4, lambda_mult=0.1)
    assert [document.page_content for document in mmr] == ["same", "other"]
    again = store.max_marginal_relevance_search_by_vector(embedding.embed_query("other"), k=1)
    assert [document.page_content for document in again] == ["other"]


def test_a_deletion_takes_ids_a_filter_or_all(filled: PineconeVectorStore) -> None:
    def left() -> list[str]:
        return sorted(document.id or "" for document in filled.similarity_search("text 4", k=20))

    filled.delete(ids=["0", "1", "missing"])
    assert left() == [str(number) for number in range(2, 10)]
    filled.delete(filter={"number": {"$gt": 4}})
    assert left() == ["2", "3", "4"]
    filled.delete(delete_all=True)
    assert left() == []


@pytest.mark.parametrize("kind", ["similarity", "mmr", "similarity_score_threshold"])
def test_a_retriever_finds_the_document(filled: PineconeVectorStore, kind: str) -> None:
    options = {"k": 1, "score_threshold": 0.9} if kind == "similarity_score_threshold" else {"k": 1}
    retriever = filled.as_retriever(search_type=kind, search_kwargs=options)
    assert [document.page_content for document in retriever.invoke("text 7")] == ["text 7"]


async def test_everything_works_by_coroutines(store: PineconeVectorStore) -> None:
    async with store:
        ids = [str(number) for number in range(10)]
        assert await store.aadd_texts(TEXTS, [dict(metadata) for metadata in METADATAS], ids, batch_size=3) == ids
        ((found, score),) = await store.asimilarity_search_with_score("text 4", k=1, filter={"kinds": "even"})
        assert (found.id, found.metadata, score) == ("4", METADATAS[4], pytest.approx(1, abs=1e-6))
        mmr = await store.amax_marginal_relevance_search("text 4", k=3)
        assert mmr[0].page_content == "text 4"
        assert [one.id for one in await store.as_retriever(search_kwargs={"k": 1}).ainvoke("text 5")] == ["5"]
        await store.adelete(ids=["4"])
        await store.adelete(filter={"number": 5})
        assert len(await store.asimilarity_search("text 4", k=20)) == 8
        await store.adelete(delete_all=True)
        assert await store.asimilarity_search("text 4", k=20) == []


async def test_coroutines_work_without_a_context(
    index_name: str, embedding: DeterministicFakeEmbedding, namespace: str
) -> None:
    store = await PineconeVectorStore.afrom_texts(TEXTS, embedding, index_name=index_name, namespace=namespace)
    assert [one.page_content for one in await store.asimilarity_search("text 2", k=1)] == ["text 2"]


def test_faults_are_the_exceptions_of_the_sdk(
    index_name: str, embedding: DeterministicFakeEmbedding, store: PineconeVectorStore
) -> None:
    with pytest.raises(NotFoundException, match="missing"):
        PineconeVectorStore(index_name="missing", embedding=embedding)
    with pytest.raises(UnauthorizedException):
        PineconeVectorStore(index_name=index_name, embedding=embedding, pinecone_api_key="vm_local_nobody")
    with pytest.raises(PineconeApiException, match="dimension 3") as caught:
        store.similarity_search_by_vector([1.0, 2.0, 3.0])
    assert caught.value.status == 400


def test_a_store_by_host_never_asks_for_the_index(embedding: DeterministicFakeEmbedding, index_name: str) -> None:
    host = f"{os.environ['VECMETER_URL']}/indexes/{index_name}"
    store = PineconeVectorStore(host=host, embedding=embedding, namespace="by-host")
    store.add_texts(["text"], ids=["a"])
    assert [document.id for document in store.similarity_search("text", k=1)] == ["a"]
