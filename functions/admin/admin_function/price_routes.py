"""Price lists: what holds, what held before, and switching to another."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.price_schemas import PriceListOut, PricesBody, PricesOut, price_list_out
from vecmeter.http.dependencies import CallDependency, sees_everything
from vecmeter.http.fields import PageParameters
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role

router = APIRouter(tags=["costs"], prefix="/admin/prices", route_class=BusinessRoute)

_POSITION = r"[1-9]\d{0,9}"


@router.get("", response_model=PricesOut, operation_id="get_prices")
def get_prices(query: Annotated[PageParameters, Query()], call: CallDependency) -> Response:
    """The price list that holds, and every switch of it, newest first."""
    before = decode_page_token(query.page_token, _POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        prices, everything = call.runtime.prices, sees_everything(hold.key)
        last = prices.last_switch()
        found = list(islice(prices.switches(before=int(before) if before else None), query.limit + 1))
        shown, token = page(found, query.limit, lambda switch: str(switch.prices.number))
        answer = PricesOut(
            current=price_list_out(last.prices if last else prices.default, last, to_system_admin=everything),
            history=[price_list_out(one.prices, one, to_system_admin=everything) for one in shown],
            next_page_token=token,
        )
        return call.respond(hold, answer)


@router.put("", response_model=PriceListOut, operation_id="set_prices", responses={409: {}})
def set_prices(body: PricesBody, call: CallDependency) -> Response:
    """Switch to a price list. A version that has been used keeps its prices: 409 for other ones."""
    with call.admit_system_admin() as hold:
        switch = call.runtime.prices.switch(body.price_list(), by=hold.key.api_key_id, note=body.note)
        return call.respond(hold, price_list_out(switch.prices, switch, to_system_admin=True))
