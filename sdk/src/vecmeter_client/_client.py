"""The blocking client."""

from __future__ import annotations

from types import TracebackType

import httpx

from vecmeter_client._binding import Blocking, blocking, iterated
from vecmeter_client._configuration import address, http_from_environment, own_client, policy
from vecmeter_client._drivers import BlockingDriver
from vecmeter_client._operations import accounts, definitions, reports, searches, service, vectors
from vecmeter_client._places import CollectionAt, ProjectAt, ServiceAt


class Collection(Blocking[CollectionAt]):
    """A collection. Making one of these asks for nothing: whether it is there, its first request tells."""

    describe = blocking(definitions.describe)
    change = blocking(definitions.change)
    namespaces = iterated(definitions.namespaces)
    delete_namespace = blocking(definitions.delete_namespace)
    upsert = blocking(vectors.upsert)
    add = blocking(vectors.add)
    put = blocking(vectors.put)
    get = blocking(vectors.get)
    fetch = blocking(vectors.fetch)
    list_ids = iterated(vectors.list_ids)
    export = iterated(vectors.export)
    patch = blocking(vectors.patch)
    update = blocking(vectors.update)
    delete = blocking(vectors.delete)
    delete_one = blocking(vectors.delete_one)
    search = blocking(searches.search)
    search_batch = blocking(searches.search_batch)
    recall = blocking(searches.recall)

    @property
    def name(self) -> str:
        return self._at.name

    @property
    def project(self) -> str:
        return self._at.project


class Project(Blocking[ProjectAt]):
    """A project: a tenant's space for collections. Making one of these asks for nothing."""

    create_collection = blocking(definitions.create_collection)
    collections = iterated(definitions.list_collections)
    delete_collection = blocking(definitions.delete_collection)

    @property
    def id(self) -> str:
        return self._at.project

    def collection(self, name: str) -> Collection:
        """A collection of the project, whether it is there or not."""
        return Collection(CollectionAt(self._at.project, name), self._driver)


class Projects(Blocking[ServiceAt]):
    """Projects as admins see them."""

    create = blocking(accounts.create_project)
    list = iterated(accounts.list_projects)
    get = blocking(accounts.get_project)
    update = blocking(accounts.update_project)
    delete = blocking(accounts.delete_project)


class Keys(Blocking[ServiceAt]):
    """API keys."""

    create = blocking(accounts.create_key)
    list = iterated(accounts.list_keys)
    get = blocking(accounts.get_key)
    update = blocking(accounts.update_key)
    revoke = blocking(accounts.revoke_key)
    rotate = blocking(accounts.rotate_key)
    quota = blocking(accounts.key_quota)
    change_quota = blocking(accounts.change_key_quota)


class Quotas(Blocking[ServiceAt]):
    """What the system, a user, a project, a key or a collection may use."""

    get = blocking(accounts.get_policy)
    put = blocking(accounts.put_policy)
    delete = blocking(accounts.delete_policy)


class Maintenance(Blocking[ServiceAt]):
    """Maintenance by hand and its history."""

    stats = blocking(reports.maintenance_stats)
    runs = iterated(reports.maintenance_runs)
    start = blocking(reports.start_task)


class Admin(Blocking[ServiceAt]):
    """What keys with the role ``admin`` may do."""

    usage = blocking(reports.usage)
    records = iterated(reports.records)
    alerts = iterated(reports.alerts)
    export_usage = iterated(reports.export_usage)
    audit = iterated(reports.audit)
    costs_daily = blocking(reports.costs_daily)
    costs_top_users = blocking(reports.costs_top_users)
    prices = blocking(reports.prices)
    price_history = iterated(reports.price_history)
    set_prices = blocking(reports.set_prices)
    metrics = blocking(reports.metrics)

    @property
    def projects(self) -> Projects:
        return Projects(self._at, self._driver)

    @property
    def keys(self) -> Keys:
        return Keys(self._at, self._driver)

    @property
    def quotas(self) -> Quotas:
        return Quotas(self._at, self._driver)

    @property
    def maintenance(self) -> Maintenance:
        return Maintenance(self._at, self._driver)


class Client(Blocking[ServiceAt]):
    """A client of one service with one key. Threads may share it; close it, or use it in a ``with``.

    Args:
        url: the service's root; None: ``VECMETER_URL`` of the environment.
        api_key: None: ``VECMETER_API_KEY``.
        timeout: seconds one attempt of a request may take.
        total_timeout: seconds a request may take with all its attempts and the waits between them. A limit that resets
            later is an error at once.
        max_retries: attempts after the first; 0: none.
        api_prefix: where the service has its business routes.
        http_client: a ``httpx.Client`` of one's own, with its proxies and certificates; it is not closed with this one.

    Raises:
        ConfigurationError: something of it is missing or malformed.
    """

    health = blocking(service.health)
    ready = blocking(service.ready)
    usage = blocking(service.usage)
    costs = blocking(service.costs)
    quota = blocking(service.quota)

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        total_timeout: float = 60.0,
        max_retries: int = 3,
        api_prefix: str = "/v1",
        http_client: httpx.Client | None = None,
    ) -> None:
        at = address(url, api_key, api_prefix)
        rules = policy(at, timeout=timeout, total_timeout=total_timeout, max_retries=max_retries)
        given = own_client(http_client, httpx.Client)
        http = given if given is not None else http_from_environment(httpx.Client)
        self._owned = http if given is None else None
        super().__init__(ServiceAt(), BlockingDriver(http, at, rules))

    @property
    def url(self) -> str:
        """The service's root."""
        return self._driver.address.url

    def project(self, project_id: str) -> Project:
        """A project, whether it is there or not; no request."""
        return Project(ProjectAt(project_id), self._driver)

    @property
    def admin(self) -> Admin:
        """What keys with the role ``admin`` may do."""
        return Admin(self._at, self._driver)

    def close(self) -> None:
        """Close its connections; those of a ``http_client`` that was given stay open."""
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
