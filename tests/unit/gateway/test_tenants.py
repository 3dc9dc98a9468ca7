"""Whose a request is, and what came with it: from HTTP's and gRPC's sides to the dispatcher's."""

from __future__ import annotations

import asyncio
import time
from math import inf
from pathlib import Path

import pytest
from http_client import CHAT, CHAT_PATH, TEXT, TEXT_PATH, events

from gateway.access import Access
from gateway.settings import GatewaySettings
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant, read_tenants
from tandem.core.errors import ConfigError, DeadlineExceeded, RateLimitExceeded, Unavailable

TENANTS = {**ONE_TENANT, "team-a": Tenant()}


@pytest.fixture
def access() -> Access:
    return Access(TENANTS)


# The file


def test_tenants_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text("[default]\nmax_requests = 8\n[team-a]\nweight = 3\n[team_b]\n")
    settings = GatewaySettings(tenants=path)
    assert settings.read_access().tenants == {
        "default": Tenant(max_requests=8),
        "team-a": Tenant(weight=3.0),
        "team_b": Tenant(),
    }
    assert GatewaySettings().read_access().tenants == {DEFAULT_TENANT: Tenant()}


def test_the_example_is_such_a_file() -> None:
    tenants = read_tenants(Path(__file__).parents[3] / "examples" / "tenants.toml")
    assert {name: tenant.weight for name, tenant in tenants.items()} == {
        "default": 1.0,
        "chat": 4.0,
        "batch": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "is not TOML"),
        ("[a]\nweight = 0", "a.weight"),
        ("[a]\nweight = nan", "a.weight"),
        ("[a]\nwieght = 1", "a.wieght"),
        ("[a]\nmax_requests = 0", "a.max_requests"),
        ("[a]\nmax_tokens_in_flight = '9'", "a.max_tokens_in_flight"),
        ("a = 1", "a:"),
        ("['a b']", "a name has"),
        ("[" + "a" * 65 + "]", "a name has"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_tenants(path)
    assert caught.value.param == "tenants"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nonesuch.*No such file"):
        read_tenants(tmp_path / "nonesuch")


@pytest.mark.parametrize("name", ["nobody", "", "a\x00", "x" * 10_000])
def test_names_that_are_made_up_gain_nothing(name: str) -> None:
    assert Access(TENANTS).tenant_of({"x-tandem-tenant": name}) == DEFAULT_TENANT
    assert Access().tenant_of({"x-tandem-tenant": "team-a"}) == DEFAULT_TENANT


# HTTP


@pytest.mark.parametrize(("path", "body"), [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)])
async def test_what_came_with_a_request_reaches_the_dispatcher(client, service, path, body):
    before = time.monotonic()
    headers = {"X-Tandem-Tenant": "team-a"}
    fields = {"priority": -3, "timeout": 60}
    assert (await client.post(path, json=body | fields, headers=headers)).status_code == 200
    (request,) = service.requests
    assert (request.tenant, request.priority) == ("team-a", -3)
    assert before + 60 <= request.deadline_s <= time.monotonic() + 60


async def test_what_did_not_come_is_the_default(client, service):
    await client.post(TEXT_PATH, json=TEXT | {"priority": None, "timeout": None})
    (request,) = service.requests
    assert (request.tenant, request.priority, request.deadline_s) == (DEFAULT_TENANT, 0, inf)


@pytest.mark.parametrize(
    ("path", "body"), [("/tokenize", {"prompt": "Hi"}), ("/detokenize", {"tokens": [72]})]
)
async def test_what_is_only_tokenised_is_its_tenants_too(client, service, path, body):
    headers = {"X-Tandem-Tenant": "team-a"}
    assert (await client.post(path, json=body, headers=headers)).status_code == 200
    assert set(service.being_read) == {"team-a"}


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (RateLimitExceeded("no", retry_after_s=12.2), 429, "rate_limit_exceeded", "13"),
        (Unavailable("no", retry_after_s=0.3), 503, "unavailable", "1"),
        (DeadlineExceeded("no"), 504, "deadline_exceeded", None),
    ],
)
async def test_who_is_refused_costs_no_work(
    client, service, grammars, error, status, code, retry_after
):
    service.no_room = error
    body = TEXT | {"guided_regex": "a+"}
    response = await client.post(TEXT_PATH, json=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers.get("retry-after") == retry_after
    assert not grammars.checked


async def test_a_deadline_in_mid_stream_is_an_event(client, service):
    service.script = lambda request: [72, DeadlineExceeded("the request's time is over")]
    chunks = events(await client.post(TEXT_PATH, json=TEXT | {"stream": True, "timeout": 1}))
    assert chunks[-1]["error"]["code"] == "deadline_exceeded"


async def test_the_time_that_reading_a_request_takes_counts(client, frontend, monkeypatch):
    async def encode(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(frontend, "_encode", encode)
    response = await client.post(TEXT_PATH, json=TEXT | {"timeout": 0.01})
    assert response.status_code == 504
