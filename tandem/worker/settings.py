"""What both kinds of worker are started with."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from tandem.artifacts.hub_reference import HUB_MODEL
from tandem.core.address import WILDCARDS, Address, parse_address
from tandem.process.settings import Host, ServiceSettings
from tandem.worker.own_host import own_host


def _power_of_two(value: int) -> int:
    if value.bit_count() != 1:
        raise PydanticCustomError("power_of_two", "Input should be a power of two")
    return value


class WorkerSettings(ServiceSettings):
    """Settings of a worker; each role has a default port of its own. `decodes`: whether its steps
    are single tokens for the most part."""

    decodes: ClassVar[bool] = True
    host: Host = Field("127.0.0.1", description="address to listen on")
    port: int
    advertise: str = Field(
        "",
        description="host:port where other workers reach this one; empty: where the gateway does, "
        "or at this machine's if --host is a wildcard",
    )
    worker_id: str = Field("", description="name in logs and timelines; empty: ROLE-HOST-PORT")
    device: str = Field(
        "cpu",
        description="cpu, cpu:0-3, cpu:1/2 (the first of two parts of the cores), cuda:0 or "
        "mock:PROFILE",
    )
    model: str = Field(
        "default", description=f"default, mock, a folder, a .gguf file or {HUB_MODEL}"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="type of weights and KV; auto: bfloat16, but float32 "
        "with torch's operations on a CPU without it",
    )
    # Not the enum, whose names and not its values --help would list.
    quantization: Literal["none", "int8", "int4"] = Field(
        "none",
        description="weights rounded to int8 or int4, or none: less memory and faster decoding for "
        "some quality; only with the kernels, on a CPU",
    )
    kv_cache_dtype: Literal["auto", "int8"] = Field(
        "auto", description="type of the KV alone; int8: half of bfloat16's bytes, a little noise"
    )
    max_model_len: int | None = Field(
        None, ge=2, description="positions of a sequence at the most (default: the model's)"
    )
    block_size: Annotated[int, AfterValidator(_power_of_two)] = Field(
        16, ge=16, le=512, description="tokens of a KV block: a power of two"
    )
    num_blocks: int | None = Field(
        None, ge=1, description="blocks of the KV pool (default: what --memory-share leaves)"
    )
    memory_share: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="share of the device's memory for weights, KV pool and, on a GPU, steps "
        "(default: 0.9 of a GPU's; 0.15 of a CPU's, which others use too, or 0.6 of a container's, "
        "if that has a limit and nothing else runs there, but no more than 0.3 of the machine's)",
    )
    weight_sharers: int = Field(
        1,
        ge=1,
        description="workers of this host, with this one, that map the same packed weights: each "
        "counts its part of them; only with the kernels, on a CPU",
    )
    prefix_caching: Literal["auto", "off"] = Field(
        "auto",
        description="auto: KV of prompts and answers is kept while there is room, for what begins "
        "alike; off: none is",
    )
    max_num_seqs: int = Field(256, ge=1, description="sequences that it is given at the most")
    step_timeout: float = Field(
        120.0,
        ge=0,
        description="seconds after which a step, a grammar's compiling or a copy of KV that has "
        "not ended is taken to hang, and the process ends, to be started anew; 0: never",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of Prometheus metrics of this worker alone; 0: none"
    )
    mock_verify: Literal["full", "incremental"] = Field(
        "full", description="how much KV a mock device reads at each step: all, or what is new"
    )
    mock_runs_ahead: bool = Field(
        False,
        description="a mock device takes a step before the last one's tokens are out: as GPUs",
    )
    faults: str = Field(
        "",
        description="for tests: what this worker does to itself, as tandem/faults/plan.py has it",
    )
    allow_faults: bool = Field(False, description="let --faults count; without it they are refused")
    dump_logits: str = Field(
        "", description="folder for every sampled position's logits, to compare runs; slow"
    )

    @property
    def address(self) -> str:
        return str(Address(self.host, self.port))

    @property
    def metrics_address(self) -> Address | None:
        """Where to answer `GET /metrics`, if anywhere."""
        return Address(self.host, self.metrics_port) if self.metrics_port else None

    @property
    def advertised_address(self) -> str:
        """Where other workers reach this one, or empty. Raises `ConfigError`."""
        if self.advertise:
            return str(parse_address(self.advertise, param="advertise"))
        host = own_host() if self.host in WILDCARDS else ""
        return str(Address(host, self.port)) if host else ""
