"""What a worker is, as it describes itself to its peers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tandem.core.kv import KVLayout
from tandem.core.quantization import Quantization
from tandem.core.sequence import EndRule


class WorkerRole(IntEnum):
    """What a worker does. The numbers are the wire's."""

    PREFILL = 1
    DECODE = 2


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What others must know of the model that an engine runs.

    `fingerprint` is the hash of config and weights: two engines with the same fingerprint, dtype
    and layout can exchange KV, if they quantise the weights alike. `numerics` names what else the
    bits depend on (instruction set, kernel build); it is reported, not compared.
    `batch_invariant`: a token is a function of the tokens before it alone, the same bits in any
    batch and on every engine of the same `numerics`. `tokenizer_fingerprint` is empty where it is
    not told.
    """

    name: str
    fingerprint: str
    vocab_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    numerics: str
    quantization: str = Quantization.NONE
    batch_invariant: bool = False
    tokenizer_fingerprint: str = ""

    @property
    def kv_fingerprint(self) -> str:
        """What two ends of a transfer must share: quantised weights are another model's."""
        if self.quantization == Quantization.NONE:
            return self.fingerprint
        return f"{self.fingerprint}-{self.quantization}"

    @property
    def end_rule(self) -> EndRule:
        """When a sequence of it ends by itself."""
        return EndRule(self.eos_token_ids, self.max_model_len)


@dataclass(frozen=True, slots=True)
class KvPeer:
    """A worker as one end of transfers: its name, `ModelInfo.kv_fingerprint`, and its layout."""

    name: str
    kv_fingerprint: str
    layout: KVLayout

    def misfit(self, other: KvPeer) -> str | None:
        """Why the two cannot exchange KV, or None if they can."""
        for what, mine, theirs in (
            ("model", self.kv_fingerprint, other.kv_fingerprint),
            ("KV layout", self.layout, other.layout),
        ):
            if mine != theirs:
                return f"{self.name} and {other.name} differ in {what}: {mine} and {theirs}"
        return None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's description. `epoch` is new with every start of its process. Other workers reach
    it at `advertised_address` or, if that is empty, where the gateway does. It
    `caches_prefixes` unless that is turned off. `version` is its build, and `pid` its process; of
    builds that do not say they are empty and 0."""

    worker_id: str
    role: WorkerRole
    epoch: int
    model: ModelInfo
    layout: KVLayout
    num_blocks: int
    max_num_seqs: int
    device: str
    advertised_address: str = ""
    caches_prefixes: bool = True
    version: str = ""
    pid: int = 0

    def misfit(self, other: WorkerInfo) -> str | None:
        """Why the two cannot exchange KV, or None if they can."""
        return self.kv_peer.misfit(other.kv_peer)

    @property
    def kv_peer(self) -> KvPeer:
        return KvPeer(self.worker_id, self.model.kv_fingerprint, self.layout)
