"""The doctor's judgement, on machines that are made up."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
from made_up_machine import (
    CACHE,
    CPU_BUILD,
    CUDA_BUILD,
    DRIVER,
    GB,
    GPU,
    HERE,
    MACHINE,
    about,
    look,
    settings,
)

from tandem.cli.doctor import doctor
from tandem.cli.doctor.diagnosis import verdict
from tandem.cli.doctor.findings import Level
from tandem.cli.doctor.hardware import BROKEN_TORCH
from tandem.cli.doctor.machine import (
    Cpu,
    Docker,
    Driver,
    Folder,
    HubModel,
    Memory,
    Model,
    NoModel,
    NoTorch,
    Port,
    Python,
    Torch,
)
from tandem.cli.doctor.storage import DEFAULT_MODEL
from tandem.core.installation import install_tandem
from tandem.process.host import RESERVED_FILES


def test_a_good_machine() -> None:
    diagnosis = look()
    assert {each.level for each in diagnosis.findings} == {Level.OK}
    assert verdict(diagnosis, settings()) == (
        "tandem up would start prefill-0 on :50051 (core 0-1), decode-0 on :50052 (core 2-3), and"
        " serve on http://127.0.0.1:8000/v1"
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("192.168.1.5", "http://192.168.1.5:8000/v1"),
        ("::1", "http://[::1]:8000/v1"),
        ("::", "http://[::1]:8000/v1"),
    ],
)
def test_it_serves_where_it_can_be_reached(host: str, url: str) -> None:
    flags = replace(settings(), host=host)
    assert verdict(look(flags), flags).endswith(f" serve on {url}")


def test_what_the_services_refuse_stops_it() -> None:
    refusals = ("unknown policy 'x'", "--max-num-seqs: 0 is too few")
    diagnosis = look(refusals=refusals)
    assert tuple(each.text for each in diagnosis.problems) == refusals
    assert verdict(diagnosis, settings()) == "tandem up would not start: see flags"


def test_all_problems_are_named_at_once() -> None:
    diagnosis = look(torch=NoTorch(), model=NoModel("there is no model 'x'"))
    assert not diagnosis.would_start
    assert verdict(diagnosis, settings()) == "tandem up would not start: see torch and model"


def test_an_old_python() -> None:
    assert about(look(python=Python((3, 10, 9), "python")), "python").level is Level.PROBLEM


@pytest.mark.parametrize(
    ("torch", "device", "level", "mend"),
    [
        (NoTorch(), "cpu", Level.PROBLEM, install_tandem(extra="torch")),
        (NoTorch(), "mock:h100", Level.OK, ""),
        (NoTorch("no libgomp"), "cpu", Level.PROBLEM, BROKEN_TORCH),
        (CPU_BUILD, "cpu", Level.OK, ""),
    ],
)
def test_torch(torch: Torch | NoTorch, device: str, level: Level, mend: str) -> None:
    finding = about(look(settings(device=device), torch=torch), "torch")
    assert (finding.level, finding.mend) == (level, mend)


def test_a_torch_that_does_not_start_says_why() -> None:
    assert "no libgomp" in about(look(torch=NoTorch("no libgomp")), "torch").text


@pytest.mark.parametrize(
    ("torch", "driver", "level", "words"),
    [
        (CUDA_BUILD, None, Level.PROBLEM, "sees no GPU"),
        (CPU_BUILD, DRIVER, Level.PROBLEM, "torch is a CPU build"),
        (replace(CUDA_BUILD, cuda_warning="driver too old"), DRIVER, Level.PROBLEM, "too old"),
        (replace(CUDA_BUILD, gpus=(GPU,)), DRIVER, Level.PROBLEM, "no cuda:1"),
        (replace(CUDA_BUILD, gpus=(GPU, GPU)), DRIVER, Level.OK, "2 x NVIDIA L4 (24 GB)"),
        (NoTorch(), DRIVER, Level.PROBLEM, "no torch"),
    ],
)
def test_a_gpu_for_each_worker(
    torch: Torch, driver: Driver | None, level: Level, words: str
) -> None:
    finding = about(look(settings(device="cuda"), torch=torch, driver=driver), "gpu")
    assert finding.level is level
    assert words in finding.text


def test_a_cpu_build_is_mended_with_the_build_of_pypi() -> None:
    finding = about(look(settings(device="cuda"), driver=DRIVER), "gpu")
    command = "pip install --force-reinstall -i https://pypi.org/simple torch==2.13.0"
    assert finding.mend == f"{sys.executable} -m {command}"


@pytest.mark.parametrize(("gpus", "mend"), [(1, "--device cuda:0"), (2, "--device cuda")])
def test_a_gpu_that_nobody_uses(gpus: int, mend: str) -> None:
    finding = about(look(torch=replace(CUDA_BUILD, gpus=(GPU,) * gpus)), "gpu")
    assert (finding.level, finding.mend) == (Level.WARNING, mend)


@pytest.mark.parametrize(
    ("auto", "wanted", "level", "word"),
    [
        ("float32", None, Level.OK, "float32: bfloat16 is slow on this CPU (AVX2)"),
        ("bfloat16", None, Level.OK, "bfloat16"),
        ("bfloat16", "float32", Level.OK, "as asked for"),
        ("float32", "bfloat16", Level.WARNING, "slow"),
        ("float32", "int8", Level.PROBLEM, "no 'int8'"),
    ],
)
def test_dtype(auto: str, wanted: str | None, level: Level, word: str) -> None:
    diagnosis = look(settings(dtype=wanted), torch=replace(CPU_BUILD, auto_dtype=auto))
    finding = about(diagnosis, "dtype")
    assert finding.level is level
    assert word in finding.text


def test_kernels() -> None:
    assert about(look(), "kernels").text == "1234 avx2"
    missing = "they were not built; with a C++ compiler (g++) at hand run: pip install ."
    finding = about(look(torch=replace(CPU_BUILD, kernels="", kernels_missing=missing)), "kernels")
    assert finding.level is Level.WARNING
    assert finding.text == "torch's own, several times slower: they were not built"
    assert finding.mend == "with a C++ compiler (g++) at hand run: pip install ."


@pytest.mark.parametrize(
    ("missing", "words", "mend"),
    [
        ({"path": ""}, "a C compiler", "apt-get install gcc libc6-dev"),
        ({"has_headers": False}, "not in /usr/include/python3.12", "apt-get install python3-dev"),
    ],
)
def test_a_gpus_kernels_take_a_compiler_and_a_cpus_do_not(
    missing: dict[str, Any], words: str, mend: str
) -> None:
    compiler = replace(MACHINE.compiler, **missing)
    gpu = replace(CUDA_BUILD, gpus=(GPU, GPU))
    finding = about(look(settings(device="cuda"), torch=gpu, compiler=compiler), "kernels")
    assert finding.level is Level.PROBLEM
    assert words in finding.text
    assert finding.mend.startswith(mend)
    assert about(look(settings(device="cuda"), torch=gpu), "kernels").level is Level.OK
    assert about(look(compiler=compiler), "kernels").text == "1234 avx2"


def test_one_core_for_two_workers() -> None:
    finding = about(look(cpu=Cpu("", 1, (0,), None)), "cpu")
    assert finding.level is Level.WARNING
    assert "1 core; prefill-0 on 0, decode-0 on 0: too few for 2 workers" in finding.text
    assert finding.mend == "--topology colocated"


def test_a_container_with_two_cpus_worth_of_time_on_sixty_four() -> None:
    diagnosis = look(cpu=Cpu("Some CPU", 64, tuple(range(64)), 2.0))
    finding = about(diagnosis, "cpu")
    assert (finding.level, finding.mend) == (Level.WARNING, "--device cpu:0-1")
    assert "a quota allows 2 CPUs" in finding.text
    mended = look(settings(device="cpu:0-1"), cpu=Cpu("Some CPU", 64, tuple(range(64)), 2.0))
    assert about(mended, "cpu").level is Level.OK


def test_a_container_bound_to_some_cores() -> None:
    finding = about(look(cpu=Cpu("", 64, (5, 6), None)), "cpu")
    assert finding.text == "2 cores of 64 usable; prefill-0 on 5, decode-0 on 6"


def test_cores_that_are_not_there() -> None:
    diagnosis = look(settings(device="cpu:7"))
    assert "but 0-3 can" in about(diagnosis, "device").text
    assert diagnosis.fleet is None
    assert not diagnosis.would_start


@pytest.mark.parametrize("device", ["tpu", "mock:nothing"])
def test_a_device_that_does_not_exist(device: str) -> None:
    assert about(look(settings(device=device)), "device").level is Level.PROBLEM


@pytest.mark.parametrize(
    ("options", "torch", "weight_bytes"),
    [
        # 134,479,872 floats, which two workers share, or which each has where there are no kernels.
        ({}, CPU_BUILD, 268_959_744),
        ({}, replace(CPU_BUILD, kernels=""), 537_919_488),
        # The embedding in floats, the head in 9 bits each, the rest in 5.
        ({"quantization": "int4"}, CPU_BUILD, (113_246_208 + 31_850_496 + 66_355_200) // 2),
    ],
)
def test_the_pool_is_what_the_share_leaves_beside_the_weights(
    options: dict[str, Any], torch: Torch, weight_bytes: int
) -> None:
    finding = about(look(settings(**options), torch=torch), "memory")
    # 0.15 of 16 GB, less the weights, in blocks of 2 * 30 * 3 * 64 * 16 floats.
    num_blocks = (2_400_000_000 - weight_bytes) // (2 * 30 * 3 * 64 * 16 * 4)
    assert f"{num_blocks:,} KV blocks ({num_blocks * 16:,} tokens)" in finding.text
    assert "2 workers take 2.4 GB each" in finding.text


def test_a_small_machine_gets_a_share_that_is_enough() -> None:
    small = Memory(1600 * 10**6, 1600 * 10**6, 1500 * 10**6)
    finding = about(look(memory=small), "memory")
    assert finding.level is Level.PROBLEM
    share = float(finding.mend.removeprefix("--memory-share "))
    assert 0.27 < share < 0.45
    assert look(settings(memory_share=share), memory=small).would_start


def test_a_machine_that_is_too_small() -> None:
    finding = about(look(memory=Memory(GB, GB, GB)), "memory")
    assert (finding.level, finding.mend) == (
        Level.PROBLEM,
        "a smaller --model, or a machine with more memory",
    )


def test_where_a_program_reads_a_finding_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = replace(CACHE, path="/a/long/way/to/the/cache" * 8)
    machine = replace(MACHINE, cache=cache)
    monkeypatch.setattr(doctor, "probe_machine", lambda *_: machine)
    doctor.run_doctor(settings(), None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if cache.path in line]
    assert len(lines) == len(look(cache=cache).findings) + 2


def test_a_control_group_counts_not_what_is_installed() -> None:
    limited = look(memory=Memory(512 * GB, 4 * GB, 4 * GB))
    assert about(limited, "memory").text.startswith("4 GB, 4 GB free; 2 workers take")


@pytest.mark.parametrize(
    ("share", "free", "level"),
    [(0.4, 14 * GB, Level.OK), (0.4, 10 * GB, Level.WARNING), (0.6, 14 * GB, Level.PROBLEM)],
)
def test_what_all_workers_take_together(share: float, free: int, level: Level) -> None:
    memory = Memory(16 * GB, 16 * GB, free)
    finding = about(look(settings(memory_share=share), memory=memory), "memory")
    assert finding.level is level
    if level is not Level.OK:
        mended = settings(memory_share=float(finding.mend.removeprefix("--memory-share ")))
        assert about(look(mended, memory=memory), "memory").level is Level.OK


def test_a_gpu_whose_memory_another_process_has() -> None:
    busy = replace(CUDA_BUILD, gpus=(replace(GPU, free_bytes=4 * GB),))
    finding = about(look(settings(device="cuda:0"), torch=busy, driver=DRIVER), "memory")
    assert finding.level is Level.PROBLEM
    assert finding.text.startswith("cuda:0: 24 GB, 4 GB free; 2 workers take 10.8 GB each")
    assert finding.mend == "--memory-share 0.06"


def test_each_gpu_has_its_own_memory() -> None:
    diagnosis = look(settings(device="cuda"), torch=replace(CUDA_BUILD, gpus=(GPU, GPU)))
    texts = [each.text for each in diagnosis.findings if each.subject == "memory"]
    assert [text.split(";")[0] for text in texts] == [
        "cuda:0: 24 GB, 23 GB free",
        "cuda:1: 24 GB, 23 GB free",
    ]


def test_a_pool_that_is_too_small_for_the_longest_sequence() -> None:
    finding = about(look(settings(num_blocks=64)), "memory")
    assert finding.level is Level.WARNING
    assert "64 KV blocks (1,024 tokens): too few for a sequence of the 8,192" in finding.text
    assert about(look(settings(num_blocks=64, max_model_len=1024)), "memory").level is Level.OK


def test_a_mock_device_has_the_memory_of_its_profile() -> None:
    model = Model("mock", 0, 1, 1, 1, 8192)
    diagnosis = look(settings(device="mock:h100", model="mock"), model=model, torch=NoTorch())
    assert diagnosis.would_start
    assert about(diagnosis, "memory").text.startswith("mock:h100: 26,674 KV blocks")
    small = settings(device="mock:l4", model="mock", memory_share=0.5)
    assert about(look(small, model=model), "memory").level is Level.PROBLEM


def test_a_model_without_weights_needs_a_mock_device() -> None:
    diagnosis = look(settings(model="mock"), model=Model("mock", 0, 1, 1, 1, 8192))
    assert "mock has no weights" in about(diagnosis, "model").text


def test_a_model_that_must_be_downloaded() -> None:
    diagnosis = look(model=DEFAULT_MODEL)
    assert diagnosis.would_start
    assert "93.3 MB" in about(diagnosis, "model").text
    assert "KV blocks" in about(diagnosis, "memory").text


def test_a_model_on_the_hub_is_judged_by_what_is_known() -> None:
    flags = settings(model="org/name")
    diagnosis = look(flags, model=HubModel("org/name"))
    assert diagnosis.would_start
    assert "tandem pull org/name" in about(diagnosis, "model").text
    assert not any(each.subject == "memory" for each in diagnosis.findings)
    read_only = replace(CACHE, is_writable=False)
    assert not look(flags, model=HubModel("org/name"), cache=read_only).would_start


def test_no_pip_to_download_with() -> None:
    python = replace(MACHINE.python, has_pip=False)
    assert about(look(model=DEFAULT_MODEL, python=python), "model").mend == "python -m ensurepip"
    assert look(model=HERE, python=python).would_start


@pytest.mark.parametrize(
    "cache", [replace(CACHE, is_writable=False), replace(CACHE, free_bytes=100 * 10**6)]
)
def test_a_cache_that_cannot_take_the_model(cache: Folder) -> None:
    finding = about(look(model=DEFAULT_MODEL, cache=cache), "cache")
    assert (finding.level, finding.mend) == (
        Level.PROBLEM,
        "TANDEM_CACHE=/some/folder tandem up",
    )
    assert about(look(model=HERE, cache=cache), "cache").level is Level.OK


def test_logs_that_cannot_be_written() -> None:
    read_only = replace(CACHE, is_writable=False)
    assert "--log-dir" in about(look(logs=read_only), "logs").mend
    assert look(logs=None, cache=read_only).would_start


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (Port(8000, False, "nginx (pid 7)", 8001), "8000 is taken by nginx (pid 7)"),
        (Port(8000, False, "", 8001), "8000 is taken by another user's process"),
        (Port(80, False, "", 8001), "80 is taken, or only for root"),
    ],
)
def test_a_port_that_is_taken(port: Port, words: str) -> None:
    finding = about(look(ports={**MACHINE.ports, "--http-port": port}), "ports")
    assert (finding.level, finding.text, finding.mend) == (
        Level.PROBLEM,
        words,
        "--http-port 8001",
    )


def test_a_port_that_is_none() -> None:
    port = Port(70000, False, error="70000 is no port")
    assert about(look(ports={"--grpc-port": port}), "ports").text == "70000 is no port"


def test_a_host_that_is_another_machine_is_told_once() -> None:
    port = Port(8000, False, error="--host x is no address", is_elsewhere=True)
    ports = {"--http-port": port, "--grpc-port": replace(port, number=50050)}
    assert about(look(ports=ports), "ports").mend == "--host 127.0.0.1"


def test_no_ports_for_the_workers() -> None:
    diagnosis = look(worker_ports=())
    assert about(diagnosis, "ports").mend == "--port-base 50051"
    assert not diagnosis.would_start


@pytest.mark.parametrize(
    ("limit", "level"), [(1024, Level.OK), (300, Level.WARNING), (RESERVED_FILES, Level.PROBLEM)]
)
def test_open_files(limit: int, level: Level) -> None:
    finding = about(look(open_files=limit), "files")
    assert finding.level is level
    assert f"{limit - RESERVED_FILES:,} of them for clients" in finding.text


@pytest.mark.parametrize(
    ("docker", "words"),
    [
        (Docker(), "not here"),
        (Docker("28.0", ""), "no compose"),
        (Docker("", "", "no answer within 5 s"), "here: no answer within 5 s, and"),
        (Docker("28.0", "2.40", "refused"), "no daemon answers"),
    ],
)
def test_docker_is_never_a_problem(docker: Docker, words: str) -> None:
    finding = about(look(docker=docker), "docker")
    assert finding.level is Level.OK
    assert words in finding.text
