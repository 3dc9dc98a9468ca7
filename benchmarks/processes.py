"""Tandem's processes, as the system has them."""

from __future__ import annotations

import psutil

ROLES = {"gateway": "gateway", "prefill_service": "prefill", "decode_service": "decode"}


def role_of(process: psutil.Process) -> str:
    return next(ROLES[each] for each in process.cmdline() if each in ROLES)
