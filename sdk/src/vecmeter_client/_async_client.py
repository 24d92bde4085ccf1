"""The asynchronous client: the same operations, awaited."""

from __future__ import annotations

from types import TracebackType

import httpx

from vecmeter_client._binding import Awaiting, awaited, awaited_each
from vecmeter_client._configuration import address, http_from_environment, own_client, policy
from vecmeter_client._drivers import AwaitingDriver
from vecmeter_client._operations import accounts, definitions, reports, searches, service, vectors
from vecmeter_client._places import CollectionAt, ProjectAt, ServiceAt


class AsyncCollection(Awaiting[CollectionAt]):
    """A collection. Making one of these asks for nothing: whether it is there, its first request tells."""

    describe = awaited(definitions.describe)
    change = awaited(definitions.change)
    namespaces = awaited_each(definitions.namespaces)
    delete_namespace = awaited(definitions.delete_namespace)
    upsert = awaited(vectors.upsert)
    add = awaited(vectors.add)
    put = awaited(vectors.put)
    get = awaited(vectors.get)
    fetch = awaited(vectors.fetch)
    list_ids = awaited_each(vectors.list_ids)
    export = awaited_each(vectors.export)
    patch = awaited(vectors.patch)
    update = awaited(vectors.update)
    delete = awaited(vectors.delete)
    delete_one = awaited(vectors.delete_one)
    search = awaited(searches.search)
    search_batch = awaited(searches.search_batch)
    recall = awaited(searches.recall)

    @property
    def name(self) -> str:
        return self._at.name

    @property
    def project(self) -> str:
        return self._at.project


class AsyncProject(Awaiting[ProjectAt]):
    """A project: a tenant's space for collections. Making one of these asks for nothing."""

    create_collection = awaited(definitions.create_collection)
    collections = awaited_each(definitions.list_collections)
    delete_collection = awaited(definitions.delete_collection)

    @property
    def id(self) -> str:
        return self._at.project

    def collection(self, name: str) -> AsyncCollection:
        """A collection of the project, whether it is there or not."""
        return AsyncCollection(CollectionAt(self._at.project, name), self._driver)


class AsyncProjects(Awaiting[ServiceAt]):
    """Projects as admins see them."""

    create = awaited(accounts.create_project)
    list = awaited_each(accounts.list_projects)
    get = awaited(accounts.get_project)
    update = awaited(accounts.update_project)
    delete = awaited(accounts.delete_project)


class AsyncKeys(Awaiting[ServiceAt]):
    """API keys."""

    create = awaited(accounts.create_key)
    list = awaited_each(accounts.list_keys)
    get = awaited(accounts.get_key)
    update = awaited(accounts.update_key)
    revoke = awaited(accounts.revoke_key)
    rotate = awaited(accounts.rotate_key)
    quota = awaited(accounts.key_quota)
    change_quota = awaited(accounts.change_key_quota)


class AsyncQuotas(Awaiting[ServiceAt]):
    """What the system, a user, a project, a key or a collection may use."""

    get = awaited(accounts.get_policy)
    put = awaited(accounts.put_policy)
    delete = awaited(accounts.delete_policy)


class AsyncMaintenance(Awaiting[ServiceAt]):
    """Maintenance by hand and its history."""

    stats = awaited(reports.maintenance_stats)
    runs = awaited_each(reports.maintenance_runs)
    start = awaited(reports.start_task)


class AsyncAdmin(Awaiting[ServiceAt]):
    """What keys with the role ``admin`` may do."""

    usage = awaited(reports.usage)
    records = awaited_each(reports.records)
    alerts = awaited_each(reports.alerts)
    export_usage = awaited_each(reports.export_usage)
    audit = awaited_each(reports.audit)
    costs_daily = awaited(reports.costs_daily)
    costs_top_users = awaited(reports.costs_top_users)
    prices = awaited(reports.prices)
    price_history = awaited_each(reports.price_history)
    set_prices = awaited(reports.set_prices)
    metrics = awaited(reports.metrics)

    @property
    def projects(self) -> AsyncProjects:
        return AsyncProjects(self._at, self._driver)

    @property
    def keys(self) -> AsyncKeys:
        return AsyncKeys(self._at, self._driver)

    @property
    def quotas(self) -> AsyncQuotas:
        return AsyncQuotas(self._at, self._driver)

    @property
    def maintenance(self) -> AsyncMaintenance:
        return AsyncMaintenance(self._at, self._driver)


class AsyncClient(Awaiting[ServiceAt]):
    """A client of one service with one key, on asyncio. Tasks of one event loop may share it; close it, or use it in an
    ``async with``.

    Args:
        url: the service's root; None: ``VECMETER_URL`` of the environment.
        api_key: None: ``VECMETER_API_KEY``.
        timeout: seconds one attempt of a request may take.
        total_timeout: seconds a request may take with all its attempts and the waits between them. A limit that resets
            later is an error at once.
        max_retries: attempts after the first; 0: none.
        api_prefix: where the service has its business routes.
        http_client: a ``httpx.AsyncClient`` of one's own, with its proxies and certificates; it is not closed along.

    Raises:
        ConfigurationError: something of it is missing or malformed.
    """

    health = awaited(service.health)
    ready = awaited(service.ready)
    usage = awaited(service.usage)
    costs = awaited(service.costs)
    quota = awaited(service.quota)

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        total_timeout: float = 60.0,
        max_retries: int = 3,
        api_prefix: str = "/v1",
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        at = address(url, api_key, api_prefix)
        rules = policy(at, timeout=timeout, total_timeout=total_timeout, max_retries=max_retries)
        given = own_client(http_client, httpx.AsyncClient)
        http = given if given is not None else http_from_environment(httpx.AsyncClient)
        self._owned = http if given is None else None
        super().__init__(ServiceAt(), AwaitingDriver(http, at, rules))

    @property
    def url(self) -> str:
        """The service's root."""
        return self._driver.address.url

    def project(self, project_id: str) -> AsyncProject:
        """A project, whether it is there or not; no request."""
        return AsyncProject(ProjectAt(project_id), self._driver)

    @property
    def admin(self) -> AsyncAdmin:
        """What keys with the role ``admin`` may do."""
        return AsyncAdmin(self._at, self._driver)

    async def close(self) -> None:
        """Close its connections; those of a ``http_client`` that was given stay open."""
        if self._owned is not None:
            await self._owned.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
