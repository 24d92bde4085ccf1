"""Search by words and by both through HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.api import Tenant, paths, problem

DOCUMENTS = {
    "invoice": "Pay the invoice within thirty days; overdue invoices bear interest.",
    "reminder": "A reminder is sent when a payment is overdue.",
    "cat": "The cat sleeps on the sofa all day.",
}


@pytest.fixture
def library(tenant: Tenant) -> Tenant:
    """A tenant with a collection ``c`` of three documents, their words in English and a vector by the embedder."""
    answer = tenant.call("POST", json={"name": "c", "embedder": {"provider": "built-in"}, "text_search": "english"})
    assert answer.status_code == 201, answer.text
    tenant.write(
        "/c", *({"id": id, "document": text, "metadata": {"length": len(text)}} for id, text in DOCUMENTS.items())
    )
    return tenant


def search(tenant: Tenant, **body: Any) -> Any:
    answer = tenant.call("POST", "/c/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(found: Any) -> list[str]:
    return [match["id"] for match in found["matches"]]


def test_a_search_by_words_finds_what_has_them_in_any_form(library: Tenant) -> None:
    found = search(library, mode="text", text="overdue INVOICE", include_debug=True)

    assert ids(found) == ["invoice", "reminder"]
    assert found["debug"]["plan"] == "text"
    assert all("distance" not in match for match in found["matches"])
    assert found["matches"][0]["score"] > found["matches"][1]["score"] > 0
    assert found["matches"][0]["document"] == DOCUMENTS["invoice"]
    assert ids(search(library, mode="text", text="dogs")) == []


def test_a_hybrid_search_finds_both_what_has_the_words_and_what_is_alike(library: Tenant) -> None:
    found = search(library, mode="hybrid", text="overdue invoice", include_debug=True)

    assert ids(found) == ["invoice", "reminder", "cat"]
    assert found["debug"]["plan"] == "hybrid"
    assert all(match["distance"] is not None for match in found["matches"])
    by_vector = search(library, mode="hybrid", text="invoice", id="cat", text_weight=0.0, fusion="rrf")
    assert ids(by_vector)[0] == "cat"


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_what_narrows_a_search_by_vector_narrows_it_too(library: Tenant, mode: str) -> None:
    everything = search(library, mode=mode, text="overdue payment")
    first, second = everything["matches"][:2]

    assert ids(search(library, mode=mode, text="overdue payment", offset=1, top_k=1)) == [second["id"]]
    assert ids(search(library, mode=mode, text="overdue payment", min_score=first["score"])) == [first["id"]]
    assert ids(search(library, mode=mode, text="overdue payment", namespace="other")) == []
    exact = search(library, mode=mode, text="overdue payment", filter=second["metadata"], include=[])
    assert ids(exact) == [second["id"]]
    assert "document" not in exact["matches"][0]


def test_a_batch_takes_every_mode_and_answers_as_each_alone(library: Tenant) -> None:
    searches = [
        {"text": "overdue"},
        {"text": "overdue", "mode": "text"},
        {"text": "overdue", "mode": "hybrid", "fusion": "rrf"},
    ]
    answer = library.call("POST", "/c/search/batch", json={"searches": searches})
    assert answer.status_code == 200, answer.text
    for body, result in zip(searches, answer.json()["results"], strict=True):
        alone = search(library, **body)
        assert result["matches"] == alone["matches"]


def test_a_query_longer_than_the_limit_is_refused(library: Tenant) -> None:
    answer = library.call("POST", "/c/search", json={"mode": "text", "text": "word " * 2000})
    problem(answer, 422)
    assert paths(answer) == ["text"]


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_words_that_are_still_being_indexed_are_not_searched(library: Tenant, mode: str) -> None:
    library.api.runtime.database.run(lambda c: c.execute("UPDATE vecmeter.collections SET texts_ready = false"))
    library.api.runtime.collections.use(library.project, "c", lambda found: found, fresh=True)

    answer = library.call("POST", "/c/search", json={"mode": mode, "text": "overdue"})

    [error] = problem(answer, 422)["errors"]
    assert error["path"] == "mode"
    assert "being indexed" in error["message"]
