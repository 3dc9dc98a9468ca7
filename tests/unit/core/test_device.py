import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.device import (
    CpuDevice,
    CudaDevice,
    MockDevice,
    format_cores,
    parse_cores,
    parse_device,
)
from tandem.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", CpuDevice()),
        ("cpu:0", CpuDevice((0,))),
        ("cpu:0-3", CpuDevice((0, 1, 2, 3))),
        ("cpu:0-1,4", CpuDevice((0, 1, 4))),
        ("cpu:2/3", CpuDevice(part=(2, 3))),
        ("cuda:1", CudaDevice(1)),
        ("mock:h100", MockDevice("h100")),
        ("mock:h100x10", MockDevice("h100x10")),
    ],
)
def test_parse_and_write(text, device):
    assert parse_device(text) == device
    assert str(device) == text


def test_shorthands():
    assert parse_device("cuda") == CudaDevice(0)
    assert parse_device("cpu:4,1-2,2") == CpuDevice((1, 2, 4))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpu",
        "mock",
        "mock:",
        "cpu:x",
        "cpu:3-1",
        "cpu:-1",
        "cpu:0-",
        "cpu:0,",
        "cpu:0/2",
        "cpu:3/2",
        "cpu:1/",
        "cpu:1/0",
        "cuda:-1",
        "CPU",
    ],
)
def test_unknown_devices_are_refused_by_name(text):
    with pytest.raises(ConfigError, match=f"unknown device '{text}'") as caught:
        parse_device(text)
    assert caught.value.param == "device"


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cores_survive_writing_and_parsing(cores):
    expected = tuple(sorted(cores))
    assert parse_cores(format_cores(expected)) == expected
