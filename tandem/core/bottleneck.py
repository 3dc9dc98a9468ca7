"""What holds the whole up just now, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

# An engine that is busy for this share of its time has no more to give; a pool that is this full
# takes nothing that is not small.
BUSY = 0.9
FULL = 0.95
# Of the transfers' time: less of it in the open is the last layers' way, which nothing can hide.
EXPOSED = 0.25
# Of all time, with KV on its way: where little is sent, it holds nobody up.
SENDING = 0.5


@dataclass(frozen=True, slots=True)
class RoleLoad:
    """The `num_open` workers of one role that may be given something new. `busy_share` is their
    engines' mean; of `num_places` for sequences `num_sequences` are taken, and of the blocks of KV
    `used_share`."""

    num_open: int = 0
    busy_share: float = 0.0
    num_sequences: int = 0
    num_places: int = 0
    used_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """The whole. `missing` names a role that is needed, and of which no worker is open. For
    `sending_share` of the time a prefill worker has KV on its way; `exposed_share` is of the
    transfers' time what no computing hid."""

    prefill: RoleLoad
    decode: RoleLoad
    num_queued: int = 0
    num_in_flight: int = 0
    sending_share: float = 0.0
    exposed_share: float = 0.0
    missing: str = ""


def mean_load(loads: Sequence[Load]) -> Load:
    """Of moments that are alike; who is missing is who was at last."""

    def mean(field: Callable[[Load], float]) -> float:
        return sum(map(field, loads)) / len(loads)

    def role(of: Callable[[Load], RoleLoad]) -> RoleLoad:
        return RoleLoad(
            num_open=round(mean(lambda load: of(load).num_open)),
            busy_share=mean(lambda load: of(load).busy_share),
            num_sequences=round(mean(lambda load: of(load).num_sequences)),
            num_places=round(mean(lambda load: of(load).num_places)),
            used_share=mean(lambda load: of(load).used_share),
        )

    return Load(
        role(lambda load: load.prefill),
        role(lambda load: load.decode),
        num_queued=ceil(mean(lambda load: load.num_queued)),
        num_in_flight=ceil(mean(lambda load: load.num_in_flight)),
        sending_share=mean(lambda load: load.sending_share),
        exposed_share=mean(lambda load: load.exposed_share),
        missing=loads[-1].missing,
    )


class Bottleneck(NamedTuple):
    """Where it is: `workers`, `prefill`, `transfers`, `decode`, `clients` (they could ask for more)
    or `none` (they ask for nothing); and what is to be said of it."""

    where: str
    text: str


def find_bottleneck(load: Load) -> Bottleneck:
    """The first of these, in order: who is missing; what keeps the queue waiting; what is exposed;
    who is busy."""
    if load.missing:
        return Bottleneck("workers", f"no {load.missing} worker serves")
    if load.num_in_flight == 0:
        return Bottleneck("none", "nothing is asked for")
    return (
        (_what_keeps_waiting(load) if load.num_queued else None)
        or _exposed(load)
        or _busy(load)
        or Bottleneck("clients", f"room for more: {_shares(load)}")
    )


def _what_keeps_waiting(load: Load) -> Bottleneck | None:
    decode, prefill = load.decode, load.prefill
    if decode.used_share >= FULL:
        return Bottleneck("decode", f"KV pool full, {_waiting(load)}")
    if 0 < decode.num_places <= decode.num_sequences:
        return Bottleneck("decode", f"all {decode.num_places} places taken, {_waiting(load)}")
    if prefill.busy_share >= BUSY:
        return Bottleneck("prefill", f"{prefill.busy_share:.0%} busy, {_waiting(load)}")
    return None


def _exposed(load: Load) -> Bottleneck | None:
    if load.sending_share < SENDING or load.exposed_share < EXPOSED:
        return None
    exposed = f"{load.exposed_share:.0%} of it not hidden"
    return Bottleneck("transfers", f"on their way {load.sending_share:.0%} of the time, {exposed}")


def _busy(load: Load) -> Bottleneck | None:
    """The busier of the two roles, if it has no more to give."""
    roles = (("prefill", load.prefill), ("decode", load.decode))
    where, role = max(roles, key=lambda each: each[1].busy_share)
    if role.busy_share < BUSY:
        return None
    more = f", {_waiting(load)}" if load.num_queued else ""
    return Bottleneck(where, f"{role.busy_share:.0%} busy{more}")


def _waiting(load: Load) -> str:
    return f"{load.num_queued} {'prompt waits' if load.num_queued == 1 else 'prompts wait'}"


def _shares(load: Load) -> str:
    """How busy the roles are that have workers."""
    return ", ".join(
        f"{name} {role.busy_share:.0%} busy"
        for name, role in (("prefill", load.prefill), ("decode", load.decode))
        if role.num_open
    )
