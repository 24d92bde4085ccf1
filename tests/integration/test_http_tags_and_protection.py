"""Tags of a collection, and its protection from being deleted."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.fixtures.api import Tenant, World, paths, problem
from tests.fixtures.vectors import in_threads

TAGS = {"team": "search", "cost_center": "4-2"}


def test_they_are_set_at_creation_and_told_wherever_a_collection_is(tenant: Tenant) -> None:
    tenant.collection("c", tags=TAGS, deletion_protection=True)
    tenant.collection("d")
    for told in (tenant.call("GET", "/c").json(), tenant.call("GET").json()["collections"][0]):
        assert (told["tags"], told["deletion_protection"]) == (TAGS, True)
    told = tenant.call("GET", "/d").json()
    assert (told["tags"], told["deletion_protection"]) == ({}, False)


def test_a_change_replaces_the_tags_it_names_and_leaves_what_it_does_not(tenant: Tenant) -> None:
    tenant.collection("c", tags=TAGS, deletion_protection=True, target_recall=0.9)

    def changed(**body: Any) -> tuple[dict[str, str], bool, float]:
        answer = tenant.call("PATCH", "/c", json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        return told["tags"], told["deletion_protection"], told["target_recall"]

    assert changed(tags={"env": "prod"}) == ({"env": "prod"}, True, 0.9)
    assert changed(deletion_protection=False) == ({"env": "prod"}, False, 0.9)
    assert changed(target_recall=0.8) == ({"env": "prod"}, False, 0.8)
    assert changed(tags={}) == ({}, False, 0.8)


def test_a_protected_collection_is_not_deleted_until_it_is_protected_no_more(world: World) -> None:
    tenant = world.tenant
    assert tenant.call("PATCH", "/c", json={"deletion_protection": True}).status_code == 200
    contents = tenant.contents()
    body = problem(tenant.call("DELETE", "/c"), 409, "deletion_protected")
    assert "'c'" in body["detail"]
    assert tenant.contents() == contents
    # What is in it is its own affair.
    assert tenant.call("POST", "/c/vectors/delete", json={"all": True}).json()["deleted"] == 2
    assert tenant.call("PATCH", "/c", json={"deletion_protection": False}).status_code == 200
    assert tenant.call("DELETE", "/c").status_code == 200


def test_a_project_with_a_protected_collection_is_not_deleted(world: World) -> None:
    tenant = world.tenant
    tenant.call("PATCH", "/c", json={"deletion_protection": True})
    answer = tenant.api.call("DELETE", f"/admin/projects/{tenant.project}", world.admin)
    assert "collection 'c'" in problem(answer, 409, "project_not_empty")["detail"]


def test_of_protecting_and_deleting_at_once_one_comes_first_and_the_other_learns_of_it(tenant: Tenant) -> None:
    for round in range(5):
        name = f"c{round}"
        tenant.collection(name)
        protect = partial(tenant.call, "PATCH", f"/{name}", json={"deletion_protection": True})
        answers = in_threads(protect, partial(tenant.call, "DELETE", f"/{name}"))
        results = [getattr(answer, "status_code", answer) for answer in answers]
        assert results in ([200, 409], [404, 200])
        assert tenant.call("GET", f"/{name}").status_code == (200 if results == [200, 409] else 404)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"tags": {f"t{at}": "x" for at in range(21)}}, "tags"),
        ({"tags": {"": "x"}}, "tags."),
        ({"tags": {"a" * 81: "x"}}, "tags." + "a" * 81),
        ({"tags": {"a b": "x"}}, "tags.a b"),
        ({"tags": {"ä": "x"}}, "tags.ä"),
        ({"tags": {"a\n": "x"}}, "tags.a\n"),
        ({"tags": {"a": ""}}, "tags.a"),
        ({"tags": {"a": "x" * 121}}, "tags.a"),
        ({"tags": {"a": "é"}}, "tags.a"),
        ({"tags": {"a": "x\n"}}, "tags.a"),
        ({"tags": {"a": 1}}, "tags.a"),
        ({"tags": None}, "tags"),
        ({"tags": ["a"]}, "tags"),
        ({"deletion_protection": "enabled"}, "deletion_protection"),
        ({"deletion_protection": None}, "deletion_protection"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_what_is_no_tag_is_refused_with_its_path(shared_world: World, body: dict[str, Any], path: str) -> None:
    tenant = shared_world.tenant
    assert paths(tenant.call("POST", json={"name": "new", "dimension": 3, **body})) == [path]
    assert paths(tenant.call("PATCH", "/c", json=body)) == [path]


def test_the_longest_tags_there_may_be_are_kept_as_they_are(tenant: Tenant) -> None:
    tags = {f"{at:02}" + "k" * 78: "~ !" * 40 for at in range(20)}
    tenant.collection("c", tags=tags)
    assert tenant.call("GET", "/c").json()["tags"] == tags
