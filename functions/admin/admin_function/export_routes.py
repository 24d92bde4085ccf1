"""A month of usage, page by page; the pages one after the other are the file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.usage_access import visible_usage
from admin_function.usage_schemas import ExportParameters
from vecmeter.http.checks import invalid
from vecmeter.http.dependencies import Answered, CallDependency
from vecmeter.http.paging import decode_page_token, encode_page_token
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.export import Export, ExportFormat, Line, Month
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Operation, Role

router = APIRouter(tags=["usage"], prefix="/admin/usage", route_class=BusinessRoute)

NEXT_PAGE = "X-Next-Page-Token"
_RECORD_LINE = r"[\w.-]{1,63}\|key_[0-9A-Za-z]{1,60}\|\d{13}#[0-9a-f]{1,64}"
_FOCUS_LINE = r"(?:0[1-9]|[12]\d|3[01])\|[\w.-]{1,63}\|key_[0-9A-Za-z]{1,60}\|[\w.-]{0,63}\|[a-z]{1,20}"
_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_OK: dict[str, Any] = {
    "content": {
        "text/csv": _TEXT
        | {"example": "request_id,started_at,api_key_id,...\n4c6e8ac0f2d15b37,2026-11-21T11:59:00Z,...\n"},
        "application/x-ndjson": _TEXT | {"example": '{"request_id": "4c6e8ac0f2d15b37", ...}\n'},
    },
    "headers": {NEXT_PAGE: {"description": "``page_token`` of the next page, if there is one.", **_TEXT}},
}


@router.get("/export", response_class=Response, operation_id="export_usage", responses={200: _OK})
def export_usage(query: Annotated[ExportParameters, Query()], call: CallDependency) -> Response:
    """One line per record (csv, jsonl), or per day, key, project and operation in FOCUS 1.2; the header comes first."""
    focus = query.format is ExportFormat.FOCUS
    after = decode_page_token(query.page_token, _FOCUS_LINE if focus else _RECORD_LINE)
    month = _month(query.month, call.runtime.clock())
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        selection = visible_usage(
            call.runtime,
            hold.key,
            api_key_id=query.api_key_id,
            project_id=query.project_id,
            user_id=query.user_id,
        )
        export = Export(call.runtime.reports, selection, month, query.format)
        export.check(call.runtime.clock() - call.runtime.usage.retention)
        room = call.runtime.settings.max_response_bytes
        text, following = _page("" if after else export.header, export.lines(after), query.limit, room)
        headers = {NEXT_PAGE: encode_page_token(following)} if following else {}
        response = Response(text, media_type=query.format.media_type, headers=headers)
        return call.settle(hold, Answered(response, Outcome(response_bytes=len(text)), hold.cost(0)))


def _page(header: str, lines: Iterable[Line], limit: int, room: int) -> tuple[bytes, str | None]:
    """As many lines as asked for and sent at once, one at least, and where to go on if there are more."""
    page, last, count = bytearray(header.encode()), None, 0
    for line in lines:
        content = line.text.encode()
        if last is not None and (count == limit or len(page) + len(content) > room):
            return bytes(page), last
        page += content
        last, count = line.position, count + 1
    return bytes(page), None


def _month(text: str | None, now: datetime) -> Month:
    try:
        return Month.of(now) if text is None else Month.parse(text)
    except ValueError as error:
        raise invalid("month", str(error)) from None
