"""The profiles by name: published constants, stated, not fitted.

A profile is written `NAME` or `NAMExFACTOR`; `h100x10` is an H100 on which everything takes ten
times as long (declared time dilation), so that a small host can keep up with many of them.
`h100x10,peak_flops=0.75` is one with a constant of its own, a factor on the published one: how much
a result depends on it. `h100,overlap=0` runs its operators one after the other.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

from tandem.core.errors import ConfigError
from tandem.engine.fake.profile import DeviceConstants, ModelConstants, Profile

# Llama-3.1-8B's config.json: 32 layers, hidden size 4096, 8 KV heads of 128; 8.03e9 parameters
# (model card). In bfloat16 a token has 2 planes * 32 * 8 * 128 * 2 B = 128 KiB of KV.
LLAMA_3_1_8B = ModelConstants(
    num_params=8.03e9, num_layers=32, hidden_size=4096, item_bytes=2, kv_bytes_per_token=131072
)

# SmolLM2-135M's config.json: 30 layers, hidden size 576, 3 KV heads of 64; 134.5e6 parameters.
# In float32 a token has 2 planes * 30 * 3 * 64 * 4 B = 45 KiB of KV.
SMOLLM2_135M = ModelConstants(
    num_params=134.5e6, num_layers=30, hidden_size=576, item_bytes=4, kv_bytes_per_token=46080
)

# Not published, and the same for all: half of the peak in large matrix products, and 100 us a step
# beyond the arithmetic on a GPU.
EFFICIENCY = 0.5
GPU_LAUNCH_S = 100e-6

# NVIDIA H100 datasheet, SXM: 989 TFLOP/s dense bfloat16 (1979 with sparsity), 80 GB, 3.35 TB/s.
# Link: one 200 Gb/s NIC for each GPU. NVLink (900 GB/s, datasheet) does not carry gRPC.
H100 = DeviceConstants(
    peak_flops=989e12,
    efficiency=EFFICIENCY,
    memory_bytes=80e9,
    memory_bandwidth=3.35e12,
    link_bandwidth=25e9,
    launch_s=GPU_LAUNCH_S,
)

# NVIDIA A100 datasheet, 80 GB SXM: 312 TFLOP/s dense bfloat16, 2039 GB/s.
# Link: one 200 Gb/s NIC for each GPU (NVIDIA DGX A100 datasheet: 8 ConnectX HDR 200 Gb/s).
A100 = DeviceConstants(
    peak_flops=312e12,
    efficiency=EFFICIENCY,
    memory_bytes=80e9,
    memory_bandwidth=2.039e12,
    link_bandwidth=25e9,
    launch_s=GPU_LAUNCH_S,
)

# NVIDIA L4 datasheet: 242 TFLOP/s bfloat16 with sparsity, so 121 dense; 24 GB, 300 GB/s.
# Link: a 25 Gb/s NIC, stated.
L4 = DeviceConstants(
    peak_flops=121e12,
    efficiency=EFFICIENCY,
    memory_bytes=24e9,
    memory_bandwidth=300e9,
    link_bandwidth=3.125e9,
    launch_s=GPU_LAUNCH_S,
)

# A small host: 4 cores at 3 GHz, each 32 float32 FLOP a cycle (two AVX2 FMA); two channels of
# DDR4-3200 (JEDEC: 25.6 GB/s each). Link: 10 Gb/s. Stated.
CPU = DeviceConstants(
    peak_flops=384e9,
    efficiency=EFFICIENCY,
    memory_bytes=16e9,
    memory_bandwidth=51.2e9,
    link_bandwidth=1.25e9,
    launch_s=1e-3,
)

# Takes no time at all, for tests.
ZERO = DeviceConstants(
    peak_flops=math.inf,
    efficiency=1.0,
    memory_bytes=24e9,
    memory_bandwidth=math.inf,
    link_bandwidth=math.inf,
    launch_s=0.0,
)

PROFILES = {
    each.name: each
    for each in (
        Profile("zero", ZERO, LLAMA_3_1_8B),
        Profile("h100", H100, LLAMA_3_1_8B),
        Profile("a100", A100, LLAMA_3_1_8B),
        Profile("l4", L4, LLAMA_3_1_8B),
        Profile("cpu", CPU, SMOLLM2_135M),
    )
}


_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_PROFILE = re.compile(rf"([a-z0-9]+?)(?:x({_NUMBER}))?((?:,[a-z_]{{1,32}}={_NUMBER})*)", re.ASCII)


def parse_profile(text: str) -> Profile:
    """Parse `NAME`, `NAMExDILATION`, and either with device constants that are to be other than
    published. Raises `ConfigError` that lists the known names."""
    match = _PROFILE.fullmatch(text)
    if match and match[1] in PROFILES and (dilation := float(match[2] or 1)) > 0:
        profile = PROFILES[match[1]]
        device = _varied(profile.device, match[3])
        return replace(profile, name=text, dilation=dilation, device=device)
    raise ConfigError(
        f"unknown profile {text!r}: write one of {', '.join(PROFILES)}, "
        "or one with a time dilation, like h100x10",
        param="device",
    )


def _varied(device: DeviceConstants, text: str) -> DeviceConstants:
    """`,peak_flops=0.75`: constants times a factor. Raises `ConfigError`."""
    known = [field.name for field in fields(DeviceConstants)]
    for part in text.split(",")[1:]:
        name, _, factor = part.partition("=")
        if name not in known or not _is_possible(name, float(factor)):
            raise ConfigError(
                f"cannot vary {part!r}: write one of {', '.join(known)} with a factor above 0, "
                "overlap with one from 0 to 1",
                param="device",
            )
        device = replace(device, **{name: getattr(device, name) * float(factor)})
    return device


def _is_possible(name: str, factor: float) -> bool:
    return factor <= 1 if name == "overlap" else factor > 0
