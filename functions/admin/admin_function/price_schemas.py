"""Bodies of the price routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from vecmeter.http.fields import Answer, Body, Name, Text, examples
from vecmeter.ledger.prices import REMEMBER, PriceList, Switch

# As the settings have it.
Price = Annotated[int, Field(ge=0, le=10**12)]


class PricesBody(Body):
    """A whole price list, in micro-USD per million: searches, other requests, vectors written, tokens, GB-hours."""

    model_config = examples(
        {
            "version": "2027-01",
            "search": 6_000_000,
            "request": 1_000_000,
            "vector_written": 2_500_000,
            "token": 20_000,
            "note": "list of the new year",
        }
    )

    version: Annotated[Name | None, Field(description="Left out: one made of the prices.")] = None
    search: Price
    request: Price
    vector_written: Price
    token: Price
    storage_gb_hour: Price = 0
    note: Annotated[Text, Field(max_length=200)] | None = None

    def price_list(self) -> PriceList:
        rates = self.model_dump(exclude={"version", "note"})
        return PriceList(version=self.version or "", **rates)


_LIST: dict[str, Any] = {
    "version": "2027-01",
    "search": 6_000_000,
    "request": 1_000_000,
    "vector_written": 2_500_000,
    "token": 20_000,
    "storage_gb_hour": 0,
    "switched_at": "2027-01-01T00:00:00Z",
    "switched_by": "key_OHiA4kY8A7O",
    "note": "list of the new year",
}


class PriceListOut(Answer):
    """Micro-USD per million units. The list of the settings was never switched to, so it has no date."""

    model_config = examples(_LIST)

    version: str
    search: int
    request: int
    vector_written: int
    token: int
    storage_gb_hour: int
    switched_at: datetime | None = None
    switched_by: Annotated[str | None, Field(description="API key; shown to system admins.")] = None
    note: str | None = None


class PricesOut(Answer):
    model_config = examples({"current": _LIST, "acts_within_seconds": 30, "history": [_LIST]})

    current: PriceListOut
    acts_within_seconds: Annotated[int, Field(description="After so long a switch acts on every instance.")] = int(
        REMEMBER.total_seconds()
    )
    history: list[PriceListOut]
    next_page_token: str | None = None


def price_list_out(prices: PriceList, switch: Switch | None = None, *, to_system_admin: bool = False) -> PriceListOut:
    return PriceListOut(
        version=prices.version,
        **prices.rates,
        switched_at=switch.switched_at if switch else None,
        switched_by=switch.switched_by if switch and to_system_admin else None,
        note=switch.note if switch else None,
    )
