"""Which HNSW indexes are to be built anew, by what was measured of them since they were built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vecmeter.vectors import index_rows
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.index_builds import IndexBuilds, count_namespaces, drop_invalid
from vecmeter.vectors.index_rows import Serving
from vecmeter.vectors.model import Collection
from vecmeter.vectors.turns import TIME_IS_UP, Orders

# Less room than this is not worth the work.
_LEAST_GAIN_BYTES = 2**18
# Of the same vectors the same graph would come out: for its recall an index is built anew where so many were changed.
_LEAST_CHANGED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexThresholds:
    """From how many percent more vectors than it was built of, and bytes more than a fresh one takes, it is rebuilt."""

    growth_percent: int = 100
    bloat_percent: int = 50


@dataclass(frozen=True, slots=True)
class Condition:
    """An index, and how many vectors there are for it by now."""

    index: Serving
    vectors: int

    @property
    def growth(self) -> float | None:
        """By which part more than it was built of."""
        before = self.index.built_vectors
        return self.vectors / before - 1 if before else None

    @property
    def fresh_bytes(self) -> int | None:
        """What it would take if it were built now, by what a vector took when it was built."""
        before, taken = self.index.built_vectors, self.index.built_bytes
        return taken * self.vectors // before if before and taken else None

    @property
    def bloat(self) -> float | None:
        """By which part more it takes than a fresh one."""
        return self.index.bytes / self.fresh_bytes - 1 if self.fresh_bytes else None

    @property
    def changed(self) -> float | None:
        """Rows changed in its table since it was built, as a part of its vectors; statistics may have begun anew."""
        before = self.index.built_changes
        if before is None or before > self.index.changes:
            return None
        return (self.index.changes - before) / max(1, self.vectors)

    def why_anew(self, thresholds: ReindexThresholds, target_recall: float) -> str | None:
        """The reason to build it anew, or None."""
        growth, bloat, recall = self.growth, self.bloat, self.index.probed_recall
        if growth is not None and 100 * growth >= thresholds.growth_percent:
            return f"{self.vectors} vectors, {self.index.built_vectors} when it was built"
        gain = self.index.bytes - (self.fresh_bytes or 0)
        if bloat is not None and 100 * bloat >= thresholds.bloat_percent and gain >= _LEAST_GAIN_BYTES:
            return f"it takes {self.index.bytes} bytes, a fresh one {self.fresh_bytes}"
        is_changed = self.changed is None or self.changed >= _LEAST_CHANGED
        if recall is not None and recall < target_recall and is_changed:
            return f"its recall is {recall:.3f}, below {target_recall}"
        return None

    def figures(self) -> dict[str, Any]:
        """What decides, ready for JSON."""
        index = self.index
        told = {
            "namespace": index.namespace,
            "vectors": self.vectors,
            "vectors_when_built": index.built_vectors,
            "bytes": index.bytes,
            "fresh_bytes": self.fresh_bytes,
            "growth": _rounded(self.growth),
            "bloat": _rounded(self.bloat),
            "changed": _rounded(self.changed),
            "recall": _rounded(index.probed_recall),
        }
        return {"index_id": index.index_id, **{name: value for name, value in told.items() if value is not None}}


def conditions(connection: Connection, collection: Collection) -> list[Condition]:
    """Of every index that searches take."""
    counts = count_namespaces(connection, collection)
    return [Condition(one, _size(counts, one.namespace)) for one in index_rows.serving(connection, collection)]


def reindex(
    builds: IndexBuilds,
    connection: Connection,
    collection: Collection,
    thresholds: ReindexThresholds,
    orders: Orders,
) -> dict[str, Any]:
    """Build anew those that need it, or say which and why; the old one answers until the new one is ready."""
    told: dict[str, Any] = {}
    if not orders.dry_run:
        told["ended"] = index_rows.end_rebuilds(connection, collection)
        told["invalid_dropped"] = drop_invalid(connection, collection)
    by_number = {one.index_id: one for one in collection.hnsw}
    listed, done = [], 0
    for one in conditions(connection, collection):
        reason = "it is forced" if orders.force else one.why_anew(thresholds, collection.target_recall)
        figures = one.figures() | {"action": "reindex" if reason else "none"} | ({"reason": reason} if reason else {})
        listed.append(figures)
        if reason and not orders.dry_run:
            if orders.is_time_up():
                return {"action": "put off", "reason": TIME_IS_UP, **told, "indexes": listed}
            builds.rebuild(connection, collection, by_number[one.index.index_id], one.vectors, orders)
        done += bool(reason)
    action = ("planned" if orders.dry_run else "reindexed") if done else "none"
    why_none = {} if listed else {"reason": "there is no HNSW index"}
    return {"action": action, **why_none, **told, "indexes": listed}


def _size(counts: Mapping[str, int], namespace: str | None) -> int:
    return sum(counts.values()) if namespace is None else counts.get(namespace, 0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
