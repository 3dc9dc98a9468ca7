"""Orders to workers by HTTP: who may give them, and that no other page can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.access import Access
from gateway.http.access import AccessMiddleware
from gateway.http.admin import admin_router
from gateway.http.errors import add_error_handlers
from gateway.refusals import Refusals
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant
from tandem.core.errors import NotFound
from tandem.process.api_keys import ApiKeys, digest_of

DRAIN, UNDRAIN = "/admin/workers/decode-0/drain", "/admin/workers/decode-0/undrain"
HERE = "http://127.0.0.1:8000"
GOOD = {"x-tandem-operator": "page"}
KEYED = Access(
    {**ONE_TENANT, "team-a": Tenant()},
    ApiKeys({digest_of("operator"): DEFAULT_TENANT, digest_of("team"): "team-a"}),
)


@dataclass
class Admin:
    """Notes what it is told, of its only worker."""

    orders: list[tuple[str, float]] = field(default_factory=list)
    workers: Sequence[Any] = ()

    def drain_worker(self, worker_id: str, timeout_s: float) -> Any:
        self._require(worker_id)
        self.orders.append(("drain", timeout_s))
        return self._worker(cordoned=True)

    def undrain_worker(self, worker_id: str) -> Any:
        self._require(worker_id)
        self.orders.append(("undrain", 0.0))
        return self._worker(cordoned=False)

    def _require(self, worker_id: str) -> None:
        if worker_id != "decode-0":
            raise NotFound(f"there is no worker named {worker_id!r}")

    def _worker(self, *, cordoned: bool) -> Any:
        return SimpleNamespace(
            info=SimpleNamespace(worker_id="decode-0"),
            stopping=False,
            suspect=False,
            cordoned=cordoned,
            generations={1: None},
        )


@pytest.fixture
def admin() -> Admin:
    return Admin()


def browser(admin: Admin, access: Access, refused: Counter[str], url: str) -> httpx.AsyncClient:
    app = FastAPI()
    refusals = Refusals(refused)
    app.include_router(admin_router(admin, access, refusals))
    app.add_middleware(AccessMiddleware, access=access, refusals=refusals)
    add_error_handlers(app)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url)


async def post(
    admin: Admin,
    path: str = DRAIN,
    headers: dict[str, str] = GOOD,
    *,
    access: Access | None = None,
    url: str = HERE,
    **content: Any,
) -> httpx.Response:
    async with browser(admin, access or Access(), Counter(), url) as client:
        return await client.post(path, headers=headers, **(content or {"json": {}}))


async def test_an_order_is_given_and_the_state_told(admin: Admin) -> None:
    response = await post(admin, json={"timeout_s": 5})
    assert response.json() == {"id": "decode-0", "state": "draining", "sequences": 1}
    response = await post(admin, UNDRAIN)
    assert response.json()["state"] == "serving"
    await post(admin)
    assert admin.orders == [("drain", 5.0), ("undrain", 0.0), ("drain", 30.0)]


@pytest.mark.parametrize(
    "body",
    [
        {"timeout_s": -1},
        {"timeout_s": 1e9},
        {"timeout_s": "5"},
        {"timeout_s": None},
        {"timeout": 5},
        [],
    ],
)
async def test_what_is_no_order_is_refused(admin: Admin, body: object) -> None:
    response = await post(admin, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not admin.orders


async def test_who_is_not_there_is_not_found(admin: Admin) -> None:
    for path in ("/admin/workers/x/drain", "/admin/workers/x/undrain"):
        assert (await post(admin, path)).status_code == 404
    assert (await post(admin, "/admin/workers/../decode-0/drain")).status_code == 404


@pytest.mark.parametrize("path", [DRAIN, UNDRAIN])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"origin": "https://evil.example"}, id="elsewhere"),
        pytest.param({"origin": "http://127.0.0.1:9000"}, id="another port"),
        pytest.param({"origin": "null"}, id="a frame without an origin"),
        pytest.param({"sec-fetch-site": "cross-site"}, id="browser: cross-site"),
        pytest.param({"sec-fetch-site": "same-site"}, id="browser: same-site"),
        pytest.param({"sec-fetch-site": "none"}, id="browser: by hand"),
        pytest.param({"sec-fetch-site": "cross-site", "origin": HERE}, id="they differ"),
    ],
)
async def test_a_page_from_elsewhere_gives_no_orders(
    admin: Admin, path: str, headers: dict[str, str]
) -> None:
    for access, key in ((Access(), {}), (KEYED, {"authorization": "Bearer operator"})):
        response = await post(admin, path, {**GOOD, **headers, **key}, access=access)
        assert response.status_code == 403, headers
        assert response.json()["error"]["message"] == "a page from elsewhere may not give orders"
    assert not admin.orders


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin", "origin": HERE},
        {"origin": HERE},
        {"origin": HERE.upper()},
        # What ends TLS in front names the gateway as it likes.
        {"sec-fetch-site": "same-origin", "origin": "https://tandem.example"},
    ],
)
async def test_the_page_itself_does(admin: Admin, headers: dict[str, str]) -> None:
    assert (await post(admin, headers={**GOOD, **headers})).status_code == 200


async def test_what_a_form_can_send_is_no_order(admin: Admin) -> None:
    form = {"headers": {"origin": HERE}, "data": {"timeout_s": "5"}}
    assert (await post(admin, **form)).status_code == 415
    text = {"content-type": "text/plain"}
    response = await post(admin, headers={**GOOD, **text}, content=b"{}")
    assert response.status_code == 415
    response = await post(admin, headers={}, json={})
    assert response.status_code == 403
    assert "x-tandem-operator" in response.json()["error"]["message"]
    # The question that a browser asks first, whether another origin may send that header.
    async with browser(admin, Access(), Counter(), HERE) as client:
        response = await client.options(
            DRAIN,
            headers={
                "origin": "https://evil.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type,x-tandem-operator",
            },
        )
        assert response.status_code == 405
        assert not [name for name in response.headers if name.startswith("access-control-")]
        assert (await client.get(DRAIN, headers=GOOD)).status_code == 405
    assert not admin.orders


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("10.0.0.7:8000", 200),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("2130706433", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_without_keys_a_name_gives_no_orders(admin: Admin, host: str, status: int) -> None:
    headers = {**GOOD, "host": host, "sec-fetch-site": "same-origin"}
    assert (await post(admin, headers=headers)).status_code == status
    assert bool(admin.orders) is (status == 200)


async def test_with_keys_it_takes_an_operators(admin: Admin) -> None:
    host = {"host": "tandem.example"}
    refused = Counter[str]()
    async with browser(admin, KEYED, refused, HERE) as client:
        for key, status in ((None, 401), ("wrong", 401), ("team", 403), ("operator", 200)):
            authorization = {"authorization": f"Bearer {key}"} if key else {}
            response = await client.post(DRAIN, json={}, headers={**GOOD, **host, **authorization})
            assert response.status_code == status
            assert bool(admin.orders) is (status == 200)
    assert refused == {"UNAUTHENTICATED": 2, "PERMISSION_DENIED": 1}
