"""`tandem bench goodput`: from flags to a sweep, its records and its tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from tandem.bench.arms import Arm, cpu_arms, device_arms, grid_arms, parse_arm
from tandem.bench.goodput_report import report
from tandem.bench.mixes import MIXES
from tandem.bench.rate_search import MAX_RATES
from tandem.bench.records import Bases, Conditions, RateRun, Record, Sweep, to_json
from tandem.bench.served_arms import ServedArms
from tandem.bench.server import CannotStart, cancel_when_told_to_stop
from tandem.bench.simulated_arms import SimulatedArms
from tandem.bench.subject import Subjects
from tandem.bench.sweep import GoodputSweep, SweepSettings
from tandem.bench.workload import MOCK_TOKEN_IDS, TOKEN_IDS
from tandem.cli.cores import usable_cores
from tandem.core.device import CpuDevice, Device, MockDevice, parse_device
from tandem.core.errors import Cancelled, ConfigError, Unavailable
from tandem.engine.fake.profiles import parse_profile

# A CPU prefills some hundreds of tokens a second: a quarter of the published lengths.
CPU_LENGTH_SCALE = 0.25
# Requests alone, by whether they are simulated: where they cost little, enough for what they find
# cached to be what most find.
NUM_UNCONTENDED = {False: 8, True: 200}
NUM_MOCK_DEVICES = 8
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
    num_requests: int
    warm_up_s: float
    length_scale: float | None
    num_uncontended: int | None
    rates_per_start: int
    tolerance: float
    seed: int
    simulated: bool
    up_flags: tuple[str, ...]


def run_goodput(options: GoodputOptions, out: Path) -> None:
    """Sweep, writing records as they come and tables at the end. Raises `TandemError`."""
    settings = sweep_settings(options)
    console = Console(stderr=True, highlight=False)
    out.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    with RecordFile(out / RECORDS, whole=not options.simulated) as file:
        try:
            asyncio.run(_sweep(options, settings, file.write, say))
        except CannotStart as error:
            raise Unavailable(str(error)) from error
        except asyncio.CancelledError:
            raise Cancelled(f"stopped; what was measured is in {out / RECORDS}") from None
    text = report(Sweep(file.records))
    (out / TABLES).write_text(text + "\n")
    print(text)


class RecordFile:
    """Where records go, a line each. What a simulation gives again at any time is summed up if not
    the `whole` of it is to be kept."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        self.records: list[Record] = []
        self._path = path
        self._whole = whole
        self._bases = Bases()

    def __enter__(self) -> RecordFile:
        self._file = self._path.open("w")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def write(self, record: Record) -> None:
        self._bases.add(record)
        if isinstance(record, RateRun) and not self._whole:
            record = record.summary(self._bases[record.workload])
        self.records.append(record)
        self._file.write(to_json(record) + "\n")
        self._file.flush()


async def _sweep(
    options: GoodputOptions,
    settings: SweepSettings,
    write: Callable[[Record], None],
    say: Callable[[str], None],
) -> None:
    cancel_when_told_to_stop()
    async with _subjects(options, settings.conditions) as subjects:
        await GoodputSweep(settings, subjects, write, say).run()


@asynccontextmanager
async def _subjects(options: GoodputOptions, conditions: Conditions) -> AsyncIterator[Subjects]:
    """Processes that serve, or such as work out what these would do."""
    if options.simulated:
        values = _flag_values(options.up_flags)
        simulated = SimulatedArms(conditions.device, values, len(usable_cores()))
        try:
            yield simulated
        finally:
            await simulated.close()
        return
    flags = ("--device", conditions.device, "--model", conditions.model, *options.up_flags)
    if isinstance(parse_device(conditions.device), MockDevice):
        flags = (*flags, "--mock-verify", "incremental")
    with TemporaryDirectory(prefix="tandem-bench-") as logs:
        yield ServedArms(flags, Path(logs), conditions.dilation)


def _flag_values(flags: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`--name value` and `--name=value` in pairs. Raises `ConfigError`."""
    pairs: list[tuple[str, str]] = []
    rest = iter(flags)
    for flag in rest:
        name, equals, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not (value := value if equals else next(rest, "")):
            raise ConfigError(f"unknown flag {flag!r:.80}: write --NAME VALUE, like `tandem up`'s")
        pairs.append((name, value))
    return tuple(pairs)


def sweep_settings(options: GoodputOptions) -> SweepSettings:
    """The sweep that was asked for. Raises `ConfigError`."""
    device = parse_device(options.device)
    is_mock, is_cpu = isinstance(device, MockDevice), isinstance(device, CpuDevice)
    if options.simulated and not is_mock:
        raise ConfigError("only mock devices can be simulated: see --device", param="simulated")
    if unknown := [name for name in options.workloads if name not in MIXES]:
        raise ConfigError(f"unknown workload {unknown[0]!r:.40}: there are {', '.join(MIXES)}")
    num_devices = options.num_devices or _num_devices(device)
    return SweepSettings(
        conditions=Conditions(
            device=options.device,
            model=options.model or ("mock" if is_mock else "default"),
            dilation=1.0 if options.simulated else _dilation(device),
            length_scale=options.length_scale or (CPU_LENGTH_SCALE if is_cpu else 1.0),
            warm_up_s=options.warm_up_s,
            measured_s=options.measured_s,
            seed=options.seed,
            num_requests=options.num_requests,
            simulated=options.simulated,
        ),
        arms=_arms(options, is_cpu, num_devices),
        workloads=options.workloads,
        token_ids=MOCK_TOKEN_IDS if is_mock else TOKEN_IDS,
        num_devices=num_devices,
        num_uncontended=options.num_uncontended or NUM_UNCONTENDED[options.simulated],
        # Nothing is started anew in virtual time: there is no need for turns.
        rates_per_start=MAX_RATES if options.simulated else options.rates_per_start,
        tolerance=options.tolerance,
    )


def _dilation(device: Device) -> float:
    """How many times as long things take on the machine's clock."""
    return parse_profile(device.profile).dilation if isinstance(device, MockDevice) else 1.0


def _num_devices(device: Device) -> int:
    match device:
        case CpuDevice(cores):
            return len(cores) or len(usable_cores())
        case MockDevice():
            return NUM_MOCK_DEVICES
    raise ConfigError("how many GPUs? See --devices", param="devices")


def _arms(options: GoodputOptions, is_cpu: bool, num_devices: int) -> list[Arm]:
    """Raises `ConfigError` if an arm has not as many devices as the others."""
    if not options.arms:
        if options.simulated:
            return grid_arms(num_devices)
        return cpu_arms(num_devices) if is_cpu else device_arms(num_devices)
    arms = [parse_arm(text) for text in options.arms]
    for arm in arms:
        if not is_cpu and arm.topology.num_workers != num_devices:
            raise ConfigError(
                f"arm {arm} has {arm.topology.num_workers} devices, not {num_devices}:"
                " see --devices"
            )
    return arms
