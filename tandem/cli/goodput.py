"""`tandem bench goodput`: from flags to a sweep, its records and its tables."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from tandem.bench.arms import Arm, cpu_arms, device_arms, parse_arm
from tandem.bench.goodput_report import report
from tandem.bench.mixes import MIXES
from tandem.bench.records import Conditions, Record, Sweep, to_json
from tandem.bench.server import CannotStart, cancel_when_told_to_stop
from tandem.bench.sweep import GoodputSweep, SweepSettings
from tandem.bench.workload import TOKEN_IDS
from tandem.cli.cores import usable_cores
from tandem.core.device import CpuDevice, Device, MockDevice, parse_device
from tandem.core.errors import Cancelled, ConfigError, Unavailable
from tandem.engine.fake.profiles import parse_profile

# A CPU prefills some hundreds of tokens a second: a quarter of the published lengths.
CPU_LENGTH_SCALE = 0.25
NUM_MOCK_DEVICES = 8
MOCK_TOKEN_IDS = range(256)
RECORDS, TABLES = "goodput.jsonl", "goodput.md"


@dataclass(frozen=True)
class GoodputOptions:
    """What the user asked for. What is empty, None or 0 is chosen by the device."""

    device: str
    num_devices: int
    model: str
    arms: Sequence[str]
    workloads: Sequence[str]
    measured_s: float
    warm_up_s: float
    length_scale: float | None
    num_uncontended: int
    rates_per_start: int
    tolerance: float
    seed: int
    up_flags: tuple[str, ...]


def run_goodput(options: GoodputOptions, out: Path) -> None:
    """Sweep, writing records as they come and tables at the end. Raises `TandemError`."""
    settings = sweep_settings(options)
    console = Console(stderr=True, highlight=False)
    records: list[Record] = []
    out.mkdir(parents=True, exist_ok=True)
    with (out / RECORDS).open("w") as file, TemporaryDirectory(prefix="tandem-bench-") as logs:

        def write(record: Record) -> None:
            records.append(record)
            file.write(to_json(record) + "\n")
            file.flush()

        def say(text: str) -> None:
            console.print(text, soft_wrap=True, markup=False)

        try:
            asyncio.run(_sweep(GoodputSweep(settings, Path(logs), write, say)))
        except CannotStart as error:
            raise Unavailable(str(error)) from error
        except asyncio.CancelledError:
            raise Cancelled(f"stopped; what was measured is in {out / RECORDS}") from None
    text = report(Sweep(records))
    (out / TABLES).write_text(text + "\n")
    print(text)


async def _sweep(sweep: GoodputSweep) -> None:
    cancel_when_told_to_stop()
    await sweep.run()


def sweep_settings(options: GoodputOptions) -> SweepSettings:
    """The sweep that was asked for. Raises `ConfigError`."""
    device = parse_device(options.device)
    is_mock, is_cpu = isinstance(device, MockDevice), isinstance(device, CpuDevice)
    dilation = parse_profile(device.profile).dilation if isinstance(device, MockDevice) else 1.0
    if unknown := [name for name in options.workloads if name not in MIXES]:
        raise ConfigError(f"unknown workload {unknown[0]!r:.40}: there are {', '.join(MIXES)}")
    model = options.model or ("mock" if is_mock else "default")
    flags = ("--device", options.device, "--model", model, *options.up_flags)
    if is_mock:
        flags = (*flags, "--mock-verify", "incremental")
    num_devices = options.num_devices or _num_devices(device)
    return SweepSettings(
        conditions=Conditions(
            device=options.device,
            model=model,
            dilation=dilation,
            length_scale=options.length_scale or (CPU_LENGTH_SCALE if is_cpu else 1.0),
            warm_up_s=options.warm_up_s,
            measured_s=options.measured_s,
            seed=options.seed,
        ),
        arms=_arms(options.arms, is_cpu, num_devices),
        workloads=options.workloads,
        flags=flags,
        token_ids=MOCK_TOKEN_IDS if is_mock else TOKEN_IDS,
        num_devices=num_devices,
        num_uncontended=options.num_uncontended,
        rates_per_start=options.rates_per_start,
        tolerance=options.tolerance,
    )


def _num_devices(device: Device) -> int:
    match device:
        case CpuDevice(cores):
            return len(cores) or len(usable_cores())
        case MockDevice():
            return NUM_MOCK_DEVICES
    raise ConfigError("how many GPUs? See --devices", param="devices")


def _arms(texts: Sequence[str], is_cpu: bool, num_devices: int) -> list[Arm]:
    """Raises `ConfigError` if an arm has not as many devices as the others."""
    if not texts:
        return cpu_arms(num_devices) if is_cpu else device_arms(num_devices)
    arms = [parse_arm(text) for text in texts]
    for arm in arms:
        if not is_cpu and arm.topology.num_workers != num_devices:
            raise ConfigError(
                f"arm {arm} has {arm.topology.num_workers} devices, not {num_devices}:"
                " see --devices"
            )
    return arms
