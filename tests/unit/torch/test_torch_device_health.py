"""A device that is lost is told from one that has only failed."""

from __future__ import annotations

import pytest
import torch

from tandem.engine.torch.device_health import is_lost


def test_a_cpu_is_never_lost() -> None:
    assert not is_lost(torch.device("cpu"))


@pytest.mark.parametrize("sticky", [True, False])
def test_a_gpu_is_lost_if_its_error_stays(monkeypatch: pytest.MonkeyPatch, sticky: bool) -> None:
    def synchronize(device: torch.device) -> None:
        if sticky:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert is_lost(torch.device("cuda", 0)) is sticky
