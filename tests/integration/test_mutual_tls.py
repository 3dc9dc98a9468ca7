"""`tandem up` with certificates and a key: who gets in, and who does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from up import Up, running_up

from tandem.process.certificates import make_certificates
from tandem.process.healthcheck import problem
from tandem.process.identity import read_identity
from tandem.v1 import worker_pb2, worker_pb2_grpc
from tandem.wire.channels import open_sync_channel
from tandem.wire.tls import ChannelTls, Identity, Role

KEY = "tandem-the-only-key"
TIMEOUT_S = 60
COMMANDS = {
    Role.PREFILL: "/tandem.v1.PrefillService/RunBatches",
    Role.DECODE: "/tandem.v1.DecodeService/RunLoop",
}
PUSH_KV = "/tandem.v1.KvTransferService/PushKv"


class Fleet:
    """A running fleet, and where its workers listen."""

    def __init__(self, up: Up, tls_dir: Path) -> None:
        self.up = up
        self.tls_dir = tls_dir
        self.url = up.url
        self.addresses = {role: _address(up, role) for role in COMMANDS}

    def tls(self, own: Role, server: Role) -> ChannelTls:
        return read_identity(self.tls_dir, own).towards(server)

    def code_of(self, method: str, server: Role, tls: ChannelTls | None) -> grpc.StatusCode:
        """How a call ends that is told nothing."""
        with open_sync_channel(self.addresses[server], tls) as channel:
            call = channel.stream_stream(method)(iter(()), timeout=TIMEOUT_S)
            with suppress(grpc.RpcError):
                list(call)
            return call.code()


def _address(up: Up, role: Role) -> str:
    command: Sequence[str] = up.child(role).cmdline()
    return f"127.0.0.1:{command[command.index('--port') + 1]}"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    make_certificates(folder / "tls", 30)
    flags = ("--tls-dir", str(folder / "tls"), "--api-key", KEY, "--local-prefill", "off")
    with running_up(folder, *flags) as up:
        yield Fleet(up, folder / "tls")


def test_it_serves_who_has_the_key(fleet: Fleet) -> None:
    body = {"prompt": "hello" * 20, "max_tokens": 4}
    assert httpx.post(f"{fleet.url}/v1/completions", json=body).status_code == 401
    answer = httpx.post(
        f"{fleet.url}/v1/completions",
        json=body,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    served = answer.json()["tandem"]
    # The KV went from one worker to the other.
    assert served["mode"] == "disaggregated" and served["kv_bytes"] > 0
    assert httpx.get(f"{fleet.url}/ready").status_code == 200


def test_the_key_is_on_no_services_command_line(fleet: Fleet) -> None:
    for child in fleet.up.children:
        assert KEY not in " ".join(child.cmdline())


@pytest.mark.parametrize("server", list(COMMANDS))
def test_only_the_gateway_commands(fleet: Fleet, server: Role) -> None:
    for own in Role:
        code = fleet.code_of(COMMANDS[server], server, fleet.tls(own, server))
        # FAILED_PRECONDITION: it got in, and did not say what a controller must.
        expected = "FAILED_PRECONDITION" if own is Role.GATEWAY else "PERMISSION_DENIED"
        assert code.name == expected, own


def test_only_prefill_workers_send_kv(fleet: Fleet) -> None:
    for own in Role:
        code = fleet.code_of(PUSH_KV, Role.DECODE, fleet.tls(own, Role.DECODE))
        assert code.name == ("CANCELLED" if own is Role.PREFILL else "PERMISSION_DENIED"), own


@pytest.mark.parametrize("server", list(COMMANDS))
def test_a_stranger_gets_no_answer(fleet: Fleet, server: Role, tmp_path: Path) -> None:
    make_certificates(tmp_path, 30)
    theirs, ours = read_identity(tmp_path, Role.GATEWAY), read_identity(fleet.tls_dir, server)
    one_sided = grpc.ssl_channel_credentials(ours.authority)
    strangers = [
        None,  # no TLS
        ChannelTls(one_sided, server),  # no certificate
        Identity(ours.authority, theirs.certificate, theirs.key).towards(server),  # another's
    ]
    for tls in strangers:
        for method in (COMMANDS[server], PUSH_KV, "/tandem.v1.WorkerService/Describe"):
            assert fleet.code_of(method, server, tls) is grpc.StatusCode.UNAVAILABLE, tls


def test_whoever_is_not_of_the_expected_role_is_not_talked_to(fleet: Fleet, tmp_path: Path) -> None:
    make_certificates(tmp_path, 30)
    gateway, theirs = (read_identity(each, Role.GATEWAY) for each in (fleet.tls_dir, tmp_path))
    impostors = [
        gateway.towards(Role.PREFILL),
        Identity(theirs.authority, gateway.certificate, gateway.key).towards(Role.DECODE),
    ]
    for tls in impostors:
        code = fleet.code_of(COMMANDS[Role.DECODE], Role.DECODE, tls)
        assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("server", list(COMMANDS))
def test_a_service_is_asked_for_its_health_with_its_own_certificate(
    fleet: Fleet, server: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_TLS_DIR", str(fleet.tls_dir))
    assert problem(fleet.addresses[server], server) is None
    assert problem(fleet.addresses[server])
    with open_sync_channel(fleet.addresses[server], fleet.tls(server, server)) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        assert stub.Describe(worker_pb2.DescribeRequest()).worker.worker_id == f"{server}-0"
