"""What every service offers, and which workers a gateway refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import grpc
import pytest
import service_processes
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from stack import RecordingDispatcher, WorkerProcess, collect, running_stack, started
from structlog.testing import capture_logs

from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from gateway.tokens import TokenRequest
from tandem.artifacts.resolve import MOCK_FOLDER, resolve
from tandem.core.errors import Unavailable
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerRole
from tandem.wire.channels import open_channel

SERVICES = {
    WorkerRole.PREFILL: {"tandem.v1.PrefillService", "tandem.v1.WorkerService"},
    WorkerRole.DECODE: {
        "tandem.v1.DecodeService",
        "tandem.v1.KvTransferService",
        "tandem.v1.WorkerService",
    },
}


@pytest.fixture(autouse=True)
def as_anybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not forked, as elsewhere."""
    monkeypatch.setattr(service_processes, "are_forked", False)


@pytest.mark.parametrize("role", list(WorkerRole))
def test_a_wrong_device_is_a_line_and_no_traceback(role: WorkerRole) -> None:
    service = [
        sys.executable,
        "-m",
        f"{role.name.lower()}_service",
        "--port=1",
        "--model=mock",
        "--device=foo",
    ]
    ended = subprocess.run(service, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode
    assert ended.stderr.startswith("error: --device: unknown device 'foo'")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("role", list(WorkerRole))
async def test_health_and_reflection(role: WorkerRole) -> None:
    worker = WorkerProcess(role, "--model=mock", "--device=mock:zero")
    async with started(worker), open_channel(worker.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES[role]):
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=60
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(worker.address) as sync_channel:
            listed = set(ProtoReflectionDescriptorDatabase(sync_channel).get_services())
        assert SERVICES[role] <= listed
        worker.signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_worker_that_does_not_fit_is_refused_and_the_others_serve(tmp_path: Path) -> None:
    new_worker = partial(WorkerProcess, WorkerRole.DECODE, "--device=mock:zero")
    another_model = new_worker(f"--model={deeper_mock(tmp_path)}", "--worker-id=odd-model")
    another_layout = new_worker("--model=mock", "--block-size=32", "--worker-id=odd-layout")
    another_role = new_worker("--model=mock")
    odd_ones = (another_model, another_layout, another_role)
    async with running_stack(1, 1) as stack, started(*odd_ones):
        with capture_logs() as logs:
            stack.dispatcher.add_worker(WorkerRole.DECODE, another_model.address)
            stack.dispatcher.add_worker(WorkerRole.DECODE, another_layout.address)
            stack.dispatcher.add_worker(WorkerRole.PREFILL, another_role.address)
            stack.dispatcher.add_worker(WorkerRole.DECODE, "127.0.0.1:1")
            whys = ("another model", "odd-model", "KV layout", "odd-layout", "not PREFILL")
            await stack.until(lambda: all(why in str(logs) for why in whys))
        assert stack.dispatcher.ready
        await collect(stack.submit("served", (1, 2, 3), 4))
        assert len(stack.dispatcher.num_blocks) == 2


def deeper_mock(folder: Path) -> Path:
    """The mock model with a layer more."""
    for file in MOCK_FOLDER.glob("*.json"):
        text = file.read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
        (folder / file.name).write_text(text)
    assert resolve(str(folder)).fingerprint != resolve("mock").fingerprint
    return folder


async def test_without_workers_requests_are_refused_at_once() -> None:
    dispatcher = RecordingDispatcher(
        Scheduler(queue_policy("fcfs"), Limits()),
        [(WorkerRole.PREFILL, "127.0.0.1:1"), (WorkerRole.DECODE, "127.0.0.1:1")],
        "",
        Timeline(),
    )
    dispatcher.start()
    try:
        assert not dispatcher.ready
        assert dispatcher.model is None
        with pytest.raises(Unavailable):
            dispatcher.submit(TokenRequest("r", (1, 2), SamplingParams(max_tokens=1, seed=0)))
    finally:
        await dispatcher.stop()
