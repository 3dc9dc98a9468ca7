"""All scenarios: what is done to which fleet, and how often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import client_faults as clients
import network_faults as network
import real_model
import transfer_faults as transfers
import worker_faults as workers
from arena import Arena, arena
from gateway_faults import kill_gateway
from outcome import Outcome
from watched import MockOracle

from tandem.faults.plan import FaultName


@dataclass(frozen=True)
class Scenario:
    """`run` is called with the fleet, and the number of the try; or once, with how much there is to
    be, if it does `all_at_once`. `fleet` are settings of `running_stack`."""

    name: str
    tries: int
    run: Callable[[Arena, int], Awaitable[None]]
    fleet: dict[str, Any] = field(default_factory=dict)
    all_at_once: bool = False
    in_namespaces: bool = False
    real_model: bool = False


def _harmed(name: FaultName) -> Scenario:
    title = f"Frame {name.rpartition('.')[2]}"
    fleet = {"prefill_flags": transfers.harm(name), "devices": ("mock:h100",)}
    return Scenario(title, 100, transfers.harmed_frames, fleet, all_at_once=True)


def _partition(edge: str, hosts: tuple[str, str], how: str) -> Scenario:
    title = f"Edge {edge} {'lost' if how == 'blackhole' else 'refused'} for 7 s"
    run = network.partition(*hosts, how)
    return Scenario(title, 20, run, {"places": network.places()}, in_namespaces=True)


def _faulty(faults: str) -> dict[str, Any]:
    flags = ("--allow-faults", f"--faults={faults}")
    return {"prefill_flags": flags, "decode_flags": flags}


EDGES = {
    "gateway-prefill": (network.HOSTS[0], network.HOSTS[1]),
    "gateway-decode": (network.HOSTS[0], network.HOSTS[3]),
    "prefill-decode": (network.HOSTS[1], network.HOSTS[3]),
}
SLOW_LINK = {
    "prefill_flags": (
        "--min-frame-bytes=1",
        "--allow-faults",
        "--faults=kv.frame.delay:seconds=0.02",
    )
}
SMALL_POOLS = {"prefill_flags": ("--num-blocks=64",), "decode_flags": ("--num-blocks=64",)}
SCENARIOS = (
    Scenario(
        "SIGKILL prefill, at 0 to 99% of a transfer",
        100,
        workers.kill_prefill,
        {"prefill_flags": workers.SMALL_FRAMES},
    ),
    Scenario("SIGKILL decode, at the first to the last token", 100, workers.kill_decode),
    Scenario("SIGSTOP prefill for 10 s", 25, workers.stop_prefill),
    Scenario("SIGSTOP decode for 10 s", 25, workers.stop_decode),
    *map(_harmed, transfers.DAMAGE),
    Scenario(
        "5% of transfers fail, 128 at a time",
        2000,
        transfers.harmed_transfers,
        {"prefill_flags": transfers.some_transfers_fail(0.05)},
        all_at_once=True,
    ),
    Scenario("Cancelled while it is read and sent", 200, transfers.cancelled_transfers, SLOW_LINK),
    Scenario("A transfer repeated behind its end", 100, transfers.repeated_transfers),
    Scenario("Client leaves in the queue", 100, clients.leave_queued),
    Scenario("Client leaves in prefill", 100, clients.leave_prefilling),
    Scenario("Client leaves during the transfer", 100, clients.leave_transferring, SLOW_LINK),
    Scenario("Client leaves in decode", 100, clients.leave_decoding),
    Scenario("Deadline in each phase", 50, clients.deadlines),
    Scenario("Pools at 110 to 400% demand", 24, clients.more_than_fits, SMALL_POOLS),
    Scenario(
        "Engine stalls for a second",
        4,
        workers.stall_engine,
        _faulty("engine.stall:every=40,seconds=1"),
    ),
    Scenario("A step fails, in prefill or decode", 40, workers.fail_step),
    Scenario("A step never ends, in prefill or decode", 20, workers.hang_step),
    Scenario(
        "Command stream breaks, or is late",
        8,
        workers.break_reports,
        _faulty("reports.break:every=60;reports.delay:every=25,seconds=0.3"),
    ),
    Scenario("Rolling restart of all workers", 3, workers.rolling_restart),
    Scenario("SIGKILL gateway", 20, kill_gateway),
    *(
        _partition(edge, hosts, how)
        for edge, hosts in EDGES.items()
        for how in ("blackhole", "unreachable")
    ),
    Scenario(
        "Decode worker behind 8 Mbit/s",
        20,
        network.slow_link,
        {"places": network.places()},
        in_namespaces=True,
    ),
    Scenario(
        "SIGKILL prefill, real model in float32",
        20,
        workers.kill_prefill,
        {**real_model.FLEET, "num_prefill": 2, "num_decode": 1},
        real_model=True,
    ),
    Scenario(
        "SIGKILL decode, real model in float32",
        20,
        workers.kill_decode,
        {**real_model.FLEET, "num_prefill": 1, "num_decode": 2},
        real_model=True,
    ),
)
BY_NAME = {each.name: each for each in SCENARIOS}


async def play(
    scenario: Scenario, tries: int, logs: Path, seed: int, told: Callable[[Outcome], None]
) -> Outcome:
    """Run a scenario's tries on one fleet; `told` hears of each try."""
    total = Outcome(scenario.name)
    answers = await real_model.undisturbed() if scenario.real_model else None
    async with arena(scenario.name, MockOracle(), seed, logs, **scenario.fleet) as running:
        if answers:
            running.load = real_model.RealLoad(running.stack, answers, scenario.name)
        for number in [tries] if scenario.all_at_once else range(tries):
            running.outcome = Outcome(scenario.name)
            await scenario.run(running, number)
            told(running.outcome)
            total.add(running.outcome)
    return total
