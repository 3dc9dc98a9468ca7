"""How long things take on a device: a roofline."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.kv import Plane
from tandem.core.plan import StepPlan


@dataclass(frozen=True, slots=True)
class DeviceConstants:
    """What a device can do. Rates are per second; `math.inf` is allowed."""

    peak_flops: float
    efficiency: float
    """The share of `peak_flops` that large matrix products reach."""
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    """Of the network link over which KV leaves."""
    launch_s: float
    """What a step costs beyond its arithmetic: launches, sampling, synchronisation."""
    overlap: float = 1.0
    """The share of a step's operators that run at once. 1: all arithmetic hides all reading, or the
    other way round. 0: products with the weights, then attention, each by its own roofline, as
    kernels do that are launched one after the other."""

    def operator_s(self, num_flops: float, num_bytes: float) -> float:
        """Seconds of so much arithmetic and memory traffic, of which the lesser is hidden."""
        flops_per_s = self.peak_flops * self.efficiency
        return max(num_flops / flops_per_s, num_bytes / self.memory_bandwidth)


@dataclass(frozen=True, slots=True)
class ModelConstants:
    """The model that the timing stands for; the KV that a fake engine moves is smaller."""

    num_params: float
    num_layers: int
    hidden_size: int
    item_bytes: int
    kv_bytes_per_token: int

    @property
    def weight_bytes(self) -> float:
        return self.num_params * self.item_bytes


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on a device, with every duration multiplied by `dilation`."""

    name: str
    device: DeviceConstants
    model: ModelConstants
    dilation: float = 1.0

    def step_s(self, plan: StepPlan) -> float:
        """Seconds that a step takes: launch + max(arithmetic, memory traffic), the latter of the
        whole step as far as its operators overlap, and of each operator as far as not."""
        device, model = self.device, self.model
        num_tokens, num_read, num_attended = _work(plan)
        # Two operations per parameter and token; for attention four (scores and values, multiply
        # and add) per hidden dimension, layer and attended position.
        products = 2 * model.num_params * num_tokens
        attention = 4 * model.hidden_size * model.num_layers * num_attended
        weights, kv = model.weight_bytes, model.kv_bytes_per_token * num_read
        at_once_s = device.operator_s(products + attention, weights + kv)
        in_turn_s = device.operator_s(products, weights) + device.operator_s(attention, kv)
        step_s = device.overlap * at_once_s + (1 - device.overlap) * in_turn_s
        return self.dilation * (device.launch_s + step_s)

    def token_layer_s(self, num_layers: int) -> float:
        """Seconds on the link of one token's keys, or values, of one layer, where `num_layers`
        layers stand for all of the model's."""
        load = self.model.kv_bytes_per_token / (len(Plane) * num_layers)
        return self.dilation * load / self.device.link_bandwidth

    def num_blocks(self, block_size: int, memory_share: float) -> int:
        """Blocks of the model's KV that fit beside its weights in a share of the memory."""
        free = self.device.memory_bytes * memory_share - self.model.weight_bytes
        return int(free // (self.model.kv_bytes_per_token * block_size))


def _work(plan: StepPlan) -> tuple[int, int, int]:
    """Of a step: tokens that are computed, whose KV is read, and positions that are attended to,
    each token's own and all before it: the sum of start + 1 ... end. In one pass, since a
    simulation asks for little else."""
    num_tokens = num_read = num_attended = 0
    for each in plan.slices:
        size, start = len(each.token_ids), each.start
        num_tokens += size
        num_read += start + size
        num_attended += size * (2 * start + 1 + size) // 2
    return num_tokens, num_read, num_attended
