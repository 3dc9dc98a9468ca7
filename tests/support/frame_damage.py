"""The faults after which a transfer is not what was sent."""

from __future__ import annotations

from tandem.faults.plan import FaultName

DAMAGE = (
    FaultName.FRAME_CORRUPT,
    FaultName.FRAME_TRUNCATE,
    FaultName.FRAME_DROP,
    FaultName.FRAME_DUPLICATE,
    FaultName.FRAME_REORDER,
    FaultName.FRAME_WRONG_LAYER,
    FaultName.FRAME_WRONG_SHAPE,
    FaultName.FRAME_WRONG_DTYPE,
    FaultName.FRAME_WRONG_TRANSFER,
    FaultName.FRAME_WRONG_EPOCH,
)
