"""What an engine on a CPU must not import: it would cost each worker a second and 70 MiB."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.device import CpuDevice
from tandem.engine.torch.engine import TorchEngine

TorchEngine(
    ModelFolder.open(Path(sys.argv[1])),
    CpuDevice((0,)),
    dtype="float32",
    block_size=16,
    num_blocks=4,
    max_model_len=64,
    packed_dir=Path(sys.argv[2]),
)
print(*({"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)))
"""


def test_torchs_compiler_is_not_imported(llama_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(llama_path), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
