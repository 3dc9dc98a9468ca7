"""Keys: who gets in by gRPC, and how the SDK sends one."""

from __future__ import annotations

from collections import Counter

import grpc
import pytest
from grpc_client import SERVICE, serving
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import tandem
from gateway import grpc_calls
from gateway.access import Access
from gateway.grpc_access import AccessInterceptor
from gateway.grpc_calls import CallLimit
from gateway.refusals import Refusals
from gateway.tenants import ONE_TENANT, Tenant
from tandem.client.connection import call_metadata
from tandem.core.errors import InvalidRequest, PermissionDenied, Unauthenticated
from tandem.process.api_keys import ApiKeys, digest_of
from tandem.v1 import inference_pb2, inference_pb2_grpc
from tandem.wire.channels import open_channel

KEY = "tandem-of-team-a"
OPERATORS_KEY = "tandem-of-operators"
KEYS = ApiKeys({digest_of(KEY): "team-a", digest_of(OPERATORS_KEY): "default"})
ACCESS = Access({**ONE_TENANT, "team-a": Tenant()}, KEYS)


@pytest.fixture
def refused():
    return Counter[str]()


@pytest.fixture
def access() -> Access:
    return ACCESS


@pytest.fixture
async def address(frontend, service, refused):
    refusals = Refusals(refused)
    interceptors = [AccessInterceptor(ACCESS, refusals), CallLimit(ACCESS, refusals)]
    async with serving(frontend, service, interceptors) as address:
        yield address


async def test_the_sdk_sends_a_key_with_all_it_asks(address, service, monkeypatch):
    monkeypatch.delenv("TANDEM_API_KEY", raising=False)
    async with tandem.AsyncClient(address, api_key=KEY) as client:
        await client.generate(prompt="Hi")
        assert await client.detokenize(await client.tokenize(prompt="Hi")) == "Hi"
        assert await client.models()
    assert service.requests[0].tenant == "team-a"
    async with tandem.AsyncClient(address) as client:
        for call in (
            client.generate(prompt="Hi"),
            client.tokenize(prompt="Hi"),
            client.detokenize([72]),
            client.models(),
        ):
            with pytest.raises(Unauthenticated):
                await call
    assert len(service.requests) == 1


async def test_the_sdk_finds_a_key_in_the_environment(address, monkeypatch):
    monkeypatch.setenv("TANDEM_API_KEY", KEY)
    async with tandem.AsyncClient(address) as client:
        assert await client.models()
    # What is given counts for more.
    async with tandem.AsyncClient(address, api_key="another") as client:
        with pytest.raises(Unauthenticated):
            await client.models()


@pytest.mark.parametrize("tenant", ["default", "team-b"])
async def test_a_key_cannot_be_used_for_another_tenant(address, service, refused, tenant):
    async with tandem.AsyncClient(address, tenant=tenant, api_key=KEY) as client:
        with pytest.raises(PermissionDenied):
            await client.generate(prompt="Hi")
    assert not service.requests
    assert refused == {"PERMISSION_DENIED": 1}


async def test_every_method_but_health_check_needs_a_key(address):
    async with open_channel(address) as channel:
        methods = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods
        assert {"Generate", "GetTimeline"} <= {method.name for method in methods}
        for name in (*(method.name for method in methods), "Nonesuch"):
            # Of any kind: a call that streams both ways reads the same status.
            call = channel.stream_stream(f"/{SERVICE}/{name}")()
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED, name
        asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        assert await asked.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        unknown = health_pb2.HealthCheckRequest(service="x")
        asked = health_pb2_grpc.HealthStub(channel).Check(unknown)
        assert await asked.code() is grpc.StatusCode.NOT_FOUND
        for path in (f"{health.SERVICE_NAME}x/Check", f"{health.SERVICE_NAME}/Checks"):
            call = channel.unary_unary(f"/{path}")(b"")
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED, path


async def test_strangers_cannot_watch_health_and_holders_of_keys_can(address):
    async with open_channel(address) as channel:
        stub, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
        assert await stub.Watch(request).code() is grpc.StatusCode.UNAUTHENTICATED
        watching = stub.Watch(request, metadata=call_metadata(api_key=KEY))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()


async def test_strangers_hold_no_place_by_asking_nothing(address, monkeypatch):
    monkeypatch.setattr(grpc_calls, "STRANGERS_ASK_S", 0.01)
    async with open_channel(address) as channel:
        check = channel.stream_stream(f"/{health.SERVICE_NAME}/Check")
        assert await check().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await check(iter(())).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED),
        (KEY, grpc.StatusCode.PERMISSION_DENIED),
        # There is no such service here: it was asked for.
        (OPERATORS_KEY, grpc.StatusCode.UNIMPLEMENTED),
    ],
)
async def test_only_the_default_tenants_keys_operate(address, monkeypatch, key, code):
    monkeypatch.delenv("TANDEM_API_KEY", raising=False)
    async with open_channel(address) as channel:
        method = channel.unary_unary("/tandem.v1.AdminService/DrainWorker")
        assert await method(b"", metadata=call_metadata(api_key=key)).code() is code


async def test_only_the_default_tenants_keys_show_what_all_do(address, refused):
    async with open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def read(key: str) -> grpc.StatusCode:
            request, metadata = inference_pb2.GetTimelineRequest(), call_metadata(api_key=key)
            return await stub.GetTimeline(request, metadata=metadata).code()

        assert await read(KEY) is grpc.StatusCode.PERMISSION_DENIED
        assert await read(OPERATORS_KEY) is grpc.StatusCode.OK
    assert refused == {"PERMISSION_DENIED": 1}


@pytest.mark.parametrize("key", ["a\nb", "\u00e9"])
def test_a_key_that_cannot_be_sent_is_refused(key):
    with pytest.raises(InvalidRequest) as caught:
        call_metadata(api_key=key)
    assert caught.value.param == "api_key"
