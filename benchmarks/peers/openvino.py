"""OpenVINO GenAI's continuous batching: behind a thin HTTP shell, and in its own process.

It computes in bfloat16 where the processor can, but keeps KV in 8 bits unless told otherwise.
"""

from __future__ import annotations

from pathlib import Path

from peers.arm import Arm, Conversion, name_of, program

# For the peers, and for the load tool, which there needs nothing but Python.
PYTHONPATH = ":".join(map(str, (Path(__file__).parents[1], Path(__file__).parents[2])))


def arms(environment: Path, model: Path, int4: bool) -> list[Arm]:
    """Both with the library's own settings, and with KV of 16 bits. Raises `NotInstalled`."""
    python = program(environment, "python")
    exported = environment / (f"{model.name}-int4" if int4 else model.name)
    # Groups as ours; it keeps the head in 8 bits by itself.
    weights = ("int4", "--group-size", "32", "--ratio", "1.0") if int4 else ("fp16",)
    conversion = Conversion(
        (
            *(program(environment, "optimum-cli"), "export", "openvino", "--model", str(model)),
            *("--task", "text-generation-with-past", "--weight-format", *weights, str(exported)),
        ),
        exported,
    )
    common = ("--model", str(exported))
    env = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": PYTHONPATH}
    server = (python, "-P", "-m", "peers.openvino_server", *common, "--port", "{port}")
    alone = (python, "-P", "-m", "peers.openvino_in_process", *common)
    bfloat16 = (*server, "--kv-precision", "bf16")
    return [
        Arm(name_of("openvino http", int4), server, "/health", env=env, conversions=(conversion,)),
        Arm(
            name_of("openvino http, bf16 KV", int4),
            bfloat16,
            "/health",
            env=env,
            conversions=(conversion,),
        ),
        Arm(name_of("openvino in process", int4), alone, env=env, conversions=(conversion,)),
    ]
