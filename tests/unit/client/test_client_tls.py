"""Clients and commands at an address that speaks TLS."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from unittest.mock import Mock

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from tandem import AsyncClient, Client
from tandem.bench.target import parse_target, served_models
from tandem.cli.app import commands
from tandem.client import Model
from tandem.core.errors import ConfigError, Unavailable
from tandem.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

MODELS = [Model("m", 16)]
TIMEOUT_S = 10.0


def list_models(*_: object) -> inference_pb2.ListModelsResponse:
    model = inference_pb2.ServedModel(id="m", max_model_len=16)
    return inference_pb2.ListModelsResponse(models=[model])


def answer(*_: object) -> Iterator[inference_pb2.GenerateResponse]:
    yield inference_pb2.GenerateResponse(delta=inference_pb2.TokenDelta(text="Hello"))
    yield inference_pb2.GenerateResponse(finished=inference_pb2.GenerationFinished())


def worker(*_: object) -> admin_pb2.WorkerStatus:
    return admin_pb2.WorkerStatus(worker_id="decode-0", role=2, state=2)


def certified(host: str) -> tuple[bytes, bytes]:
    """A key, and a certificate of an address that is its own authority: PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )


@pytest.fixture(params=["127.0.0.1"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine, and the file of its certificate's authority.
    The parameter is what the certificate is of."""
    key, certificate = certified(request.param)
    server = grpc.server(ThreadPoolExecutor(1))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        Mock(
            inference_pb2_grpc.InferenceServiceServicer,
            ListModels=list_models,
            Generate=answer,
            GetTimeline=lambda *_: inference_pb2.GetTimelineResponse(),
        ),
        server,
    )
    admin_pb2_grpc.add_AdminServiceServicer_to_server(
        Mock(
            admin_pb2_grpc.AdminServiceServicer,
            ListWorkers=lambda *_: admin_pb2.ListWorkersResponse(workers=[worker()]),
            DrainWorker=lambda *_: admin_pb2.DrainWorkerResponse(worker=worker()),
            UndrainWorker=lambda *_: admin_pb2.UndrainWorkerResponse(worker=worker()),
        ),
        server,
    )
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificate)
    server.start()
    yield f"127.0.0.1:{port}", authority
    server.stop(None)


async def test_clients_speak_tls(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, authority = served
    with Client(address, tls=authority) as client:
        assert client.models(timeout=TIMEOUT_S) == MODELS
    async with AsyncClient(address, tls=authority) as async_client:
        assert await async_client.models(timeout=TIMEOUT_S) == MODELS
    # Where OpenSSL looks for the system's.
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with Client(address, tls=True) as client:
        assert client.models(timeout=TIMEOUT_S) == MODELS


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["workers"], "decode-0"),
        (["drain", "decode-0", "--no-wait"], "decode-0 is"),
        (["undrain", "decode-0"], "decode-0 is"),
        (["timeline"], "nothing ran"),
        (["chat", "Hi"], "Hello"),
    ],
)
def test_commands_speak_tls(
    served: tuple[str, Path], command: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, authority = served
    for tls in (str(authority), "system"):
        ended = CliRunner().invoke(commands, [*command, "--address", address, "--tls", tls])
        assert ended.exit_code == 0, ended.exception
        assert said in ended.output
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))


async def test_the_load_goes_by_tls(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, authority = served
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert await served_models(parse_target(f"grpcs://{address}"), None) == ["m"]


@pytest.mark.parametrize("tls", [True, False])
def test_who_is_not_trusted_is_not_talked_to(served: tuple[str, Path], tls: bool) -> None:
    with Client(served[0], tls=tls) as client, pytest.raises(Unavailable):
        client.models(timeout=TIMEOUT_S)


@pytest.mark.parametrize("served", ["127.0.0.2"], indirect=True)
def test_a_certificate_is_of_the_address(served: tuple[str, Path]) -> None:
    address, authority = served
    with Client(address, tls=authority) as client, pytest.raises(Unavailable):
        client.models(timeout=TIMEOUT_S)


def test_a_file_of_no_authorities_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"ca\.pem cannot be read: No such file"):
        Client(tls=path)
    path.touch()
    with pytest.raises(ConfigError, match=r"ca\.pem is no file of certificates") as caught:
        Client(tls=path)
    assert caught.value.param == "tls"
