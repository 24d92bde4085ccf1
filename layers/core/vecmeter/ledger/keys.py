"""API keys: how a secret is made, kept and found again, and how a key changes.

A secret reads ``vm_<env>_<id><secret><check>``: 11 base62 characters that address the key's item, 22 that are
secret (131 bits), and the CRC32 of all before in 6 characters, so that a mistyped key never reaches the table. The
item keeps the SHA-256 of the whole. Addressing by id and comparing the hash in the admission's condition lets a
rotated secret keep its item and thereby its counters (docs/adr/0002).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from vecmeter.errors import (
    ApiKeyNotFoundError,
    ApiKeyRevokedError,
    AuthenticationError,
    LedgerUnavailableError,
    ProjectBeingDeletedError,
)
from vecmeter.ledger.audit import OPERATOR, Actor, AuditLog
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.key_items import (
    DIRECTORY,
    change_directory,
    change_item,
    described,
    directory_address,
    insert_key,
    key_address,
    key_facts,
    key_from_item,
    key_target,
    shown,
)
from vecmeter.ledger.model import ApiKey, Clock, Policy, Role
from vecmeter.ledger.projects import Projects
from vecmeter.ledger.table import ConditionFailed, Table

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS = 11
_SECRET_CHARACTERS = 22
_CHECK_CHARACTERS = 6
_SECRET = re.compile(r"vm_[a-z]+_([0-9A-Za-z]{11})[0-9A-Za-z]{22}[0-9A-Za-z]{6}", re.ASCII)

_LAST = "\x7f"  # sorts after every character an id may have
# An id is one of 62 to the 11th; a second collision in a row is another fault than chance.
_ID_TRIES = 3
# Changes of one key that may get in the way of another.
_CHANGE_TRIES = 20


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request presents: which key it claims to be, and the hash that proves it."""

    api_key_id: str
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new or rotated key with its secret, which nobody can show again."""

    key: ApiKey
    secret: str


def generate_secret(environment: str) -> tuple[str, str]:
    """A new (api_key_id, secret)."""
    api_key_id = f"key_{_random(_ID_CHARACTERS)}"
    return api_key_id, another_secret(environment, api_key_id)


def another_secret(environment: str, api_key_id: str) -> str:
    """A new secret of a key there is."""
    body = f"vm_{environment}_{api_key_id.removeprefix('key_')}{_random(_SECRET_CHARACTERS)}"
    return body + _checksum(body)


def parse_secret(secret: str) -> Credential:
    """The credential in a presented secret, without any I/O.

    Raises:
        AuthenticationError: it is malformed or its checksum is wrong.
    """
    matched = _SECRET.fullmatch(secret)
    if matched is None or _checksum(secret[:-_CHECK_CHARACTERS]) != secret[-_CHECK_CHARACTERS:]:
        raise AuthenticationError
    return Credential(f"key_{matched[1]}", hashlib.sha256(secret.encode()).digest())


def _random(characters: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(characters))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_CHARACTERS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


class Keys:
    """Creates, finds and changes keys. Whatever it changes it records, in the same transaction (``audit.py``)."""

    def __init__(
        self,
        table: Table,
        clock: Clock,
        environment: str,
        projects: Projects,
        audit: AuditLog,
        *,
        generate: Callable[[str], tuple[str, str]] = generate_secret,
    ) -> None:
        self._table = table
        self._clock = clock
        self._environment = environment
        self.projects = projects
        self.audit = audit
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
        actor: Actor = OPERATOR,
    ) -> CreatedKey:
        """Create a key. ``project_id`` None reaches every project of the user.

        Raises:
            ProjectBeingDeletedError: its project is, or was by now.
        """
        for _ in range(_ID_TRIES):
            api_key_id, secret = self._generate(self._environment)
            key = ApiKey(
                api_key_id=api_key_id,
                secret_hash=parse_secret(secret).secret_hash,
                revoked=False,
                version=1,
                expires_at=expires_at,
                user_id=user_id,
                project_id=project_id,
                roles=frozenset(map(Role, roles)),
                policy=policy or Policy(),
                name=name,
                created_at=self._clock(),
                **shown(secret),
            )
            key = _whole_seconds(key)
            try:
                self._table.transact(
                    *insert_key(key),
                    *self.audit.writes(actor, "key.create", key_target(key), None, key_facts(key)),
                    *self.projects.while_open(project_id),
                )
            except ConditionFailed as failure:
                if 0 in failure.failed:
                    continue  # the id is taken
                raise _project_is_closing(project_id) from None
            return CreatedKey(key, secret)
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
        listed = self._table.get(*directory_address(key.user_id, key.project_id, api_key_id))
        return described(key, listed or {})

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
        for listed in self._table.query(DIRECTORY, between=(low or " ", prefix + _LAST)):
            if project_id and listed["sk"].split("#")[1] != project_id:
                continue
            item = self._table.get(*key_address(listed["sk"].rsplit("#", 1)[1]))
            if item is not None:
                yield described(key_from_item(item), listed)

    def revoke(self, api_key_id: str, actor: Actor = OPERATOR) -> None:
        """Revoke a key for good: the next request of it is refused on every instance. Again, it changes nothing."""
        self._change(api_key_id, "key.revoke", actor, lambda key: replace(key, revoked=True))

    def change(self, api_key_id: str, change: Callable[[ApiKey], ApiKey], actor: Actor = OPERATOR) -> ApiKey:
        """Change a key's name, roles or expiry: its next request is measured by them, on every instance.

        Two changes at once both take effect: each applies only to the version it has read, and is else called again.

        Raises:
            ApiKeyNotFoundError, ApiKeyRevokedError
            ProjectBeingDeletedError: the key's project is, or was by now.
        """
        return self._change(
            api_key_id, "key.change", actor, lambda key: _whole_seconds(change(_living(key))), revives=True
        )

    def rotate(self, api_key_id: str, grace: timedelta, actor: Actor = OPERATOR) -> CreatedKey:
        """Give a key another secret. The present one works for ``grace`` yet, and never beyond the present expiry;
        one that was replaced before works no more. Id, counters and all else stay.

        Raises:
            ApiKeyNotFoundError, ApiKeyRevokedError
            ProjectBeingDeletedError: the key's project is, or was by now.
        """
        # The same for every try, so that the one returned is the one that was stored.
        secret = another_secret(self._environment, api_key_id)

        def rotated(key: ApiKey) -> ApiKey:
            until = self._clock() + grace
            if key.expires_at is not None:
                until = min(until, key.expires_at)
            return replace(
                _living(key),
                **shown(secret),
                secret_hash=parse_secret(secret).secret_hash,
                previous_hash=key.secret_hash if grace else None,
                previous_expires_at=until if grace else None,
            )

        return CreatedKey(self._change(api_key_id, "key.rotate", actor, rotated, revives=True), secret)

    def change_policy(self, api_key_id: str, change: Callable[[Policy], Policy], actor: Actor = OPERATOR) -> ApiKey:
        """Change a key's own policy: the next request of it is measured by the new one, on every instance.

        Two changes at once both take effect: each applies only to the version it has read.
        """
        return self._change(
            api_key_id, "policy.set", actor, lambda key: replace(key, policy=change(key.policy)), always=True
        )

    def _change(
        self,
        api_key_id: str,
        action: str,
        actor: Actor,
        change: Callable[[ApiKey], ApiKey],
        *,
        revives: bool = False,
        always: bool = False,
    ) -> ApiKey:
        """Write what ``change`` makes of the key, together with its record.

        Args:
            revives: it may bring an expired key back to life, which is not done while its project is being deleted.
            always: write it even if it changes nothing.
        """
        for _ in range(_CHANGE_TRIES):
            key = self.get(api_key_id)
            changed = change(key)
            if changed == key and not always:
                return key
            writes = [
                change_item(key, changed, self._clock()),
                change_directory(changed),
                *self.audit.writes(actor, action, key_target(key), key_facts(key), key_facts(changed)),
            ]
            if revives:
                writes += self.projects.while_open(key.project_id)
            try:
                self._table.transact(*writes)
            except ConditionFailed as failure:
                if failure.failed & {0, 1}:
                    continue  # another change came between
                raise _project_is_closing(key.project_id) from None
            return replace(changed, version=key.version + 1)
        raise LedgerUnavailableError("The key's configuration changes too fast; try again shortly.")


def verify(key: ApiKey, credential: Credential, now: datetime) -> None:
    """Raise AuthenticationError unless the credential opens the key at this moment."""
    expired = key.expires_at is not None and key.expires_at <= now
    if key.revoked or expired or not (_is_present(key, credential) or _is_previous(key, credential, now)):
        raise AuthenticationError


def _is_present(key: ApiKey, credential: Credential) -> bool:
    return secrets.compare_digest(key.secret_hash, credential.secret_hash)


def _is_previous(key: ApiKey, credential: Credential, now: datetime) -> bool:
    """Whether it is the secret before the last rotation, in its grace."""
    if key.previous_hash is None or key.previous_expires_at is None or key.previous_expires_at <= now:
        return False
    return secrets.compare_digest(key.previous_hash, credential.secret_hash)


def _living(key: ApiKey) -> ApiKey:
    if key.revoked:
        raise ApiKeyRevokedError(f"API key {key.api_key_id!r} is revoked, and that for good.")
    return key


def _whole_seconds(key: ApiKey) -> ApiKey:
    """As its item keeps the expiry."""
    expires = key.expires_at
    return key if expires is None else replace(key, expires_at=expires.astimezone(UTC).replace(microsecond=0))


def _project_is_closing(project_id: str | None) -> ProjectBeingDeletedError:
    return ProjectBeingDeletedError(f"Project {project_id!r} is being deleted.")
