"""The ways of serving that are compared, as the command line writes them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tandem.bench.server import START_TIMEOUT_S, ServerSpec
from tandem.core.errors import ConfigError
from tandem.core.topology import Topology, parse_topology

# The gateway's names of the three colocated policies.
COLOCATED_POLICIES = ("chunked", "prefill-first", "decode-first")
# Prompt tokens of a chunked step, beside the gateway's default of 256.
OTHER_BUDGETS = (64, 128, 512)


@dataclass(frozen=True, slots=True)
class Arm:
    """A topology, and what else `tandem up` is told: `1p1d`, `1p1d+local-prefill=off`."""

    topology: Topology
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_colocated(self) -> bool:
        return self.topology.num_prefill == 0

    def __str__(self) -> str:
        return "+".join([str(self.topology), *(f"{name}={value}" for name, value in self.options)])

    def spec(
        self, flags: tuple[str, ...], logs: Path, start_timeout_s: int = START_TIMEOUT_S
    ) -> ServerSpec:
        """A `tandem up` with `flags`, those that all arms have."""
        command = (
            *(sys.executable, "-P", "-m", "tandem.cli", "up", "--topology", str(self.topology)),
            *("--http-port", "{port}", "--grpc-port", "{port+1}", "--port-base", "{port+2}"),
            *("--log-dir", str(logs / str(self)), "--start-timeout", str(start_timeout_s), *flags),
            *(part for name, value in self.options for part in (f"--{name}", value)),
        )
        return ServerSpec(str(self), command, ready_path="/ready", start_timeout_s=start_timeout_s)


def parse_arm(text: str) -> Arm:
    """`TOPOLOGY`, or `TOPOLOGY+FLAG=VALUE` with any number of `tandem up`'s flags. Raises
    `ConfigError`."""
    topology, *parts = text.split("+")
    options = [part.partition("=") for part in parts]
    for name, equals, value in options:
        if not (name and equals and value):
            raise ConfigError(
                f"unknown arm {text!r:.80}: write a topology, or one with flags of `tandem up`,"
                " like colocated:2+batching=chunked",
                param="arms",
            )
    return Arm(parse_topology(topology), tuple((name, value) for name, _, value in options))


def grid_arms(num_devices: int) -> list[Arm]:
    """`device_arms`, and what else there is to choose: other chunks of a chunked step, and split
    arms whose decode workers compute no prompts."""
    arms = device_arms(num_devices)
    chunked = (("batching", "chunked"),)
    return [
        *(arm for arm in arms if arm.is_colocated),
        *(
            Arm(Topology(0, num_devices), (*chunked, ("prefill-token-budget", str(budget))))
            for budget in OTHER_BUDGETS
        ),
        *(arm for arm in arms if not arm.is_colocated),
        *(Arm(arm.topology, (("local-prefill", "off"),)) for arm in arms if not arm.is_colocated),
    ]


def cpu_arms(num_cores: int) -> list[Arm]:
    """All the same cores: one worker on all of them under each colocated policy, a worker a core,
    one half for each role, with prompts on decode workers, only on idle ones, and without."""
    return [
        *(Arm(Topology(0, 1), (("batching", policy),)) for policy in COLOCATED_POLICIES),
        Arm(Topology(0, num_cores), (("batching", "chunked"),)),
        *(Arm(Topology(1, 1), (("local-prefill", local),)) for local in ("auto", "idle", "off")),
    ]


def device_arms(num_devices: int) -> list[Arm]:
    """All the same devices: a worker on each under each colocated policy, and every ratio of
    prefill to decode workers."""
    return [
        *(Arm(Topology(0, num_devices), (("batching", policy),)) for policy in COLOCATED_POLICIES),
        *(Arm(Topology(each, num_devices - each)) for each in range(1, num_devices)),
    ]
