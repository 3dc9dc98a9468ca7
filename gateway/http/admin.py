"""POST /admin/workers/{worker_id}/drain and /undrain: the orders of the page and of `tandem top`.

They are those of `AdminService`, and for the same people. They are no part of the API that
`/openapi.json` describes: programs have gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import Access
from gateway.decode_view import DecodeView
from gateway.grpc_admin import WorkerAdmin
from gateway.http.body import BodyRoute
from gateway.http.operators import check_own_page
from gateway.prefill_view import PrefillView
from gateway.refusals import Refusals
from gateway.worker_state import state_of
from tandem.core.errors import TandemError


class UndrainBody(BaseModel):
    """Nothing. But only what is JSON, which no form can send, is taken for an order."""

    model_config = ConfigDict(strict=True, extra="forbid")


class DrainBody(UndrainBody):
    """`timeout_s`: seconds that the worker may take for what it has."""

    timeout_s: float = Field(30.0, ge=0, le=86_400)


def admin_router(admin: WorkerAdmin, access: Access, refusals: Refusals) -> APIRouter:
    """Orders to workers, from whoever `access` knows as an operator."""
    router = APIRouter(route_class=BodyRoute, include_in_schema=False)

    def check(headers: Mapping[str, str]) -> None:
        try:
            access.check_operator(headers)
            check_own_page(headers, is_open=access.is_open)
        except TandemError as error:
            refusals.add(error.reason, error.message)
            raise

    @router.post("/admin/workers/{worker_id}/drain")
    async def drain(request: Request, body: DrainBody) -> JSONResponse:
        check(request.headers)
        return _status(admin.drain_worker(request.path_params["worker_id"], body.timeout_s))

    @router.post("/admin/workers/{worker_id}/undrain")
    async def undrain(request: Request, body: UndrainBody) -> JSONResponse:
        check(request.headers)
        return _status(admin.undrain_worker(request.path_params["worker_id"]))

    return router


def _status(worker: PrefillView | DecodeView) -> JSONResponse:
    return JSONResponse(
        {
            "id": worker.info.worker_id,
            "state": state_of(worker).value,
            "sequences": len(worker.generations),
        }
    )
