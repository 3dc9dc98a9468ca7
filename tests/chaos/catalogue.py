"""All scenarios: what is done to which fleet, and how often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import client_faults as clients
import network_faults as network
import real_model
import transfer_faults as transfers
import worker_faults as workers
from arena import Arena, arena
from frame_damage import DAMAGE
from gateway_faults import FREE_S as GATEWAY_GONE_S
from gateway_faults import kill_gateway
from namespaces import GATEWAY
from outcome import Outcome

from tandem.faults.plan import FaultName

Run = Callable[[Arena, int], Awaitable[None]]

# Seconds that it may take, on two busy cores, until the gateway gives a worker nothing new: one
# whose process is gone, which ends its connection; and one that is silent, which is suspected after
# 1.5 s. (By the end of its lease alone, 5 s after it was last heard, that would take 4.5 s.)
GONE_S = 2.0
SILENT_S = 4.0
# That a stream may stand still until it goes on elsewhere: a lease.
PAUSE_S = 5.0


@dataclass(frozen=True)
class Scenario:
    """`run` is called with the fleet, and the number of the try; or once, with how much there is to
    be, if it does `all_at_once`. `fleet` are settings of `running_stack`. `max_detected_s` and
    `max_pause_s` are what each fault's detection, and the longest pause from then on, may take."""

    name: str
    tries: int
    run: Run
    fleet: dict[str, Any] = field(default_factory=dict)
    all_at_once: bool = False
    in_namespaces: bool = False
    real_model: bool = False
    max_detected_s: float = inf
    max_pause_s: float = inf

    def is_clean(self, outcome: Outcome) -> bool:
        """Whether nothing was lost, and nothing took longer than it may."""
        return outcome.is_clean(self.max_detected_s, self.max_pause_s)

    def complaints(self, outcome: Outcome) -> list[str]:
        """Why not, in words."""
        return [*outcome.reasons, *outcome.too_late(self.max_detected_s, self.max_pause_s)]


def _harmed(name: FaultName) -> Scenario:
    title = f"Frame {name.rpartition('.')[2]}"
    fleet = {"prefill_flags": transfers.harm(name), "devices": ("mock:h100",)}
    return Scenario(title, 100, transfers.harmed_frames, fleet, all_at_once=True)


def _stop(title: str, run: Run) -> Scenario:
    return Scenario(title, 25, run, max_detected_s=SILENT_S, max_pause_s=PAUSE_S)


def _leave(when: str, run: Run, fleet: dict[str, Any] | None = None) -> Scenario:
    """Its pause is how long blocks are held for nobody."""
    return Scenario(f"Client leaves {when}", 100, run, fleet or {}, max_pause_s=clients.FREED_S)


def _partition(edge: str, hosts: tuple[str, str], how: str) -> Scenario:
    title = f"Edge {edge} {'lost' if how == 'blackhole' else 'refused'} for 7 s"
    run = network.partition(*hosts, how)
    return Scenario(
        title,
        20,
        run,
        {"places": network.places()},
        in_namespaces=True,
        # The gateway hears nothing of the others' edges.
        max_detected_s=SILENT_S if GATEWAY in hosts else inf,
        max_pause_s=PAUSE_S,
    )


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
        max_detected_s=GONE_S,
    ),
    Scenario(
        "SIGKILL decode, at the first to the last token",
        100,
        workers.kill_decode,
        max_detected_s=GONE_S,
    ),
    _stop("SIGSTOP prefill for 10 s", workers.stop_prefill),
    _stop("SIGSTOP decode for 10 s", workers.stop_decode),
    *map(_harmed, DAMAGE),
    Scenario(
        "5% of transfers fail, 128 at a time",
        2000,
        transfers.harmed_transfers,
        {"prefill_flags": transfers.some_transfers_fail(0.05)},
        all_at_once=True,
    ),
    Scenario("Cancelled while it is read and sent", 200, transfers.cancelled_transfers, SLOW_LINK),
    Scenario("A transfer repeated behind its end", 100, transfers.repeated_transfers),
    _leave("in the queue", clients.leave_queued),
    _leave("in prefill", clients.leave_prefilling),
    _leave("during the transfer", clients.leave_transferring, SLOW_LINK),
    _leave("in decode", clients.leave_decoding),
    Scenario("Deadline in each phase", 50, clients.deadlines, max_pause_s=clients.LATE_S),
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
    Scenario(
        "SIGKILL gateway",
        20,
        kill_gateway,
        max_detected_s=GATEWAY_GONE_S,
        max_pause_s=GATEWAY_GONE_S,
    ),
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
        max_detected_s=GONE_S,
    ),
    Scenario(
        "SIGKILL decode, real model in float32",
        20,
        workers.kill_decode,
        {**real_model.FLEET, "num_prefill": 1, "num_decode": 2},
        real_model=True,
        max_detected_s=GONE_S,
    ),
)
BY_NAME = {each.name: each for each in SCENARIOS}


async def play(
    scenario: Scenario, tries: int, logs: Path, seed: int, told: Callable[[Outcome], None]
) -> Outcome:
    """Run a scenario's tries on one fleet; `told` hears of each try."""
    total = Outcome(scenario.name)
    answers = await real_model.undisturbed() if scenario.real_model else None
    async with arena(scenario.name, seed, logs, **scenario.fleet) as running:
        if answers:
            running.load = real_model.RealLoad(running.stack, answers, scenario.name)
        for number in [tries] if scenario.all_at_once else range(tries):
            running.outcome = Outcome(scenario.name)
            await scenario.run(running, number)
            told(running.outcome)
            total.add(running.outcome)
    return total
