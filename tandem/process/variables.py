"""The variables of the environment that mean something to Tandem: another is a slip of the pen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches

import structlog

log = structlog.get_logger(__name__)

PREFIX = "TANDEM_"
# Of all services and commands, since one environment may be many processes'.
_FLAGS = """
address advertise allow_faults api_key api_keys batching block_size body_timeout_s decode device
drain_delay drain_timeout dtype dump_logits faults generation_config grpc_port header_timeout_s host
http_port keep_alive_s kv_cache_dtype local_prefill log_dir log_format log_level max_batch_tokens
max_connections max_header_bytes max_model_len max_num_seqs max_queue max_tokens memory_share
metrics_port min_frame_bytes mock_runs_ahead mock_verify model num_blocks on_bad_kv otlp_endpoint
parked_kv_bytes policy port port_base prefill prefill_token_budget prefix_caching quantization save
self_check standby start_timeout step_timeout system temperature tenants tls tls_dir tool_format
topology tpot_target_ms trace_sample url verbose weight_sharers window worker_id
"""
# Those that are no flag's: of any process, of the compose files, of building and testing.
_OTHERS = """
cache end_with_parent kernels
decode_gpu gateway_memory prefill_gpu stop_grace worker_cpus worker_memory
build_kernels emulated scenarios
"""
FLAGS, OTHERS = frozenset(_FLAGS.split()), frozenset(_OTHERS.split())


def unknown(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of Tandem's prefix that nothing reads, and the known one that each is most like, or
    nothing."""
    known = sorted(FLAGS | OTHERS)
    words = {
        name: name.upper().removeprefix(PREFIX).lower()
        for name in sorted(environment)
        if name.upper().startswith(PREFIX)
    }
    # By what is behind the prefix, which is alike in all.
    nearest = {name: get_close_matches(word, known, 1, 0.75) for name, word in words.items()}
    return {
        name: "".join(PREFIX + each.upper() for each in nearest[name])
        for name, word in words.items()
        if word not in known
    }


def warn_of_unknown() -> None:
    """Log those of this process's environment."""
    for name, nearest in unknown(os.environ).items():
        log.warning("nothing reads this variable", name=name, nearest=nearest or "none")
