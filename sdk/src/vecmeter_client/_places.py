"""What an operation is about: the service, a project of it, a collection of that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceAt:
    """The service as a whole."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class ProjectAt:
    project: str

    def __str__(self) -> str:
        return f" {self.project!r}"


@dataclass(frozen=True, slots=True)
class CollectionAt:
    project: str
    name: str

    def __str__(self) -> str:
        return f" {self.project + '/' + self.name!r}"
