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
    LedgerUnavailableError,
    ProjectExistsError,
    ProjectNotFoundError,
)
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import ApiKey, Clock, Policy, Project, Role
from vecmeter.ledger.quotas import policy_from_item, policy_to_item
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table

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
# An id is one of 62 to the 11th; a second collision in a row is another fault than chance.
_ID_TRIES = 3
# Changes of one policy that may get in the way of another.
_CHANGE_TRIES = 20


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
        version=item["v"],
        expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
        user_id=item["u"],
        project_id=item.get("p"),
        roles=frozenset(role for role, letter in _ROLE_LETTERS.items() if letter in item["ro"]),
        policy=policy_from_item(item["lim"]),
    )


class Keys:
    """Creates, finds and changes keys and projects."""

    def __init__(
        self,
        table: Table,
        clock: Clock,
        environment: str,
        *,
        generate: Callable[[str], tuple[str, str]] = generate_secret,
    ) -> None:
        self._table = table
        self._clock = clock
        self._environment = environment
        self._generate = generate

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
        configuration: Item = {
            "st": _ACTIVE,
            "v": 1,
            "u": user_id,
            "p": project_id,
            "ro": "".join(sorted(_ROLE_LETTERS[Role(role)] for role in set(roles))),
            "xp": int(expires_at.timestamp()) if expires_at else None,
            "lim": policy_to_item(policy or Policy()),
        }
        created_at = self._clock().isoformat()
        for _ in range(_ID_TRIES):
            api_key_id, secret = self._generate(self._environment)
            pk, sk = key_address(api_key_id)
            item = {"pk": pk, "sk": sk, "s": parse_secret(secret).secret_hash, **configuration}
            listed: Item = {
                "pk": _KEYS,
                "sk": _listing(user_id, project_id, api_key_id),
                "name": name,
                "prefix": secret[: secret.rindex("_") + 5],
                "last4": secret[-4:],
                "created_at": created_at,
            }
            try:
                self._table.insert(item, listed)
            except ConditionFailed:
                continue  # the id is taken
            return CreatedKey(_described(key_from_item(item), listed), secret)
        raise LedgerUnavailableError("No free id was found for the key; try again.")

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

        Two changes at once both take effect: each applies only to the version it has read. ``change`` may be called
        again on its own result, and must then leave it as it is.
        """
        for _ in range(_CHANGE_TRIES):
            key, _ = self.get_with_counters(api_key_id)
            values = {":limits": policy_to_item(change(key.policy)), ":one": 1, ":v": key.version}
            try:
                # After a lost answer the condition fails, and the change is applied once more, to its own result.
                item, _ = self._table.update(
                    *key_address(api_key_id),
                    update="SET lim = :limits ADD v :one",
                    condition="v = :v",
                    values=values,
                    attempts=WRITE_ATTEMPTS,
                )
            except ConditionFailed:
                continue
            return key_from_item(item)
        raise LedgerUnavailableError("The key's configuration changes too fast; try again shortly.")

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
