"""A search by words finds every document that has one of them, the best by BM25 first, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.texts import bm25, create_texts, scores, text_query, write_texts
from tests.fixtures.vectors import PlanLog, Store, fresh_database
from vecmeter.vectors import text_search
from vecmeter.vectors.model import Collection, Patch, Plan
from vecmeter_local.corpus import read_texts, source_files
from vecmeter_local.postgres import PostgresServer

WORDS = ("anchor", "bread", "cloud", "drum", "echo", "fern")
NAMES = itertools.count()
DOCUMENTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12), min_size=1, max_size=12)
QUERY = st.lists(st.sampled_from([*WORDS, "unheard"]), min_size=1, max_size=5)
REPEATED = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def texts(store: Store) -> Collection:
    return create_texts(store)


@REPEATED
@given(documents=DOCUMENTS, asked=QUERY)
@pytest.mark.parametrize("is_small", [True, False])
def test_scores_are_those_of_bm25(store: Store, is_small: bool, documents: list[list[str]], asked: list[str]) -> None:
    collection = create_texts(store, name=f"texts-{next(NAMES)}")
    by_id = {f"d{position}": words for position, words in enumerate(documents)}
    write_texts(store, collection, {id: " ".join(words) for id, words in by_id.items()})
    believe(store, collection, is_small=is_small)

    found = scores(store, collection, text_query(" ".join(asked), top_k=50))

    assert found == pytest.approx(bm25(by_id, asked), rel=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 60, 254, 255])
def test_every_occurrence_of_a_word_counts(store: Store, texts: Collection, count: int) -> None:
    by_id = {"often": ["drum"] * count + ["bread"], "once": ["drum", "bread"]}
    write_texts(store, texts, {id: " ".join(words) for id, words in by_id.items()})

    assert scores(store, texts, text_query("drum")) == pytest.approx(bm25(by_id, ["drum"]), rel=1e-6)


@REPEATED
@given(documents=DOCUMENTS, asked=QUERY, top_k=st.integers(1, 5), few=st.integers(1, 8))
def test_what_cannot_come_up_to_the_best_is_passed_over_and_nothing_else(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    documents: list[list[str]],
    asked: list[str],
    top_k: int,
    few: int,
) -> None:
    collection = create_texts(store, name=f"texts-{next(NAMES)}")
    by_id = {f"d{position:02}": words for position, words in enumerate(documents)}
    write_texts(store, collection, {id: " ".join(words) for id, words in by_id.items()})
    monkeypatch.setattr(text_search, "FEW", few)

    found = scores(store, collection, text_query(" ".join(asked), top_k=top_k))

    assert list(found.values()) == pytest.approx(sorted(bm25(by_id, asked).values(), reverse=True)[:top_k], rel=1e-6)


def test_a_namespace_is_searched_alone(store: Store, texts: Collection) -> None:
    for name in ("", "'", "\\", "' | drum", "a & b", "é\n", "!("):
        write_texts(store, texts, {f"of {name}": "a drum", f"other {name}": "bread"}, namespace=name)

    for name in ("", "'", "\\", "' | drum", "a & b", "é\n", "!("):
        for is_small in (True, False):
            believe(store, texts, is_small=is_small)
            assert list(scores(store, texts, text_query("drum", namespace=name))) == [f"of {name}"]
    assert not scores(store, texts, text_query("drum", namespace="drum"))


def test_words_of_another_namespace_do_not_change_a_score_of_a_small_one(store: Store, texts: Collection) -> None:
    write_texts(store, texts, {"a": "drum bread", "b": "bread"}, namespace="mine")
    before = scores(store, texts, text_query("drum bread", namespace="mine"))
    write_texts(store, texts, {str(number): "drum" for number in range(20)}, namespace="yours")

    assert scores(store, texts, text_query("drum bread", namespace="mine")) == before


@pytest.mark.parametrize("few", [1, 5, 5000])
def test_a_filter_lets_its_own_through_and_all_of_them(
    store: Store, texts: Collection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(text_search, "FEW", few)
    for place in range(40):
        text = " ".join(["drum"] * (1 + place % 7) + ["bread"] * (place % 5))
        write_texts(store, texts, {f"d{place:02}": text}, metadata={"tenth": place % 10, "place": place})
    everything = scores(store, texts, text_query("drum bread", top_k=40))

    for filter, among in (
        ({"tenth": 3}, range(3, 40, 10)),
        ({"place": 17}, [17]),
        ({"place": {"$gte": 10}}, range(10, 40)),
        ({"place": 99}, []),
    ):
        wanted = [id for id in everything if int(id[1:]) in among]
        for top_k in (3, 40):
            found = scores(store, texts, text_query("drum bread", filter=filter, top_k=top_k))
            assert list(found) == wanted[:top_k], filter
            assert found == pytest.approx({id: everything[id] for id in wanted[:top_k]})


def test_what_has_expired_is_not_found(store: Store, texts: Collection) -> None:
    write_texts(store, texts, {"stays": "drum", "goes": "drum"}, expires_at=datetime.now(UTC) + timedelta(days=1))
    store.rows(
        f"UPDATE vecmeter.records_{texts.collection_id} SET expires_at = now() - interval '1 second' WHERE id = 'goes'"
    )

    assert list(scores(store, texts, text_query("drum"))) == ["stays"]
    assert list(scores(store, texts, text_query("drum", top_k=1))) == ["stays"]


def test_the_next_search_sees_what_was_written_changed_and_deleted(store: Store, texts: Collection) -> None:
    write_texts(store, texts, {"a": "drum", "b": "bread"})
    assert list(scores(store, texts, text_query("drum"))) == ["a"]

    write_texts(store, texts, {"b": "drum drum"})
    assert set(scores(store, texts, text_query("drum"))) == {"a", "b"}
    store.records.patch(texts, "", "a", Patch(document="cloud"))
    assert list(scores(store, texts, text_query("drum"))) == ["b"]
    assert list(scores(store, texts, text_query("cloud"))) == ["a"]
    store.records.delete_one(texts, "", "b")
    assert not scores(store, texts, text_query("drum"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the of and",
        "'; DROP TABLE vecmeter.collections; --",
        "a' | 'b & !c:* <-> (d",
        "\\ \\' '\\''",
        "%s %(id)s {records} [filter] $1",
        "😀 \u202e ﷽ ñandú ß İ \x01 \x7f",
        "http://user@example.com:8080/a/b?c=d&e='f' /usr/bin -1.5e10 x.y-z",
        "'" * 2000,
        "word " * 2000,
        " ".join(f"word{number}" for number in range(1500)),
        "x" * 10_000,
    ],
)
@pytest.mark.parametrize("is_small", [True, False])
def test_any_text_is_words_and_never_a_query_language(store: Store, text: str, is_small: bool) -> None:
    texts = create_texts(store, "english")
    write_texts(store, texts, {"one": "a drum and some bread", "word": "word7 word8", "none": None, "blank": ""})
    believe(store, texts, is_small=is_small)

    found = scores(store, texts, text_query(text))

    assert set(found) <= {"word"}
    assert scores(store, texts, text_query(text + " drum"))["one"] > 0 or len(text) >= 2000


def test_pages_fit_together(store: Store, texts: Collection) -> None:
    write_texts(store, texts, {f"d{place:02}": "drum " * (1 + place % 3) for place in range(25)})
    everything = list(scores(store, texts, text_query("drum", top_k=25)))

    pages = [list(scores(store, texts, text_query("drum", top_k=10, offset=offset))) for offset in (0, 10, 20)]

    assert [len(page) for page in pages] == [10, 10, 5]
    assert list(itertools.chain(*pages)) == everything


def test_groups_and_least_scores_are_those_of_the_list(store: Store, texts: Collection) -> None:
    for place in range(30):
        write_texts(store, texts, {f"d{place:02}": "drum " * (1 + place)}, metadata={"third": place // 10})
    everything = scores(store, texts, text_query("drum", top_k=30))

    grouped = scores(store, texts, text_query("drum", group_by="third", top_k=3))
    best = {third: next(id for id in everything if int(id[1:]) // 10 == third) for third in range(3)}
    assert set(grouped) == set(best.values())
    least = list(everything.values())[4]
    assert list(scores(store, texts, text_query("drum", top_k=30, min_score=least))) == list(everything)[:5]


def test_a_search_is_one_statement(store: Store, texts: Collection) -> None:
    write_texts(store, texts, {"a": "drum"})
    store.ids(texts, text_query("drum"))
    log = PlanLog(store.database)

    result, plans = log.of(lambda: store.searcher.search(texts, text_query("drum")))

    assert result.plan is Plan.TEXT
    assert len(plans) == 1


@pytest.fixture(scope="module")
def library(postgres_server: PostgresServer, template_database: str) -> Iterator[tuple[Store, Collection, list[str]]]:
    """2,500 docstrings of the standard library, and what somebody may look for in them."""
    with fresh_database(postgres_server, template_database) as dsn:
        store = Store(dsn)
        documents = {text.id: text.document for text in itertools.islice(read_texts(source_files()), 2500)}
        collection = create_texts(store, "english")
        write_texts(store, collection, documents)
        store.rows(f"ANALYZE vecmeter.texts_{collection.collection_id}")
        lengths = itertools.cycle([1, 2, 3, 5, 8])
        asked = [" ".join(text.split()[3:][: next(lengths)]) for text in itertools.islice(documents.values(), 40)]
        yield store, collection, ["return", "return the value", "a new object of the given name or None", *asked]
        store.close()


@pytest.mark.parametrize("top_k", [1, 10, 100])
@pytest.mark.parametrize("few", [20, 200])
def test_on_real_text_it_finds_what_scoring_every_document_finds(
    library: tuple[Store, Collection, list[str]], monkeypatch: pytest.MonkeyPatch, few: int, top_k: int
) -> None:
    store, collection, asked = library
    for text in asked:
        monkeypatch.setattr(text_search, "FEW", 10**6)
        wanted = scores(store, collection, text_query(text, top_k=top_k))
        monkeypatch.setattr(text_search, "FEW", few)
        found = scores(store, collection, text_query(text, top_k=top_k))
        assert found == pytest.approx(wanted, rel=1e-9), text


def test_a_common_word_with_rarer_ones_does_not_make_it_read_every_document(
    library: tuple[Store, Collection, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, collection, _ = library
    monkeypatch.setattr(text_search, "FEW", 100)
    log = PlanLog(store.database)

    query = text_query("return the median of a sequence")
    store.search(collection, query)  # which looks at the size of the namespace, too
    _, [plan] = log.of(lambda: store.search(collection, query))

    [(with_return,)] = store.rows(
        f"SELECT count(*) FROM vecmeter.texts_{collection.collection_id} WHERE terms @@ 'return'::tsquery"
    )
    assert f"seq:texts_{collection.collection_id}" not in plan
    assert scored(plan) < with_return / 2


def scored(plan: str) -> int:
    """How many documents a plan computed the score of."""
    return max(
        int(line.rsplit("loops=", 1)[1].rstrip(")"))
        for line in plan.splitlines()
        if "Aggregate" in line and "loops=" in line
    )


def believe(store: Store, collection: Collection, *, is_small: bool) -> None:
    """Make the store's searcher take a namespace for a corpus of its own, or for a part of the collection."""
    store.searcher._threshold = 10**6 if is_small else 0
