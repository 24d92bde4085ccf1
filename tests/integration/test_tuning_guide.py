"""The guides of pgvector-tuning and maintenance are for a bad day: what they tell to run, runs; what they say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.vectors import Store, clustered, vector, write_all
from vecmeter.settings import Settings
from vecmeter.tasks import SCHEDULE, TASKS
from vecmeter.vectors.model import IndexDefinition
from vecmeter.vectors.vector_search import DEFAULT_EF_SEARCH

GUIDE = (Path(__file__).parents[2] / "docs/pgvector-tuning.md").read_text()
TASKS_TOLD = (Path(__file__).parents[2] / "docs/maintenance.md").read_text()
PERIODS = {"5 min": 300, "30 min": 1800, "1 h": 3600, "6 h": 6 * 3600, "1 day": 86400, "by hand": None}


def _queries() -> list[str]:
    blocks = "".join(re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL))
    statements = re.sub(r"--[^\n]*", "", blocks).split(";")
    return [statement.strip() for statement in statements if statement.strip()]


def test_every_query_of_the_guide_runs_and_those_about_indexes_show_them(store: Store) -> None:
    store.index_from(100)
    collection = store.create(dimension=8)
    write_all(store, collection, [vector(str(i), *row) for i, row in enumerate(clustered(200, 8))])
    store.build(collection)
    assert len(_queries()) == 7
    answers = [store.rows(query) for query in _queries()]
    size, _, indexes, in_memory, *_ = answers
    assert size[0][0] is not None
    assert [row[:4] for row in indexes] == [(collection.name, None, "ready", "half")]
    assert len(in_memory) == 1


@pytest.mark.parametrize(("task", "period"), re.findall(r"^\| `(\w+)` \| ([^|]+?) \| .* \|$", TASKS_TOLD, re.MULTILINE))
def test_every_task_of_the_guide_is_there_and_runs_as_often_as_it_says(task: str, period: str) -> None:
    assert task in TASKS
    assert SCHEDULE.get(task) == PERIODS[period.partition(",")[0]]


def test_the_guide_names_every_task() -> None:
    assert all(f"`{task}`" in TASKS_TOLD for task in TASKS)


def test_the_guide_speaks_of_the_defaults_there_are() -> None:
    index = IndexDefinition()
    named = f"`m` {index.m}, `ef_construction` {index.ef_construction}, `ef_search` {DEFAULT_EF_SEARCH}"
    assert named in GUIDE
    memory = Settings.from_environment({"TABLE_NAME": "t", "DATABASE_URL": "d"}).index_build_memory_mb
    assert f"`INDEX_BUILD_MEMORY_MB` ({memory})" in GUIDE
