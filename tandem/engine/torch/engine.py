"""The torch engine: one model, one pool, one device.

A step goes `PlanCheck` -> a `Runner`, which computes KV and logits -> `sample`. Grammars are
followed beside it (`AllowedTokens`), and what penalties count is kept (`SequenceCounts`). There are
three runners. `NativeRunner`, on a CPU: packed weights and the kernels of `tandem.native`.
`GpuRunner`: the kernels of `triton_kernels`, CUDA graphs. `TorchRunner`, where there are neither:
`StepInputs` (index tensors) -> `Decoder.hidden`, which calls `PagedAttention` for each layer (KV to
the pool, hook, attention) -> `Decoder.logits` for the slices that sample.

Bits: on a CPU a token's KV and logits are a function of the tokens before it alone, not of the
batch, the chunking, prefill or decode, the blocks, the number of threads. The kernels are made so
(`matmul.h`, `attention.h`); torch's operations, in float32, where rows are padded for the matrix
products (`tandem.models.layers`), keys for attention (`inputs.KEY_TILE`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tandem.artifacts.families import MOCK
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.errors import ConfigError, TandemError
from tandem.core.kv import INT8, kv_dtype
from tandem.core.plan import StepPlan
from tandem.core.quantization import Quantization
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import ALL, Allowed, AllowedTokens
from tandem.engine.protocols import LayerHook, ModelInfo
from tandem.engine.torch.device_health import is_lost
from tandem.engine.torch.first_steps import first_steps
from tandem.engine.torch.host_copy import HostCopy
from tandem.engine.torch.inputs import KEY_TILE
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.placement import current, numerics, resolve_dtype, torch_device
from tandem.engine.torch.plan_check import PlanCheck
from tandem.engine.torch.runner import AheadRunner, Runner
from tandem.engine.torch.runners import kernels_for, load_runner
from tandem.engine.torch.sampler import SampleRow, sample
from tandem.engine.torch.step_handle import TorchStepHandle
from tandem.engine.torch.stored_layers import StoredLayers
from tandem.engine.torch.token_counts import SequenceCounts, TokenCounts
from tandem.engine.torch.token_logprobs import StepLogprobs, StepScores

# Sees, of each step, the logits [slices that sample, vocab_size] in float32, in the plan's order:
# they are valid until the next step, or until this one's scores are computed, if it has any.
StepObserver = Callable[[StepPlan, Tensor], None]


class TorchEngine:
    """An `Engine`. On a CPU `launch` runs the step to its end; on a GPU it queues kernels, all on
    the default stream, and only `TorchStepHandle.result` waits."""

    def __init__(
        self,
        folder: ModelFolder,
        device: CpuDevice | CudaDevice,
        *,
        dtype: str,
        kv_cache_dtype: str = "auto",
        block_size: int,
        num_blocks: int,
        max_model_len: int,
        quantization: Quantization = Quantization.NONE,
        packed_dir: Path | None = None,
        decodes: bool = True,
        observer: StepObserver | None = None,
    ) -> None:
        """`packed_dir`: where this host's engines share their packed weights; None: not at all.
        `block_size`: a divisor of `KEY_TILE`. `decodes`: whether steps of single tokens without a
        hook are to be expected, for which a GPU has graphs. KV in int8 and quantised weights are
        for the native kernels alone. Raises `ConfigError`."""
        config = folder.config
        if config.architecture == MOCK:
            raise ConfigError(
                f"{folder.name} is a mock model: it runs on mock devices", param="device"
            )
        assert KEY_TILE % block_size == 0 and num_blocks > 0
        self._device = torch_device(device)
        kernels = kernels_for(config, self._device)
        item = resolve_dtype(dtype, self._device, kernels is not None)
        self._observer = observer
        assert kernels is not None or kv_cache_dtype != INT8, "only the kernels take KV in int8"
        layout = config.kv_layout(
            block_size, kv_dtype(kv_cache_dtype, str(item).removeprefix("torch."))
        )
        # No sequence has more than the pool.
        longest = min(max_model_len, num_blocks * block_size)
        with current(self._device):
            self._pool = TorchKVPool(layout, num_blocks, self._device, kernels)
            self._runner = load_runner(
                folder,
                self._pool,
                longest,
                item,
                self._device,
                kernels,
                quantization,
                packed_dir,
                decodes,
            )
        self._ahead = self._runner if isinstance(self._runner, AheadRunner) else None
        self._model = ModelInfo(
            name=folder.name,
            fingerprint=folder.fingerprint,
            vocab_size=config.vocab_size,
            max_model_len=max_model_len,
            eos_token_ids=config.eos_token_ids,
            numerics=numerics(self._device, item, layout.dtype, kernels, quantization),
            quantization=quantization,
            # torch's own operations are, too, on a CPU in float32, but not of every build of it.
            batch_invariant=kernels is not None,
            tokenizer_fingerprint=folder.tokenizer_fingerprint,
        )
        self._check = PlanCheck(
            vocab_size=config.vocab_size,
            max_model_len=longest,
            block_size=block_size,
            num_blocks=num_blocks,
        )
        self._allowed = AllowedTokens(self._model, folder.tokenizer)
        self._counts = SequenceCounts()

    @property
    def model(self) -> ModelInfo:
        return self._model

    @property
    def pool(self) -> TorchKVPool:
        return self._pool

    @property
    def runner(self) -> Runner:
        return self._runner

    @property
    def runs_ahead(self) -> bool:
        return self._ahead is not None

    @torch.inference_mode()
    def launch(self, plan: StepPlan, on_layer: LayerHook | None = None) -> TorchStepHandle:
        """Start a step. Raises what `PlanCheck` raises, before any KV is written."""
        self._check.check(plan, pending=self._ahead.pending if self._ahead else ())
        if not plan.slices:
            no_tokens = HostCopy(torch.empty(0, dtype=torch.int64))
            return TorchStepHandle(plan, no_tokens, StepLogprobs(()), ())
        with current(self._device):
            return self._launch(plan, on_layer)

    def _launch(self, plan: StepPlan, on_layer: LayerHook | None) -> TorchStepHandle:
        allowed = self._allowed.start(plan)
        layers = StoredLayers(on_layer) if on_layer and self._device.type == "cuda" else None
        logits = self._runner.logits(plan, layers.queued if layers else on_layer)
        if self._observer is not None:
            self._observer(plan, logits.float())
        counts = self._counts.of(plan.slices)
        handle, sampled = _sample(plan, logits, allowed(), counts, layers)
        if self._ahead:
            self._ahead.sampled(plan, sampled)
        if plan.has_scores:
            # Not before: in their place are the logits that are sampled from.
            handle = replace(handle, scores=StepScores.of(plan, self._runner.logits_of))
        return handle

    def warm_up(self) -> None:
        self._allowed.warm_up()
        if self._ahead:
            # A GPU's kernels are compiled, and its libraries loaded, when they are first launched.
            pool, model = self._pool, self._model
            for plan in first_steps(pool.layout.block_size, pool.num_blocks, model.max_model_len):
                # Two at a time, as they run ahead: each has memory of its own that copies go to.
                for handle in [self.launch(plan) for _ in range(2)]:
                    handle.result()

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        self._allowed.prepare(sequence_id, params)

    def use_idle_time(self) -> bool:
        return self._pool.use_idle_time()

    def is_lost(self) -> bool:
        return is_lost(self._device)

    def close(self) -> None:
        """Free the weights and the pool. Nothing may be called afterwards."""
        self._allowed.close()
        self._pool.close()
        del self._runner, self._ahead, self._pool


def _sample(
    plan: StepPlan,
    logits: Tensor,
    allowed: Sequence[Allowed | TandemError],
    counts: Sequence[TokenCounts | None],
    layers: StoredLayers | None,
) -> tuple[TorchStepHandle, Tensor]:
    """The handle, and the tokens, perhaps on the device.

    A row whose grammar failed has a token all the same there: whoever goes on with it is told of
    the failure first.
    """
    asked = [(each.sample, each.end) for each in plan.slices if each.sample is not None]
    failures = [each if isinstance(each, TandemError) else None for each in allowed]
    rows = [
        SampleRow(spec, position, ALL if isinstance(each, TandemError) else each, its_counts)
        for (spec, position), each, its_counts in zip(asked, allowed, counts, strict=True)
    ]
    sampled = sample(logits, rows)
    logprobs = StepLogprobs.of(logits, sampled, [row.spec.params.logprobs for row in rows])
    return TorchStepHandle(plan, HostCopy(sampled), logprobs, failures, layers), sampled
