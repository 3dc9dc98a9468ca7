from dataclasses import replace
from math import inf

import pytest

from tandem.core.errors import ConfigError
from tandem.core.plan import StepPlan
from tandem.engine.fake.profile import DeviceConstants, ModelConstants, Profile
from tandem.engine.fake.profiles import PROFILES, parse_profile

DEVICE = DeviceConstants(
    peak_flops=2000.0,
    efficiency=0.5,
    memory_bytes=1000.0,
    memory_bandwidth=100.0,
    link_bandwidth=10.0,
    launch_s=0.25,
)
MODEL = ModelConstants(
    num_params=100, num_layers=2, hidden_size=5, item_bytes=2, kv_bytes_per_token=16
)
PROFILE = Profile("test", DEVICE, MODEL)


def test_decode_is_bound_by_memory(make_slice):
    plan = StepPlan(0, tuple(make_slice([1], range(3), start=9) for _ in range(2)))
    # Weights of 200 bytes and the KV of 2 * 10 tokens.
    assert PROFILE.step_s(plan) == pytest.approx(0.25 + (200 + 2 * 10 * 16) / 100)


def test_prefill_is_bound_by_arithmetic(make_slice):
    plan = StepPlan(0, (make_slice(range(60), range(16), start=4),))
    # Tokens 4 to 63 attend to 5, 6, ... 64 positions.
    attention = 4 * 5 * 2 * sum(range(5, 65))
    assert PROFILE.step_s(plan) == pytest.approx(0.25 + (2 * 100 * 60 + attention) / 1000)


def test_operators_that_do_not_overlap_take_their_times_one_after_the_other(make_slice):
    plan = StepPlan(0, (make_slice(range(30), ()), make_slice([1], (), start=999)))
    weights_s, kv_s = 200 / 100, 16 * (30 + 1000) / 100
    products_s, attention_s = 2 * 100 * 31 / 1000, 4 * 5 * 2 * (30 * 31 // 2 + 1000) / 1000
    assert products_s > weights_s
    assert attention_s < kv_s

    def step_s(overlap):
        return replace(PROFILE, device=replace(DEVICE, overlap=overlap)).step_s(plan)

    assert step_s(1.0) == pytest.approx(0.25 + weights_s + kv_s)
    assert step_s(0.0) == pytest.approx(0.25 + products_s + kv_s)
    assert step_s(0.5) == pytest.approx((step_s(0.0) + step_s(1.0)) / 2)


def test_chunks_cost_as_much_arithmetic_as_the_whole(make_slice):
    # With a memory so fast that arithmetic alone takes time.
    profile = Profile("fast", replace(DEVICE, memory_bandwidth=inf, launch_s=0.0), MODEL)

    def arithmetic(*slices):
        return profile.step_s(StepPlan(0, slices))

    whole = arithmetic(make_slice(range(50), ()))
    parts = arithmetic(make_slice(range(30), ()), make_slice(range(20), (), start=30))
    assert whole == pytest.approx(parts)


def test_dilation_multiplies_all_times(make_slice):
    slow = Profile("slow", DEVICE, MODEL, dilation=3.0)
    plan = StepPlan(0, (make_slice([1], range(3)),))
    assert slow.step_s(plan) == pytest.approx(3 * PROFILE.step_s(plan))
    assert slow.token_layer_s(4) == pytest.approx(3 * PROFILE.token_layer_s(4))


def test_the_layers_together_carry_the_models_kv():
    # 16 bytes a token at 10 bytes/s, whatever the number of layers they are spread over.
    for num_layers in (1, 2, 4):
        assert 2 * num_layers * PROFILE.token_layer_s(num_layers) == pytest.approx(1.6)


def test_blocks_beside_the_weights():
    assert PROFILE.num_blocks(block_size=4, memory_share=0.5) == 4  # (500 - 200) // 64


def test_published_models_fit_their_devices():
    assert set(PROFILES) == {"zero", "h100", "a100", "l4", "cpu"}
    assert all(each.num_blocks(16, 0.9) > 1000 for each in PROFILES.values())


def test_an_h100_decodes_at_the_speed_of_its_memory(make_slice):
    step_s = PROFILES["h100"].step_s(StepPlan(0, (make_slice([1], ()),)))
    assert step_s == pytest.approx(16.06e9 / 3.35e12 + 100e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "dilation"), [("h100", 1.0), ("h100x10", 10.0), ("l4x0.5", 0.5), ("zerox2", 2.0)]
)
def test_parse(text, dilation):
    profile = parse_profile(text)
    assert (profile.name, profile.dilation) == (text, dilation)
    assert profile.device == PROFILES[text.partition("x")[0]].device


@pytest.mark.parametrize(
    "text",
    ["", "b200", "h100x", "x10", "h100x0", "h100x-1", "h100xinf", "H100", "h100 ", "h100x1e3"],
)
def test_unknown_profiles_are_refused_with_the_known_names(text):
    with pytest.raises(ConfigError, match="zero, h100, a100, l4, cpu"):
        parse_profile(text)


def test_constants_are_varied_by_factors():
    profile = parse_profile("h100x5,peak_flops=0.75,link_bandwidth=1.25")
    published = PROFILES["h100"].device
    assert profile.dilation == 5
    assert profile.device.peak_flops == 0.75 * published.peak_flops
    assert profile.device.link_bandwidth == 1.25 * published.link_bandwidth
    assert profile.device.memory_bandwidth == published.memory_bandwidth


@pytest.mark.parametrize("text", ["h100,speed=2", "h100,peak_flops=0", "h100,overlap=1.5"])
def test_only_known_constants_are_varied(text):
    with pytest.raises(ConfigError, match="peak_flops"):
        parse_profile(text)
