"""One UpdateItem in the making: its parts of expression stand where they are decided, and are joined here."""

from __future__ import annotations

from typing import Any


class Change:
    """What an update sets, adds, removes and requires. ``#name`` in an expression stands for the attribute ``name``."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self._set: list[str] = []
        self._add: list[str] = []
        self._remove: list[str] = []
        self._conditions: list[str] = []

    def require(self, condition: str, *attributes: str) -> None:
        self._conditions.append(condition)
        self._name(attributes)

    def set(self, expression: str, *attributes: str) -> None:
        self._set.append(expression)
        self._name(attributes)

    def add(self, expression: str, *attributes: str) -> None:
        self._add.append(expression)
        self._name(attributes)

    def remove(self, attribute: str) -> None:
        self._remove.append(f"#{attribute}")
        self._name([attribute])

    @property
    def update(self) -> str:
        parts = (("SET", self._set), ("ADD", self._add), ("REMOVE", self._remove))
        return " ".join(f"{word} {', '.join(expressions)}" for word, expressions in parts if expressions)

    @property
    def condition(self) -> str:
        return " AND ".join(self._conditions)

    @property
    def arguments(self) -> dict[str, Any]:
        """As ``Table.update`` takes them."""
        return {"update": self.update, "condition": self.condition, "names": self.names, "values": self.values}

    def _name(self, attributes: Any) -> None:
        for attribute in attributes:
            self.names[f"#{attribute}"] = attribute
