"""From an arm, as `tandem up` would be told it, to a gateway and workers in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from tandem.bench.arms import Arm
from tandem.core.commands import Destination
from tandem.core.device import MockDevice, parse_device
from tandem.core.errors import ConfigError
from tandem.core.kv import KVLayout, Plane
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.engine.fake.profile import ModelConstants, Profile
from tandem.engine.fake.profiles import parse_profile
from tandem.simulation.events import Events
from tandem.simulation.gateway import VirtualGateway
from tandem.simulation.worker import (
    VirtualDecodeWorker,
    VirtualPrefillWorker,
    VirtualWorker,
)
from tandem.worker.pool_size import mock_num_blocks
from tandem.worker.settings import WorkerSettings

MAX_MODEL_LEN = 131072
DTYPES = {2: "bfloat16", 4: "float32"}
# Flags of `tandem up` that mean something here.
GATEWAY_FLAGS = {
    *("policy", "batching", "prefill_token_budget", "max_batch_tokens", "max_queue"),
    *("local_prefill", "tpot_target_ms"),
}
WORKER_FLAGS = {
    *("block_size", "num_blocks", "memory_share", "max_num_seqs", "max_model_len"),
    "prefix_caching",
}


@dataclass(frozen=True)
class Fleet:
    """A gateway and its workers, which have joined."""

    events: Events
    gateway: VirtualGateway
    workers: tuple[VirtualWorker, ...]


def build_fleet(device: str, arm: Arm, events: Events) -> Fleet:
    """What `tandem up --topology ... --device mock:PROFILE` with an arm's flags would start, whose
    `events` are what happens to it. A time dilation of the profile counts for nothing. Raises
    `ConfigError`."""
    profile = _profile(device)
    settings, worker_settings = _settings(arm)
    gateway = VirtualGateway(settings.scheduler(), events)
    decode: dict[str, VirtualDecodeWorker] = {}

    def send(destination: Destination, first_token_id: int) -> None:
        decode[destination.address].take_kv(destination, first_token_id)

    workers: list[VirtualWorker] = []
    for info in _infos(arm, device, profile, worker_settings):
        if info.role is WorkerRole.PREFILL:
            workers.append(VirtualPrefillWorker(info, events, profile, gateway.hear, send))
        else:
            decode[info.worker_id] = VirtualDecodeWorker(info, events, profile, gateway.hear)
            workers.append(decode[info.worker_id])
    for worker in workers:
        gateway.join(worker)
    return Fleet(events, gateway, tuple(workers))


def kv_layout(model: ModelConstants, block_size: int) -> KVLayout:
    """That of the model which the profile stands for, all heads taken as one."""
    layer_bytes = model.kv_bytes_per_token // (len(Plane) * model.num_layers)
    dtype = DTYPES[model.item_bytes]
    return KVLayout(model.num_layers, 1, layer_bytes // model.item_bytes, block_size, dtype)


def _profile(device: str) -> Profile:
    match parse_device(device):
        case MockDevice(name):
            return replace(parse_profile(name), dilation=1.0)
    raise ConfigError(f"device {device} cannot be simulated, but mock:PROFILE can", param="device")


def _settings(arm: Arm) -> tuple[GatewaySettings, WorkerSettings]:
    """What the services would be started with. Raises `ConfigError`."""
    options = {name.replace("-", "_"): value for name, value in arm.options}
    if unknown := options.keys() - GATEWAY_FLAGS - WORKER_FLAGS:
        raise ConfigError(f"--{min(unknown).replace('_', '-')} has no meaning in a simulation")
    prefill = "" if arm.is_colocated else "in virtual time"
    try:
        return (
            GatewaySettings(prefill=prefill, **_only(options, GATEWAY_FLAGS)),
            DecodeSettings(**_only(options, WORKER_FLAGS)),
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{name}: {first['msg']}", param="arms") from None


def _only(options: Mapping[str, str], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _infos(arm: Arm, device: str, profile: Profile, settings: WorkerSettings) -> list[WorkerInfo]:
    """The workers' descriptions, as they would introduce themselves. Raises `ConfigError`."""
    max_model_len = settings.max_model_len or MAX_MODEL_LEN
    model = ModelInfo(profile.name, "", 2**31, max_model_len, frozenset(), "virtual")
    num_blocks = settings.num_blocks or mock_num_blocks(
        device, profile, settings.memory_share, settings.block_size
    )
    layout = kv_layout(profile.model, settings.block_size)
    topology = arm.topology
    names = [
        *((WorkerRole.PREFILL, f"prefill-{each}") for each in range(topology.num_prefill)),
        *((WorkerRole.DECODE, f"decode-{each}") for each in range(topology.num_decode)),
    ]
    caches_prefixes = settings.prefix_caching == "auto"
    return [
        WorkerInfo(
            name,
            role,
            1,
            model,
            layout,
            num_blocks,
            settings.max_num_seqs,
            device,
            caches_prefixes=caches_prefixes,
        )
        for role, name in names
    ]
