"""What was found on a machine, without any judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.artifacts.weight_counts import WeightCounts
from tandem.core.kv import KVLayout
from tandem.worker.step_memory import StepMemory

NO_WEIGHTS = WeightCounts()
NO_STEPS = StepMemory()


@dataclass(frozen=True)
class Python:
    version: tuple[int, int, int]
    executable: str
    has_pip: bool = True


@dataclass(frozen=True)
class Gpu:
    """`free_bytes` None: not known."""

    name: str
    memory_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver, and the GPUs that it sees, whatever torch makes of them."""

    version: str
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Torch:
    """`cuda` is the CUDA version that this build is for, None for a CPU build. `gpus` are those
    that it can use; `cuda_warning` is what it says if it can use none. `auto_dtype` is what
    `--dtype auto` takes on the CPU, and `instructions` what torch chooses its CPU kernels by.
    `kernels` are Tandem's own for this CPU; if there are none, `kernels_missing` says why."""

    version: str
    cuda: str | None
    gpus: tuple[Gpu, ...]
    cuda_warning: str
    auto_dtype: str
    instructions: str
    kernels: str
    kernels_missing: str


@dataclass(frozen=True)
class NoTorch:
    """`reason` empty: it is not installed; else why it cannot be imported."""

    reason: str = ""


@dataclass(frozen=True)
class Compiler:
    """What Triton compiles with: a C compiler, its `path` empty if there is none, and Python's
    headers, in the folder `headers`."""

    path: str
    headers: str
    has_headers: bool


@dataclass(frozen=True)
class Cpu:
    """`cores`: those that this process may use, of `num_installed`. `quota`: CPUs' worth of time
    that its control group allows, None for no limit."""

    model: str
    num_installed: int
    cores: tuple[int, ...]
    quota: float | None


@dataclass(frozen=True)
class Memory:
    """`usable_bytes` is the control group's limit where that is lower than what is installed."""

    installed_bytes: int
    usable_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Model:
    """`checkpoint_bytes`: size of the weight files, 0 for the mock model; `weights`: how many there
    are in them; `steps`: what decides the memory that steps take. `download_bytes` and
    `import_bytes`: what must be fetched, and the room that it takes in the cache, both 0 if the
    model is here."""

    name: str
    checkpoint_bytes: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_model_len: int
    weights: WeightCounts = NO_WEIGHTS
    steps: StepMemory = NO_STEPS
    download_bytes: int = 0
    import_bytes: int = 0

    @property
    def is_here(self) -> bool:
        return self.import_bytes == 0

    def kv_layout(self, block_size: int, dtype: str) -> KVLayout:
        return KVLayout(self.num_layers, self.num_kv_heads, self.head_dim, block_size, dtype)


@dataclass(frozen=True)
class HubModel:
    """A model on the hub that was not fetched yet: nothing is known of it but its name."""

    name: str


@dataclass(frozen=True)
class NoModel:
    reason: str


@dataclass(frozen=True)
class Folder:
    """`exists_at` is the deepest folder of `path` that is there."""

    path: str
    exists_at: str
    is_writable: bool
    free_bytes: int


@dataclass(frozen=True)
class Port:
    """`owner` says which process listens there; empty if that cannot be seen. `next_free` is the
    port to take instead. `error`: why nobody can ever listen there, for one because the host
    `is_elsewhere`: no address of this machine."""

    number: int
    is_free: bool
    owner: str = ""
    next_free: int | None = None
    error: str = ""
    is_elsewhere: bool = False


@dataclass(frozen=True)
class Docker:
    """Versions; empty for what is not there, or with a `daemon_error` does not say. That is why
    docker cannot be used."""

    version: str = ""
    compose: str = ""
    daemon_error: str = ""


@dataclass(frozen=True)
class Machine:
    """`logs` None: they go to the terminal. `ports` are by the flag that sets them; `worker_ports`
    are free, and empty if there are too few. `open_files`: how many a gateway may have. `refusals`
    is what the services have to say against their flags."""

    python: Python
    torch: Torch | NoTorch
    driver: Driver | None
    compiler: Compiler
    cpu: Cpu
    memory: Memory
    model: Model | HubModel | NoModel
    cache: Folder
    logs: Folder | None
    ports: Mapping[str, Port]
    worker_ports: tuple[int, ...]
    open_files: int
    docker: Docker
    refusals: tuple[str, ...]
