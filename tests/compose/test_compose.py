"""The compose file against a real engine, through the API that users use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
from compose_project import MOCK, Project, kill, wait_until
from docker.models.containers import Container

NUM_CLIENTS = 8
CERTIFICATE_FILES = ("ca.crt", "tls.crt", "tls.key")


def test_it_serves_is_shut_in_and_leaves_nothing(tandem: Project) -> None:
    tandem.up(**MOCK)
    answer = tandem.complete()
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["tandem"]["kv_bytes"] > 0
    for container in tandem.containers():
        assert writable_places(container) == "/cache /tmp"
        wait_until(lambda container=container: is_healthy(container), f"{container.name} healthy")
    assert published(tandem) == {"gateway": {"127.0.0.1"}, "prefill": set(), "decode": set()}
    tandem.compose("stop")
    # Nothing had to be killed.
    assert {each.wait()["StatusCode"] for each in tandem.containers()} == {0}
    tandem.compose("down", "--volumes")
    assert tandem.what_is_left() == []


def test_every_replica_serves_also_one_that_comes_later(tandem: Project) -> None:
    tandem.up("--scale", "decode=2", **MOCK)
    wait_until(lambda: len(decode_workers(tandem)) == 2, "two decode workers serve")
    tandem.up("--scale", "decode=1")
    wait_until(lambda: len(decode_workers(tandem)) == 1, "one decode worker serves")
    tandem.up("--scale", "decode=3", "--scale", "prefill=2")
    wait_until(lambda: len(decode_workers(tandem)) == 3, "three decode workers serve")
    wait_until(lambda: len(prefill_workers(tandem)) == 2, "two prefill workers serve")


def test_a_worker_that_was_replaced_is_found_at_its_new_address(tandem: Project) -> None:
    tandem.up(**MOCK)
    (before,) = decode_workers(tandem)
    (old,) = tandem.containers("decode")
    old_address = address_of(old)
    # Its address goes to another container meanwhile.
    old.stop()
    guest = tandem.client.containers.run(
        old.image, entrypoint=["sleep", "600"], detach=True, network=network_of(old), init=True
    )
    try:
        old.remove()
        tandem.up()
        (new,) = tandem.containers("decode")
        assert address_of(new) != old_address
        (after,) = decode_workers(tandem)
        assert after != before
    finally:
        guest.remove(force=True)


def test_a_worker_that_dies_is_restarted_and_serves_again(tandem: Project) -> None:
    tandem.up(**MOCK)
    for service in ("decode", "prefill"):
        (container,) = tandem.containers(service)
        kill(tandem.client, container)
        wait_until(lambda container=container: num_restarts(container) == 1, "restarted")
        wait_until(lambda: serves(tandem), "served again")


def test_the_default_model_is_fetched_once_and_answers(tandem: Project) -> None:
    """From an empty volume: three services begin to fetch it at the same time."""
    tandem.up(TANDEM_MODEL="default", TANDEM_DEVICE="cpu")
    answer = tandem.complete(prompt="The capital of France is", max_tokens=8, temperature=0)
    assert "Paris" in answer["choices"][0]["text"]
    (gateway,) = tandem.containers("gateway")
    assert listed(gateway, "/cache") == [".lock", "models", "packed"]
    assert listed(gateway, "/cache/models") == ["smollm2-135m-instruct"]
    # Packed for the kernels once: the workers share the file.
    assert len(listed(gateway, "/cache/packed")) == 1


def test_with_tls_each_service_has_its_certificate_and_no_stranger_is_let_in(
    tandem_with_tls: Project,
) -> None:
    tandem = tandem_with_tls
    tandem.up(**MOCK)
    assert tandem.complete()["tandem"]["kv_bytes"] > 0
    for role in ("gateway", "prefill", "decode"):
        (container,) = tandem.containers(role)
        wait_until(lambda container=container: is_healthy(container), f"{role} healthy")
        assert files_in(container, "/tls") == [f"{role}/{name}" for name in CERTIFICATE_FILES]
    (gateway,) = tandem.containers("gateway")
    for stranger in ("prefill:50051", "decode:50052"):
        asked = gateway.exec_run(["python3", "-m", "tandem.process.healthcheck", stranger])
        assert asked.exit_code == 1, asked.output
    # Renewed, as the file says.
    before = read(gateway, "/tls/gateway/tls.crt")
    tandem.compose("up", "--no-build", "certs")
    assert read(gateway, "/tls/gateway/tls.crt") != before
    tandem.compose("restart")
    wait_until(lambda: serves(tandem), "served with new certificates")


# What the tests look at


def decode_workers(tandem: Project) -> set[str]:
    return workers(tandem, "decode_worker")


def listed(container: Container, folder: str) -> list[str]:
    return str(container.exec_run(["ls", "-A", folder]).output.decode()).split()


def prefill_workers(tandem: Project) -> set[str]:
    return workers(tandem, "prefill_worker")


def workers(tandem: Project, role: str) -> set[str]:
    """Who serves some requests that come at the same time, each by two workers: short prompts may
    be computed where they are decoded."""
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        answers = pool.map(lambda _: tandem.complete(max_tokens=64), range(2 * NUM_CLIENTS))
        served_by = [answer["tandem"] for answer in answers]
        return {each[role] for each in served_by if each["mode"] == "disaggregated"}


def serves(tandem: Project) -> bool:
    try:
        tandem.complete()
    except (AssertionError, httpx.TransportError):
        return False
    return True


def num_restarts(container) -> int:
    container.reload()
    return container.attrs["RestartCount"]


def is_healthy(container) -> bool:
    container.reload()
    return container.attrs["State"]["Health"]["Status"] == "healthy"


def files_in(container, folder: str) -> list[str]:
    """All that its user may see, by path from there."""
    program = (
        "import pathlib, sys; root = pathlib.Path(sys.argv[1]);"
        " print(*sorted(str(each.relative_to(root)) for each in root.rglob('*') if each.is_file()))"
    )
    return container.exec_run(["python3", "-c", program, folder]).output.decode().split()


def read(container, path: str) -> bytes:
    return bytes(container.exec_run(["cat", path]).output)


def address_of(container) -> str:
    container.reload()
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    return network["IPAddress"]


def network_of(container) -> str:
    (name,) = container.attrs["NetworkSettings"]["Networks"]
    return name


def published(tandem: Project) -> dict[str, set[str]]:
    return {
        service: {
            binding["HostIp"]
            for container in tandem.containers(service)
            for bindings in container.ports.values()
            for binding in bindings or ()
        }
        for service in ("gateway", "prefill", "decode")
    }


def writable_places(container) -> str:
    program = (
        "import os; print(*(each for each in ('/', '/cache', '/opt/tandem', '/tmp', '/var')"
        " if os.access(each, os.W_OK)))"
    )
    return container.exec_run(["python3", "-c", program]).output.decode().strip()
