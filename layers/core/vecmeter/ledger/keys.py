"""API keys and projects: how a secret is made, kept and found again.

A secret reads ``vm_<env>_<id><secret><check>``: 11 base62 characters that address the key's item, 22 that are
secret (131 bits), and the CRC32 of all before in 6 characters, so that a mistyped key never reaches the table. The
item keeps the SHA-256 of the whole. Addressing by id and comparing the hash in the admission's condition lets a
rotated secret keep its item and thereby its counters (docs/adr/0002).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from vecmeter.errors import (
    ApiKeyNotFoundError,
    AuthenticationError,
    ProjectExistsError,
    ProjectNotFoundError,
)
from vecmeter.ledger.model import ApiKey, Clock, Policy, Project, Role
from vecmeter.ledger.quotas import policy_from_item, policy_to_item
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Item, Table

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS = 11
_SECRET_CHARACTERS = 22
_CHECK_CHARACTERS = 6
_SECRET = re.compile(r"vm_[a-z]+_([0-9A-Za-z]{11})[0-9A-Za-z]{22}[0-9A-Za-z]{6}", re.ASCII)

_ACTIVE, _REVOKED = "a", "r"
_ROLE_LETTERS = {Role.SEARCH: "s", Role.WRITE: "w", Role.ADMIN: "a"}
_KEYS = "DIRECTORY#KEY"
_PROJECTS = "DIRECTORY#PROJECT"
_LAST = "\x7f"  # sorts after every character an id may have


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request presents: which key it claims to be, and the hash that proves it."""

    api_key_id: str
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key with its secret, which nobody can show again."""

    key: ApiKey
    secret: str


def generate_secret(environment: str) -> tuple[str, str]:
    """A new (api_key_id, secret)."""
    characters = "".join(secrets.choice(_BASE62) for _ in range(_ID_CHARACTERS + _SECRET_CHARACTERS))
    body = f"vm_{environment}_{characters}"
    return f"key_{characters[:_ID_CHARACTERS]}", body + _checksum(body)


def parse_secret(secret: str) -> Credential:
    """The credential in a presented secret, without any I/O.

    Raises:
        AuthenticationError: it is malformed or its checksum is wrong.
    """
    matched = _SECRET.fullmatch(secret)
    if matched is None or _checksum(secret[:-_CHECK_CHARACTERS]) != secret[-_CHECK_CHARACTERS:]:
        raise AuthenticationError
    return Credential(f"key_{matched[1]}", hashlib.sha256(secret.encode()).digest())


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_CHARACTERS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def key_address(api_key_id: str) -> tuple[str, str]:
    """Partition and sort key of the key's item: the one that carries its configuration and its counters."""
    return f"K#{api_key_id}", "K"


def key_from_item(item: Item) -> ApiKey:
    """The configuration part of a key's item."""
    expires = item.get("xp")
    return ApiKey(
        api_key_id=item["pk"].removeprefix("K#"),
        secret_hash=item["s"],
        revoked=item["st"] != _ACTIVE,
        version=int(item["v"]),
        expires_at=datetime.fromtimestamp(int(expires), UTC) if expires else None,
        user_id=item["u"],
        project_id=item.get("p"),
        roles=frozenset(role for role, letter in _ROLE_LETTERS.items() if letter in item["ro"]),
        policy=policy_from_item(item["lim"]),
    )


class Keys:
    """Creates, finds and changes keys and projects."""

    def __init__(self, table: Table, clock: Clock, environment: str) -> None:
        self._table = table
        self._clock = clock
        self._environment = environment

    def create(
        self,
        *,
        user_id: str,
        project_id: str | None,
        roles: tuple[Role | str, ...],
        name: str | None = None,
        expires_at: datetime | None = None,
        policy: Policy | None = None,
    ) -> CreatedKey:
        """Create a key. ``project_id`` None reaches every project of the user."""
        api_key_id, secret = generate_secret(self._environment)
        pk, sk = key_address(api_key_id)
        letters = "".join(sorted(_ROLE_LETTERS[Role(role)] for role in set(roles)))
        item: Item = {
            "pk": pk,
            "sk": sk,
            "s": parse_secret(secret).secret_hash,
            "st": _ACTIVE,
            "v": 1,
            "u": user_id,
            "p": project_id,
            "ro": letters,
            "xp": int(expires_at.timestamp()) if expires_at else None,
            "lim": policy_to_item(policy or Policy()),
        }
        listed: Item = {
            "pk": _KEYS,
            "sk": _listing(user_id, project_id, api_key_id),
            "name": name,
            "prefix": secret[: secret.rindex("_") + 5],
            "last4": secret[-4:],
            "created_at": self._clock().isoformat(),
        }
        self._table.insert(item, listed)
        return CreatedKey(_described(key_from_item(item), listed), secret)

    def authenticate(self, credential: Credential) -> ApiKey:
        """The key a credential belongs to, read now.

        Raises:
            AuthenticationError: unknown, wrong secret, revoked or expired.
        """
        item = self._table.get(*key_address(credential.api_key_id))
        if item is None:
            raise AuthenticationError
        key = key_from_item(item)
        verify(key, credential, self._clock())
        return key

    def get(self, api_key_id: str) -> ApiKey:
        key, _ = self.get_with_counters(api_key_id)
        listed = self._table.get(_KEYS, _listing(key.user_id, key.project_id, api_key_id))
        return _described(key, listed or {})

    def get_with_counters(self, api_key_id: str) -> tuple[ApiKey, Item]:
        """The key and its item, whose counters ``quotas.limit_states`` reads."""
        item = self._table.get(*key_address(api_key_id))
        if item is None:
            raise ApiKeyNotFoundError(f"There is no API key {api_key_id!r}.")
        return key_from_item(item), item

    def list(self, *, user_id: str | None = None, project_id: str | None = None, after: str = "") -> Iterator[ApiKey]:
        """Keys in the order of their listing (user, project, id), after ``after`` (see ``listing_position``)."""
        prefix = f"{user_id}#{project_id}#" if user_id and project_id else f"{user_id}#" if user_id else ""
        low = max(prefix, after + "\x00") if after else prefix
        for listed in self._table.query(_KEYS, between=(low or " ", prefix + _LAST)):
            if project_id and listed["sk"].split("#")[1] != project_id:
                continue
            item = self._table.get(*key_address(listed["sk"].rsplit("#", 1)[1]))
            if item is not None:
                yield _described(key_from_item(item), listed)

    def revoke(self, api_key_id: str) -> None:
        """Revoke a key for good: the next request of it is refused on every instance."""
        try:
            # Repeating it only raises the version once more, which costs a refresh of the views and nothing else.
            self._table.update(
                *key_address(api_key_id),
                update="SET st = :revoked ADD v :one",
                condition="attribute_exists(pk)",
                values={":revoked": _REVOKED, ":one": 1},
                attempts=WRITE_ATTEMPTS,
            )
        except ConditionFailed:
            raise ApiKeyNotFoundError(f"There is no API key {api_key_id!r}.") from None

    def change_policy(self, api_key_id: str, change: Callable[[Policy], Policy]) -> ApiKey:
        """Change a key's own policy: the next request of it is measured by the new one, on every instance.

        Two changes at once both take effect: each applies only to the version it has read.
        """
        while True:
            key, _ = self.get_with_counters(api_key_id)
            values = {":limits": policy_to_item(change(key.policy)), ":one": 1, ":v": key.version}
            try:
                item = self._table.update(
                    *key_address(api_key_id),
                    update="SET lim = :limits ADD v :one",
                    condition="v = :v",
                    values=values,
                    attempts=1,
                )
            except ConditionFailed:
                continue
            return key_from_item(item)

    def create_project(self, *, project_id: str, user_id: str, name: str | None) -> Project:
        project = Project(project_id=project_id, user_id=user_id, name=name, created_at=self._clock())
        item: Item = {
            "pk": f"P#{project_id}",
            "sk": "P",
            "u": user_id,
            "name": name,
            "created_at": project.created_at.isoformat(),
        }
        try:
            self._table.insert(item, {"pk": _PROJECTS, "sk": f"{user_id}#{project_id}"})
        except ConditionFailed:
            raise ProjectExistsError(f"Project {project_id!r} exists already.") from None
        return project

    def get_project(self, project_id: str) -> Project:
        item = self._table.get(f"P#{project_id}", "P")
        if item is None:
            raise ProjectNotFoundError(f"There is no project {project_id!r}.")
        return Project(
            project_id=project_id,
            user_id=item["u"],
            name=item.get("name"),
            created_at=datetime.fromisoformat(item["created_at"]),
        )

    def list_projects(self, *, user_id: str | None = None, after: str = "") -> Iterator[Project]:
        """Projects in the order of their listing (user, id), after the position ``after``."""
        prefix = f"{user_id}#" if user_id else ""
        low = max(prefix, after + "\x00") if after else prefix
        for listed in self._table.query(_PROJECTS, between=(low or " ", prefix + _LAST)):
            yield self.get_project(listed["sk"].split("#", 1)[1])


def verify(key: ApiKey, credential: Credential, now: datetime) -> None:
    """Raise AuthenticationError unless the credential opens the key at this moment."""
    expired = key.expires_at is not None and key.expires_at <= now
    if key.revoked or expired or not secrets.compare_digest(key.secret_hash, credential.secret_hash):
        raise AuthenticationError


def listing_position(entry: ApiKey | Project) -> str:
    """Where an entry stands in its list; pass it as ``after`` for the next page."""
    if isinstance(entry, Project):
        return f"{entry.user_id}#{entry.project_id}"
    return _listing(entry.user_id, entry.project_id, entry.api_key_id)


def _listing(user_id: str, project_id: str | None, api_key_id: str) -> str:
    return f"{user_id}#{project_id or '-'}#{api_key_id}"


def _described(key: ApiKey, listed: Item) -> ApiKey:
    created = listed.get("created_at")
    return dataclasses.replace(
        key,
        name=listed.get("name"),
        prefix=listed.get("prefix", ""),
        last4=listed.get("last4", ""),
        created_at=datetime.fromisoformat(created) if created else None,
    )
