"""What workers compute in when nobody says so."""

from __future__ import annotations

import pytest
import torch

from tandem.core.errors import ConfigError
from tandem.engine.torch.placement import resolve_dtype, take_threads

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has_instructions", "has_kernels", "expected"),
    [
        (False, False, torch.float32),
        (False, True, torch.bfloat16),
        (True, False, torch.bfloat16),
        (True, True, torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_unless_it_is_slow(
    monkeypatch: pytest.MonkeyPatch,
    has_instructions: bool,
    has_kernels: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": has_instructions}
    )
    assert resolve_dtype("auto", CPU, has_kernels) is expected
    assert resolve_dtype("float32", CPU, has_kernels) is torch.float32


@pytest.mark.parametrize(("capability", "has_it"), [((7, 5), False), ((8, 0), True)])
def test_gpus_before_ampere_have_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_it: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    gpu = torch.device("cuda", 0)
    assert resolve_dtype("auto", gpu, False) is (torch.bfloat16 if has_it else torch.float32)
    if has_it:
        assert resolve_dtype("bfloat16", gpu, False) is torch.bfloat16
        return
    with pytest.raises(ConfigError, match="Tesla T4 has no bfloat16"):
        resolve_dtype("bfloat16", gpu, False)


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        ((), None, 3),
        ((0, 1), None, 2),
        ((0, 1), 0.5, 1),
        ((0, 1), 1.5, 2),
        ((0, 1), 8.0, 2),
        ((), 0.5, 1),
        ((), 2.0, 2),
    ],
)
def test_named_cores_are_threads_and_a_quota_has_no_more(
    cores: tuple[int, ...], quota: float | None, expected: int
) -> None:
    torch.set_num_threads(3)
    take_threads(cores, quota)
    assert torch.get_num_threads() == expected


def test_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="write float32, bfloat16 or auto"):
        resolve_dtype("int8", CPU, True)
