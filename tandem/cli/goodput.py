"""`tandem bench goodput`: from flags to a sweep, its records and its tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from tandem.artifacts.progress import terminal_progress
from tandem.artifacts.resolve import resolve
from tandem.bench.arms import Arm, cpu_arms, device_arms, grid_arms, parse_arm
from tandem.bench.goodput_report import report
from tandem.bench.mixes import MIXES
from tandem.bench.rate_search import MAX_RATES
from tandem.bench.records import Bases, Conditions, RateRun, Record, Sweep, partial, to_json
from tandem.bench.served_arms import ServedArms
from tandem.bench.server import CannotStart, cancel_when_told_to_stop
from tandem.bench.simulated_arms import SimulatedArms
from tandem.bench.subject import Subjects
from tandem.bench.sweep import GoodputSweep, SweepSettings
from tandem.bench.workload import MOCK_TOKEN_IDS, TOKEN_IDS
from tandem.cli.bench_flags import GoodputOptions
from tandem.cli.files import write_file, writing
from tandem.core.device import CpuDevice, Device, MockDevice, parse_device
from tandem.core.errors import Cancelled, ConfigError, Unavailable
from tandem.core.numbers import require_positive
from tandem.engine.fake.profiles import parse_profile
from tandem.process.cores import cores_of, usable_cores
from tandem.process.host import raise_open_files
from tandem.wire.metadata import API_KEY_VARIABLE

# A CPU prefills some hundreds of tokens a second: a quarter of the published lengths.
CPU_LENGTH_SCALE = 0.25
# Requests alone, by whether they are simulated: where they cost little, enough for what they find
# cached to be what most find.
NUM_UNCONTENDED = {False: 8, True: 200}
NUM_MOCK_DEVICES = 8
RECORDS, TABLES, LOGS = "goodput.jsonl", "goodput.md", "logs"


def run_goodput(options: GoodputOptions, up_flags: Sequence[str]) -> None:
    """Sweep, writing records as they come and tables at the end. Raises `TandemError`."""
    settings = sweep_settings(options, up_flags)
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    if not options.simulated:
        # Before any arm starts, whose time to do so is limited.
        model = settings.conditions.model
        with terminal_progress(model) as progress:
            resolve(model, progress)
    raise_open_files()
    with RecordFile(options.out / RECORDS, whole=not options.simulated) as file:
        try:
            asyncio.run(_sweep(options, settings, file.write))
        except CannotStart as error:
            hint = f"(see --start-timeout, and the logs in {options.out / LOGS})"
            raise Unavailable(f"{str(error).rstrip()}\n{hint}") from error
        except asyncio.CancelledError:
            raise Cancelled(f"stopped; what was measured is in {file.partial}") from None
    text = report(Sweep(file.records))
    print(text)
    write_file(options.out / TABLES, f"{text}\n".encode())


class RecordFile:
    """Where records go, a line each; `partial` until all are there. What a simulation gives again
    at any time is summed up if not the `whole` of it is to be kept."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        self.records: list[Record] = []
        self.partial = partial(path)
        self._path = path
        self._whole = whole
        self._bases = Bases()

    def __enter__(self) -> RecordFile:
        """Raises `ConfigError`."""
        with writing(self.partial):
            self._file = self.partial.open("w")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self.partial.replace(self._path)

    def write(self, record: Record) -> None:
        self._bases.add(record)
        if isinstance(record, RateRun) and not self._whole:
            record = record.summary(self._bases[record.workload])
        self.records.append(record)
        self._file.write(to_json(record) + "\n")
        self._file.flush()


async def _sweep(
    options: GoodputOptions, settings: SweepSettings, write: Callable[[Record], None]
) -> None:
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    cancel_when_told_to_stop()
    async with _subjects(options, settings.conditions) as subjects:
        await GoodputSweep(settings, subjects, write, say).run()


@asynccontextmanager
async def _subjects(options: GoodputOptions, conditions: Conditions) -> AsyncIterator[Subjects]:
    """Processes that serve, or such as work out what these would do."""
    if options.simulated:
        values = _flag_values(conditions.up_flags)
        simulated = SimulatedArms(conditions.device, values, len(usable_cores()))
        try:
            yield simulated
        finally:
            await simulated.close()
        return
    flags = ("--device", conditions.device, "--model", conditions.model, *conditions.up_flags)
    if isinstance(parse_device(conditions.device), MockDevice):
        flags = (*flags, "--mock-verify", "incremental")
    logs = options.out / LOGS
    with writing(logs):
        logs.mkdir(exist_ok=True)
    yield ServedArms(flags, logs, conditions.dilation, options.start_timeout_s)


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


def sweep_settings(options: GoodputOptions, up_flags: Sequence[str] = ()) -> SweepSettings:
    """The sweep that was asked for. Raises `ConfigError`."""
    _check_numbers(options)
    device = parse_device(options.device)
    is_mock, is_cpu = isinstance(device, MockDevice), isinstance(device, CpuDevice)
    if options.simulated and not is_mock:
        raise ConfigError("only mock devices can be simulated: see --device", param="simulated")
    workloads = _parts(options.workloads)
    if unknown := [name for name in workloads if name not in MIXES]:
        raise ConfigError(f"unknown workload {unknown[0]!r:.40}: there are {', '.join(MIXES)}")
    num_devices = options.num_devices or _num_devices(device)
    arms = _arms(options, is_cpu, num_devices)
    _check_for_keys([*up_flags, *(f"--{name}" for arm in arms for name, _ in arm.options)])
    length_scale = CPU_LENGTH_SCALE if is_cpu else 1.0
    return SweepSettings(
        conditions=Conditions(
            device=options.device,
            model=options.model or ("mock" if is_mock else "default"),
            dilation=1.0 if options.simulated else _dilation(device),
            length_scale=options.length_scale or length_scale,
            warm_up_s=options.warm_up_s,
            measured_s=options.measured_s,
            seed=options.seed,
            num_requests=options.num_requests,
            simulated=options.simulated,
            num_devices=num_devices,
            arms=list(map(str, arms)),
            workloads=workloads,
            num_uncontended=options.num_uncontended or NUM_UNCONTENDED[options.simulated],
            # Nothing is started anew in virtual time: there is no need for turns.
            rates_per_start=MAX_RATES if options.simulated else options.rates_per_start,
            tolerance=options.tolerance,
            up_flags=list(up_flags),
        ),
        arms=arms,
        token_ids=MOCK_TOKEN_IDS if is_mock else TOKEN_IDS,
    )


def _check_numbers(options: GoodputOptions) -> None:
    """Those that a flag's own bound does not refuse."""
    if options.length_scale is not None:
        require_positive("length-scale", options.length_scale)
    require_positive("tolerance", options.tolerance)
    if not options.tolerance > 1:
        raise ConfigError("--tolerance is more than 1", param="tolerance")
    require_positive("seconds", options.measured_s, or_zero=True)
    require_positive("warm-up", options.warm_up_s, or_zero=True)
    require_positive("start-timeout", options.start_timeout_s)
    if not (options.measured_s or options.num_requests):
        raise ConfigError("--seconds is more than 0, or --requests is", param="seconds")


def _check_for_keys(flags: Sequence[str]) -> None:
    if any(flag.partition("=")[0] == "--api-key" for flag in flags):
        raise ConfigError(
            f"the record would show the key: set {API_KEY_VARIABLE}, which the arms and the load"
            " tool both take",
            param="api_key",
        )


def _parts(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]


def _dilation(device: Device) -> float:
    """How many times as long things take on the machine's clock."""
    return parse_profile(device.profile).dilation if isinstance(device, MockDevice) else 1.0


def _num_devices(device: Device) -> int:
    match device:
        case CpuDevice(cores) as cpu:
            return len(cores) or len(cores_of(cpu, usable_cores()))
        case MockDevice():
            return NUM_MOCK_DEVICES
    raise ConfigError("how many GPUs? See --devices", param="devices")


def _arms(options: GoodputOptions, is_cpu: bool, num_devices: int) -> list[Arm]:
    """Raises `ConfigError` if an arm has not as many devices as the others."""
    if not options.arms:
        if options.simulated:
            return grid_arms(num_devices)
        return cpu_arms(num_devices) if is_cpu else device_arms(num_devices)
    arms = [parse_arm(text) for text in _parts(options.arms)]
    for arm in arms:
        if not is_cpu and arm.topology.num_workers != num_devices:
            raise ConfigError(
                f"arm {arm} has {arm.topology.num_workers} devices, not {num_devices}:"
                " see --devices"
            )
    return arms
