"""What comes beside a gRPC request: its tenant, its priority, its deadline."""

from __future__ import annotations

import time
from math import inf

import pytest
from grpc_client import serving

import tandem
from gateway.access import Access
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant
from tandem.core.errors import DeadlineExceeded, InvalidRequest, RateLimitExceeded

TENANTS = {**ONE_TENANT, "team-a": Tenant()}


@pytest.fixture
def access() -> Access:
    return Access(TENANTS)


@pytest.fixture
async def address(frontend, service):
    async with serving(frontend, service) as address:
        yield address


@pytest.fixture
async def client(address):
    async with tandem.AsyncClient(address, tenant="team-a") as client:
        yield client


async def test_what_comes_beside_a_request_reaches_the_dispatcher(client, service):
    before = time.monotonic()
    await client.generate(prompt="Hi", priority=-3, timeout=60)
    (request,) = service.requests
    assert (request.tenant, request.priority) == ("team-a", -3)
    # The call's deadline is told in whole milliseconds, and takes its time to come.
    assert before + 55 < request.deadline_s < time.monotonic() + 60.1


async def test_what_is_only_tokenised_is_its_tenants_too(client, service):
    for call in (client.tokenize(prompt="Hi"), client.detokenize([72])):
        await call
        assert set(service.being_read) == {"team-a"}
        service.being_read.clear()


async def test_what_does_not_come_is_the_default(address, service):
    async with tandem.AsyncClient(address) as client:
        await client.generate(prompt="Hi")
    (request,) = service.requests
    assert (request.tenant, request.priority, request.deadline_s) == (DEFAULT_TENANT, 0, inf)


async def test_a_tenant_that_is_not_known_is_the_default(address, service):
    async with tandem.AsyncClient(address, tenant="nobody") as client:
        await client.generate(prompt="Hi")
    assert service.requests[0].tenant == DEFAULT_TENANT


async def test_who_is_refused_is_told_when_to_come_again(client, service):
    service.no_room = RateLimitExceeded("no", retry_after_s=12.5)
    with pytest.raises(RateLimitExceeded) as caught:
        await client.generate(prompt="Hi")
    assert caught.value.retry_after_s == 12.5
    service.no_room = DeadlineExceeded("no")
    with pytest.raises(DeadlineExceeded):
        await client.generate(prompt="Hi")


@pytest.mark.parametrize("name", ["a\nb", "\u00e9"])
def test_a_tenants_name_that_cannot_be_sent_is_refused(name):
    with pytest.raises(InvalidRequest):
        tandem.Client("127.0.0.1:1", tenant=name)
