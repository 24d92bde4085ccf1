"""The official Pinecone SDK against a running stack: the key's project is fresh, each test has a namespace of its own.

What takes ``pc`` runs twice: by the synchronous client and by the asynchronous one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from stack import KEY, PROJECT, URL, Account, numbers


@pytest.fixture(scope="session", params=["sync", "async"])
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    with asyncio.Runner() as runner:
        account = Account(request.param, runner.run)
        yield account
        for client in account.opened:
            client.close()


@pytest.fixture(scope="session")
def pc(account: Account) -> Any:
    """The client of the session's project."""
    return account.client()


@pytest.fixture(scope="session")
def index(account: Account, pc: Any) -> Any:
    """An index that the session shares: three dimensions, cosine."""
    return account.new_index(pc)


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"namespace-{next(numbers)}"


@pytest.fixture
def new_name(account: Account) -> str:
    """The name of an index that is not there yet."""
    return f"{account.kind}-{next(numbers)}"


@pytest.fixture(scope="session")
def native() -> Callable[..., Any]:
    """Calls Vecmeter's own API and returns the answer's JSON; by the session's key, if no other is named."""

    def call(method: str, path: str, body: Any = None, *, key: str = KEY) -> Any:
        answer = httpx.request(method, f"{URL}{path}", json=body, headers={"Api-Key": key}, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    return call


@pytest.fixture
def new_key(native: Callable[..., Any]) -> Callable[..., str]:
    """The secret of a new key in a new project, with the roles search and write."""

    def make(**key: Any) -> str:
        admin = os.environ["VECMETER_ADMIN_KEY"]
        project = f"{PROJECT}-{next(numbers)}"
        native("POST", "/v1/admin/projects", {"project_id": project, "user_id": project}, key=admin)
        body = {"user_id": project, "project_id": project, "roles": ["search", "write"]} | key
        return str(native("POST", "/v1/admin/keys", body, key=admin)["key"])

    return make
