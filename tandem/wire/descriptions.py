"""Who a worker is: `WorkerDescription` and its parts."""

from __future__ import annotations

from tandem.core.errors import Mismatch
from tandem.core.kv import ITEM_SIZES, KVLayout
from tandem.core.quantization import Quantization
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.v1 import worker_pb2
from tandem.wire.enums import known

PROTOCOL_REVISION = 3
# A feature: what begins alike shares its KV.
PREFIX_CACHING = "prefix-caching"


def layout_to_wire(layout: KVLayout) -> worker_pb2.KvLayout:
    return worker_pb2.KvLayout(
        num_layers=layout.num_layers,
        num_kv_heads=layout.num_kv_heads,
        head_dim=layout.head_dim,
        block_size=layout.block_size,
        dtype=layout.dtype,
    )


def layout_from_wire(message: worker_pb2.KvLayout) -> KVLayout:
    """Raises `Mismatch` for an item type that this build does not know."""
    if message.dtype not in ITEM_SIZES:
        raise Mismatch(f"unknown KV item type {message.dtype!r}")
    return KVLayout(
        num_layers=message.num_layers,
        num_kv_heads=message.num_kv_heads,
        head_dim=message.head_dim,
        block_size=message.block_size,
        dtype=message.dtype,
    )


def worker_to_wire(worker: WorkerInfo) -> worker_pb2.WorkerDescription:
    model = worker.model
    return worker_pb2.WorkerDescription(
        worker_id=worker.worker_id,
        role=worker_pb2.WorkerRole.ValueType(worker.role),
        worker_epoch=worker.epoch,
        model=worker_pb2.ModelDescription(
            name=model.name,
            fingerprint=model.fingerprint,
            vocab_size=model.vocab_size,
            max_model_len=model.max_model_len,
            eos_token_ids=sorted(model.eos_token_ids),
            numerics=model.numerics,
            quantization=model.quantization,
            batch_invariant=model.batch_invariant,
            tokenizer_fingerprint=model.tokenizer_fingerprint,
        ),
        layout=layout_to_wire(worker.layout),
        num_blocks=worker.num_blocks,
        max_num_seqs=worker.max_num_seqs,
        device=worker.device,
        advertised_address=worker.advertised_address,
        protocol_min=PROTOCOL_REVISION,
        protocol_max=PROTOCOL_REVISION,
        features=[PREFIX_CACHING] if worker.caches_prefixes else [],
        version=worker.version,
        pid=worker.pid,
    )


def worker_from_wire(message: worker_pb2.WorkerDescription) -> WorkerInfo:
    """Raises `Mismatch` if the worker speaks no protocol revision that this build speaks."""
    if not message.protocol_min <= PROTOCOL_REVISION <= message.protocol_max:
        raise Mismatch(
            f"{message.worker_id} (version {message.version or 'unknown'}) speaks protocol "
            f"{message.protocol_min} to {message.protocol_max}, this gateway {PROTOCOL_REVISION}"
        )
    model = message.model
    return WorkerInfo(
        worker_id=message.worker_id,
        role=known(WorkerRole, message.role),
        epoch=message.worker_epoch,
        model=ModelInfo(
            name=model.name,
            fingerprint=model.fingerprint,
            vocab_size=model.vocab_size,
            max_model_len=model.max_model_len,
            eos_token_ids=frozenset(model.eos_token_ids),
            numerics=model.numerics,
            quantization=model.quantization or Quantization.NONE,
            batch_invariant=model.batch_invariant,
            tokenizer_fingerprint=model.tokenizer_fingerprint,
        ),
        layout=layout_from_wire(message.layout),
        num_blocks=message.num_blocks,
        max_num_seqs=message.max_num_seqs,
        device=message.device,
        advertised_address=message.advertised_address,
        caches_prefixes=PREFIX_CACHING in message.features,
        version=message.version,
        pid=message.pid,
    )
