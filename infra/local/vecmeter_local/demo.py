"""The newcomer's demo, over the HTTP API like any client: real texts indexed, searched and metered."""

from __future__ import annotations

import itertools
import json
import platform
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import httpx
from tqdm import tqdm

from vecmeter_local.corpus import Text, read_texts, source_files
from vecmeter_local.data_folder import DataFolder

T = TypeVar("T")

USER = PROJECT = "demo"
COLLECTION = "python-docs"
_COLLECTION_PATH = f"/projects/{PROJECT}/collections/{COLLECTION}"
_DIMENSION = 256
_BATCH = 250
_KEYS_FILE = "demo-keys.json"
_DONE_FILE = "demo.json"
_ROLES = {"search": ("search",), "write": ("search", "write")}
# Room to index the texts several times a day. The search key keeps the defaults.
_WRITE_POLICY = {
    "daily_tokens": 20_000_000,
    "monthly_tokens": 200_000_000,
    "notes": "indexes the demo's texts",
}
_SEARCHES: tuple[dict[str, Any], ...] = (
    {"text": "compress data into an archive", "top_k": 4},
    {"text": "read a date from a string in a given format", "top_k": 4},
    {"text": "wait until several tasks have finished", "top_k": 4, "filter": {"package": "asyncio"}},
)


class DemoError(Exception):
    """The demo cannot go on; the message says which call failed and how."""


class Api:
    """The HTTP API, called with one key."""

    def __init__(self, client: httpx.Client, prefix: str, secret: str) -> None:
        self._client = client
        self._prefix = prefix
        self._headers = {"Authorization": f"Bearer {secret}"}

    def call(
        self, method: str, path: str, body: Any = None, *, expected: tuple[int, ...] = (200, 201)
    ) -> httpx.Response:
        """The answer, whose status is one of ``expected``.

        Raises:
            DemoError: another status.
        """
        answer = self._client.request(method, self._prefix + path, json=body, headers=self._headers)
        if answer.status_code not in expected:
            raise DemoError(f"{method} {self._prefix}{path} answered {answer.status_code}: {answer.text}")
        return answer

    def authenticates(self) -> bool:
        return self.call("GET", "/quota/me", expected=(200, 401)).status_code == 200


@dataclass(frozen=True, slots=True)
class DemoKey:
    api_key_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One run of the demo. ``stopping`` ends it between two requests."""

    url: str
    prefix: str
    admin_key: str
    folder: DataFolder
    stopping: threading.Event

    def run(self) -> None:
        """Create what is missing, index what is missing, search, show what it cost; reports its own errors."""
        try:
            with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
                admin = Api(client, self.prefix, self.admin_key)
                keys = self._keys(client, admin)
                search, write = (Api(client, self.prefix, keys[name].key) for name in ("search", "write"))
                if self._is_indexed(write) or self._index(admin, write, keys["write"]):
                    for request in self._until_stopped(_SEARCHES):
                        _show_search(search, request)
                    _show_ways_on(self.url + self.prefix, keys)
        except (DemoError, httpx.TransportError) as error:
            if not self.stopping.is_set():
                print(f"The demo failed; the stack stays up. {error}", file=sys.stderr)

    def _keys(self, client: httpx.Client, admin: Api) -> dict[str, DemoKey]:
        """The keys of the last run where they still authenticate, else new ones."""
        project = {"project_id": PROJECT, "user_id": USER, "name": "Demo"}
        admin.call("POST", "/admin/projects", project, expected=(200, 201, 409))
        kept = {name: DemoKey(**entry) for name, entry in (self.folder.read(_KEYS_FILE) or {}).items()}
        keys = {}
        for name, roles in _ROLES.items():
            if name in kept and Api(client, self.prefix, kept[name].key).authenticates():
                keys[name] = kept[name]
                continue
            body = {"name": f"demo {name}", "user_id": USER, "project_id": PROJECT, "roles": roles}
            created = admin.call("POST", "/admin/keys", body).json()
            keys[name] = DemoKey(created["api_key_id"], created["key"])
            self.folder.write(_KEYS_FILE, {name: asdict(key) for name, key in (kept | keys).items()})
        return keys

    def _is_indexed(self, api: Api) -> bool:
        """Whether an earlier run finished with this Python's texts and they are all still there."""
        done = self.folder.read(_DONE_FILE) or {}
        if done.get("python") != platform.python_version():
            return False
        answer = api.call("GET", _COLLECTION_PATH, expected=(200, 404))
        return answer.status_code == 200 and answer.json()["count"] >= done["texts"]

    def _index(self, admin: Api, api: Api, key: DemoKey) -> bool:
        """Write every text; those of an interrupted run are written again. False when told to stop."""
        admin.call("POST", f"/admin/usage/quota/{key.api_key_id}", _WRITE_POLICY)
        definition = {
            "name": COLLECTION,
            "dimension": _DIMENSION,
            "metric": "cosine",
            "embedder": {"provider": "built-in"},
        }
        api.call("POST", f"/projects/{PROJECT}/collections", definition, expected=(200, 201, 409))
        started = time.monotonic()
        print(f"Indexing the docstrings of Python {platform.python_version()}'s standard library")
        with tqdm(source_files(), desc="reading", unit=" files", leave=False, disable=None) as files:
            texts = list(read_texts(self._until_stopped(files)))
        with tqdm(total=len(texts), desc="indexing", unit=" texts", disable=None) as progress:
            for start in self._until_stopped(range(0, len(texts), _BATCH)):
                batch = texts[start : start + _BATCH]
                api.call("POST", f"{_COLLECTION_PATH}/vectors", {"vectors": [_as_vector(text) for text in batch]})
                progress.update(len(batch))
        if self.stopping.is_set():
            return False
        task = {"project_id": PROJECT, "collection": COLLECTION}
        # Where it takes long it goes on, and searches compare all vectors meanwhile.
        outcome = admin.call("POST", "/admin/maintenance/build_indexes", task, expected=(200, 202)).json()
        if outcome["status"] == "error":
            raise DemoError(f"Building the index: {outcome['message']} ({outcome.get('error')})")
        print(f"{len(texts):,} texts indexed in {time.monotonic() - started:.1f} s")
        self.folder.write(_DONE_FILE, {"python": platform.python_version(), "texts": len(texts)})
        return not self.stopping.is_set()

    def _until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        return itertools.takewhile(lambda _: not self.stopping.is_set(), items)


def _as_vector(text: Text) -> dict[str, Any]:
    return {"id": text.id, "document": text.document, "metadata": text.metadata}


def _show_search(api: Api, request: dict[str, Any]) -> None:
    answer = api.call("POST", f"{_COLLECTION_PATH}/search", {**request, "include": ["metadata", "document"]}).json()
    condition = f"   where {json.dumps(request['filter'])}" if "filter" in request else ""
    print(f"\nSearch: {request['text']!r}{condition}")
    width = max((len(match["id"]) for match in answer["matches"]), default=0)
    for match in answer["matches"]:
        print(f"  {match['score']:6.3f}  {match['id']:<{width}}  {_summary(match['document'])}")
    usage = answer["usage"]
    quotas = api.call("GET", "/quota/me").json()["quotas"]
    requests, tokens = quotas["daily_requests"], quotas["daily_tokens"]
    print(
        f"  used {usage['tokens']} tokens, {usage['vectors']} vectors, ${usage['cost_usd']:.6f}; left today "
        f"{requests['remaining']:,} of {requests['limit']:,} requests, "
        f"{tokens['remaining']:,} of {tokens['limit']:,} tokens"
    )


def _summary(document: str, most: int = 70) -> str:
    """The docstring's first line; the heading above it repeats the id."""
    lines = [line.strip() for line in document.splitlines()[1:] if line.strip()]
    first = lines[0] if lines else ""
    return first if len(first) <= most else first[: most - 1] + "…"


def _show_ways_on(base: str, keys: dict[str, DemoKey]) -> None:
    body = json.dumps({"text": "sort a list in place", "top_k": 3})
    print(
        f"\nURL         {base}\n"
        f"search key  {keys['search'].key}\n"
        f"write key   {keys['write'].key}   (search and write)\n\n"
        f"Try it:\ncurl -s {base}{_COLLECTION_PATH}/search -H 'Authorization: Bearer {keys['search'].key}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n\n"
        "Ctrl-C stops the stack and keeps the data.",
        flush=True,
    )
