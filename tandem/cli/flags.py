"""Flags with their environment twins, and those of `tandem up` that other commands take as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

WORKERS = "Workers"
# Not in brackets, which rich takes for markup.
HUB_MODEL = "a hub's org/name, org/name@revision, org/name:Q4_K_M"


def flag(name: str, description: str, panel: str | None = None) -> Any:
    """`--some-name`, whose twin is `TANDEM_SOME_NAME`."""
    twin = f"TANDEM_{name.upper().replace('-', '_')}"
    return typer.Option(f"--{name}", envvar=twin, help=description, rich_help_panel=panel)


AddressFlag = Annotated[
    str | None, flag("address", "the gateway's gRPC address (default: 127.0.0.1:50050)")
]
TopologyFlag = Annotated[
    str, flag("topology", "1p1d, 1p2d, 2p1d or another NpMd; colocated, colocated:2")
]
ModelFlag = Annotated[str, flag("model", f"default, mock, a folder, a .gguf file or {HUB_MODEL}")]
DeviceFlag = Annotated[
    str, flag("device", "cpu, cpu:0-3, cuda (one GPU a worker), cuda:0 (shared), mock:PROFILE")
]
HostFlag = Annotated[str, flag("host", "address that the gateway listens on")]
HttpPortFlag = Annotated[int, flag("http-port", "port of the OpenAI API")]
GrpcPortFlag = Annotated[int, flag("grpc-port", "port of the gRPC API")]
PortBaseFlag = Annotated[
    int, flag("port-base", "the workers take the first free ports from here on")
]
LogDirFlag = Annotated[
    Path | None, flag("log-dir", "folder for the logs (default: logs/HTTP_PORT in the cache)")
]
VerboseFlag = Annotated[bool, flag("verbose", "logs to the terminal instead of files")]
ApiKeyFlag = Annotated[str | None, flag("api-key", "the key that the gateway asks for")]
DtypeFlag = Annotated[str | None, flag("dtype", "auto, float32 or bfloat16", WORKERS)]
QuantizationFlag = Annotated[
    str | None, flag("quantization", "weights rounded to int8 or int4, on a CPU; or none", WORKERS)
]
KVCacheDtypeFlag = Annotated[
    str | None, flag("kv-cache-dtype", "auto (the model's) or int8", WORKERS)
]
MaxModelLenFlag = Annotated[
    int | None, flag("max-model-len", "positions of a sequence at the most", WORKERS)
]
BlockSizeFlag = Annotated[int | None, flag("block-size", "tokens of a KV block", WORKERS)]
NumBlocksFlag = Annotated[int | None, flag("num-blocks", "blocks of a worker's KV pool", WORKERS)]
MemoryShareFlag = Annotated[
    float | None,
    flag("memory-share", "share of the device's memory that a worker takes", WORKERS),
]
