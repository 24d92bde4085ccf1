"""What operations cost: a price list in micro-USD per million units, so that a single unit may cost less than one.

A cost is rounded up once per request: a list with a price never yields a free request by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from vecmeter.ledger.model import Operation
from vecmeter.settings import Settings

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """Micro-USD per million searches, other requests, vectors written and tokens."""

    version: str
    search: int
    request: int
    vector_written: int
    token: int

    @classmethod
    def from_settings(cls, settings: Settings) -> PriceList:
        return cls(
            version=settings.price_version,
            search=settings.price_search,
            request=settings.price_request,
            vector_written=settings.price_vector_written,
            token=settings.price_token,
        )

    def micro_usd(self, operation: Operation, *, tokens: int = 0, vectors: int = 0) -> int:
        """The price of one request of ``operation`` with so many tokens and vectors written, in micro-USD."""
        if operation is Operation.ADMIN:
            return 0
        base = self.search if operation is Operation.SEARCH else self.request
        written = vectors if operation in (Operation.ADD, Operation.UPSERT, Operation.UPDATE) else 0
        millionths = base + written * self.vector_written + tokens * self.token
        return -(-millionths // _MILLION)
