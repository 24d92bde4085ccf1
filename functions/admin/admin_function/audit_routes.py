"""Who changed what."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import audit_records
from admin_function.key_schemas import AuditParameters, AuditRecordsOut, audit_record_out
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.audit import audit_position
from vecmeter.ledger.model import Operation, Role

router = APIRouter(tags=["audit"], prefix="/admin/audit", route_class=BusinessRoute)

_POSITION = r"\d{13}#[0-9a-f]{16}"


@router.get("", response_model=AuditRecordsOut, operation_id="list_audit_records")
def list_audit_records(query: Annotated[AuditParameters, Query()], call: CallDependency) -> Response:
    """Changes of keys, projects and policies, newest first: of one thing, of all a user owns, or of all one may see."""
    before = decode_page_token(query.page_token, _POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        found = audit_records(call.runtime, hold.key, target=query.target, user_id=query.user_id, before=before)
        shown, token = page(list(islice(found, query.limit + 1)), query.limit, audit_position)
        return call.respond(hold, AuditRecordsOut(records=list(map(audit_record_out, shown)), next_page_token=token))
