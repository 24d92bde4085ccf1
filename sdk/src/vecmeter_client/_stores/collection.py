"""The collection behind a framework's vector store: the clients that reach it, and its definition."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from vecmeter_client import (
    AsyncClient,
    AsyncCollection,
    AsyncProject,
    Client,
    Collection,
    CollectionExistsError,
    CollectionInfo,
    CollectionNotFoundError,
    ConfigurationError,
    Project,
)
from vecmeter_client._models import Metric


class ClientOptions(TypedDict, total=False):
    """What a store hands on to ``Client`` and ``AsyncClient``."""

    url: str
    api_key: str
    timeout: float
    total_timeout: float
    max_retries: int
    api_prefix: str


class NewCollection(TypedDict, total=False):
    """What ``Project.create_collection`` takes but for the name."""

    dimension: int
    metric: Metric
    index: Mapping[str, Any]
    embedder: str | Mapping[str, Any]
    text_search: str
    filterable: Mapping[str, str] | Iterable[Mapping[str, str]]
    target_recall: float
    deletion_protection: bool
    tags: Mapping[str, str]


class StoreClients:
    """A client for blocking calls, and one for each event loop that asks: connections belong to their loop.

    Args:
        client: Used for blocking calls; otherwise there is one of our own.
        async_client: Used in every event loop; otherwise there is one of our own for each.
        options: For clients of our own.

    Raises:
        ConfigurationError: no address or key is found, or there are options for a client that was given.
    """

    def __init__(self, client: Client | None, async_client: AsyncClient | None, options: ClientOptions) -> None:
        self._given = client is not None or async_client is not None
        if self._given and options:
            raise ConfigurationError(f"a client has its own {', '.join(sorted(options))}: give either, not both")
        self._options = options
        self._client = client if self._given else Client(**options)
        self._async_given = async_client
        self._of_loops: dict[asyncio.AbstractEventLoop, AsyncClient] = {}

    @property
    def blocking(self) -> Client:
        """Raises ConfigurationError where only an ``async_client`` was given."""
        if self._client is None:
            raise ConfigurationError("only async_client was given: give client=... for blocking calls, too")
        return self._client

    @property
    def awaited(self) -> AsyncClient:
        """That of the running event loop. Raises ConfigurationError where only a ``client`` was given."""
        if self._async_given is not None:
            return self._async_given
        if self._given:
            raise ConfigurationError("only client was given: give async_client=... for awaited calls, too")
        loop = asyncio.get_running_loop()
        found = self._of_loops.get(loop)
        if found is None:
            # What a loop left open when it ended cannot be closed any more, and need not be kept.
            for ended in [one for one in list(self._of_loops) if one.is_closed()]:
                self._of_loops.pop(ended, None)
            found = self._of_loops[loop] = AsyncClient(**self._options)
        return found

    def close(self) -> None:
        """Close the connections of our own blocking client."""
        if not self._given and self._client is not None:
            self._client.close()

    async def aclose(self) -> None:
        """Close those of our own clients: the blocking one, and that of the running event loop."""
        self.close()
        mine = self._of_loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.close()


class StoreCollection:
    """A collection by name, whose definition is asked for once.

    Args:
        project: Id of its project; else the environment's ``VECMETER_PROJECT``.
        create: Whether to make the collection where it is missing, and with which options.

    Raises:
        ConfigurationError: no project is named.
    """

    def __init__(self, clients: StoreClients, project: str | None, name: str, create: bool | NewCollection) -> None:
        project_id = project or os.environ.get("VECMETER_PROJECT")
        if not project_id:
            raise ConfigurationError("project is missing: give project=..., or set VECMETER_PROJECT")
        self.clients = clients
        self.name = name
        self.wanted = create if isinstance(create, Mapping) else NewCollection() if create else None
        self.info: CollectionInfo | None = None
        self._project_id = project_id

    @property
    def project(self) -> Project:
        return self.clients.blocking.project(self._project_id)

    @property
    def async_project(self) -> AsyncProject:
        return self.clients.awaited.project(self._project_id)

    @property
    def blocking(self) -> Collection:
        """For blocking calls; no request."""
        return self.project.collection(self.name)

    @property
    def awaited(self) -> AsyncCollection:
        return self.async_project.collection(self.name)

    @property
    def may_be_missing(self) -> bool:
        """Whether somebody must see to it first that it is there."""
        return self.wanted is not None and self.info is None

    def find(self) -> CollectionInfo | None:
        """Its definition; None where it is missing and wanted.

        Raises:
            CollectionNotFoundError: it is missing.
            ConfigurationError: it is there, and not as wanted.
        """
        if self.info is None:
            try:
                self.info = self._as_wanted(self.blocking.describe())
            except CollectionNotFoundError:
                if self.wanted is None:
                    raise
        return self.info

    async def afind(self) -> CollectionInfo | None:
        """As ``find``."""
        if self.info is None:
            try:
                self.info = self._as_wanted(await self.awaited.describe())
            except CollectionNotFoundError:
                if self.wanted is None:
                    raise
        return self.info

    def make(self, dimension: int | None) -> CollectionInfo:
        """Make it as wanted, or take what another has just made.

        Args:
            dimension: Of vectors that the caller makes; None where the collection's embedder makes them.
        """
        try:
            self.info = self.project.create_collection(self.name, **self._new(dimension))
        except CollectionExistsError:
            self.info = self._as_wanted(self.blocking.describe())
        return self.info

    async def amake(self, dimension: int | None) -> CollectionInfo:
        """As ``make``."""
        try:
            self.info = await self.async_project.create_collection(self.name, **self._new(dimension))
        except CollectionExistsError:
            self.info = self._as_wanted(await self.awaited.describe())
        return self.info

    def _new(self, dimension: int | None) -> NewCollection:
        wanted = self.wanted or NewCollection()
        if dimension is None:
            return wanted
        # Where vectors are made by the caller's model, another one must not make some of them.
        return {"dimension": dimension, "embedder": "none", **wanted}

    def _as_wanted(self, info: CollectionInfo) -> CollectionInfo:
        # The others may be changed at any time, so a difference in them need not be a mistake.
        wanted = self.wanted or NewCollection()
        for field in ("dimension", "metric", "text_search"):
            if field in wanted and wanted[field] != getattr(info, field):
                raise ConfigurationError(
                    f"{field}: the collection {self.name} is there with {getattr(info, field)!r}, not {wanted[field]!r}"
                )
        return info
