"""How a key stands in the table: its item, with its counters, and its place in the directory that lists keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from vecmeter.ledger import transactions
from vecmeter.ledger.audit import Target, policy_facts
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import PARENTS, ApiKey, Role, epoch_ms, from_epoch_ms
from vecmeter.ledger.quotas import policy_from_item, policy_to_item
from vecmeter.ledger.transactions import Write

_ACTIVE, _REVOKED = "a", "r"
DIRECTORY = "DIRECTORY#KEY"
_ROLE_LETTERS = {Role.SEARCH: "s", Role.WRITE: "w", Role.ADMIN: "a"}


def key_address(api_key_id: str) -> tuple[str, str]:
    """Partition and sort key of the key's item: the one that carries its configuration and its counters."""
    return f"K#{api_key_id}", "K"


def key_from_item(item: Item) -> ApiKey:
    """The configuration part of a key's item."""
    expires, previous_expires, inherited = item.get("xp"), item.get("x2"), item.get("inh", {})
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
        defaults=inherited.get("k", {}),
        parents={scope: inherited[scope.letter] for scope in PARENTS if scope.letter in inherited},
        generation=inherited.get("g", 0),
        previous_hash=item.get("s2"),
        previous_expires_at=None if previous_expires is None else from_epoch_ms(previous_expires),
    )


def _role_letters(roles: Iterable[Role | str]) -> str:
    return "".join(sorted({_ROLE_LETTERS[Role(role)] for role in roles}))


def described(key: ApiKey, listed: Item) -> ApiKey:
    """The key with what its entry in the directory says of it."""
    created = listed.get("created_at")
    return replace(
        key,
        name=listed.get("name"),
        prefix=listed.get("prefix", ""),
        last4=listed.get("last4", ""),
        created_at=datetime.fromisoformat(created) if created else None,
    )


def shown(secret: str) -> dict[str, Any]:
    """What of a secret the directory keeps, to show."""
    return {"prefix": secret[: secret.rindex("_") + 5], "last4": secret[-4:]}


def directory_address(user_id: str, project_id: str | None, api_key_id: str) -> tuple[str, str]:
    return DIRECTORY, f"{user_id}#{project_id or '-'}#{api_key_id}"


def listing_position(key: ApiKey) -> str:
    """Where a key stands in its list; pass it as ``after`` for the next page."""
    return directory_address(key.user_id, key.project_id, key.api_key_id)[1]


def insert_key(key: ApiKey) -> tuple[Write, Write]:
    """Write the item of a new key, and its entry in the directory."""
    pk, sk = key_address(key.api_key_id)
    item = {"pk": pk, "sk": sk, "v": key.version, "u": key.user_id, "p": key.project_id, **_configuration(key)}
    pk, sk = directory_address(key.user_id, key.project_id, key.api_key_id)
    listed: Item = {
        "pk": pk,
        "sk": sk,
        "name": key.name,
        "prefix": key.prefix,
        "last4": key.last4,
        "created_at": key.created_at.isoformat() if key.created_at else None,
    }
    return transactions.insert(item), transactions.insert(listed)


def change_item(key: ApiKey, changed: ApiKey, now: datetime) -> Write:
    """Write what differs in the key's item, and raise its version."""
    before, after = _configuration(key), _configuration(changed)
    written = {name: value for name, value in after.items() if value != before[name]}
    if changed.previous_expires_at is not None and changed.previous_expires_at <= now:
        written |= {"s2": None, "x2": None}  # they would be billed with every write of the item
    kept = [f"#{name} = :{name}" for name, value in written.items() if value is not None]
    removed = [f"#{name}" for name, value in written.items() if value is None]
    parts = (f"SET {', '.join(kept)}" if kept else "", f"REMOVE {', '.join(removed)}" if removed else "", "ADD v :one")
    return transactions.update(
        *key_address(key.api_key_id),
        update=" ".join(filter(None, parts)),
        # Nobody changed the key since it was read.
        condition="v = :v",
        values={f":{name}": value for name, value in written.items()} | {":one": 1, ":v": key.version},
        names={f"#{name}": name for name in written},
    )


def change_directory(changed: ApiKey) -> Write:
    """Write what may differ in the key's entry in the directory."""
    shown = "SET prefix = :prefix, last4 = :last4"
    return transactions.update(
        *directory_address(changed.user_id, changed.project_id, changed.api_key_id),
        update=f"{shown} REMOVE #name" if changed.name is None else f"{shown}, #name = :name",
        condition="attribute_exists(pk)",
        values={":prefix": changed.prefix, ":last4": changed.last4, ":name": changed.name},
        names={"#name": "name"},
    )


def key_target(key: ApiKey) -> Target:
    return Target(kind="key", id=key.api_key_id, user_id=key.user_id, project_id=key.project_id)


def key_facts(key: ApiKey) -> dict[str, Any]:
    """What an audit record may say of a key: nothing of its secrets."""
    previous = key.previous_expires_at
    return {
        "user_id": key.user_id,
        "project_id": key.project_id,
        "name": key.name,
        "roles": sorted(key.roles),
        "status": "revoked" if key.revoked else "active",
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "last4": key.last4,
        "previous_expires_at": previous.isoformat() if previous else None,
        "policy": policy_facts(key.policy),
    }


def _configuration(key: ApiKey) -> Item:
    """What of a key can be changed, as its item keeps it; None is removed."""
    previous = key.previous_expires_at
    return {
        "s": key.secret_hash,
        "s2": key.previous_hash,
        "x2": None if previous is None else epoch_ms(previous),
        "st": _REVOKED if key.revoked else _ACTIVE,
        "ro": _role_letters(key.roles),
        "xp": None if key.expires_at is None else int(key.expires_at.timestamp()),
        "lim": policy_to_item(key.policy),
    }
