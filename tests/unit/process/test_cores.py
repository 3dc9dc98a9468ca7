import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.device import CpuDevice, parse_device
from tandem.process.cores import cores_of, split_cores


@pytest.mark.parametrize(
    ("cores", "num_workers", "expected"),
    [
        ([0, 1], 2, [(0,), (1,)]),
        ([0, 1, 2, 3, 4], 2, [(0, 1, 2), (3, 4)]),
        # In the order of the physical cores, of which each has two threads.
        ([0, 4, 1, 5, 2, 6, 3, 7], 2, [(0, 1, 4, 5), (2, 3, 6, 7)]),
        ([3, 5], 3, [(3,), (5,), (3,)]),
        ([7], 1, [(7,)]),
    ],
)
def test_cores_are_shared_out(
    cores: list[int], num_workers: int, expected: list[tuple[int, ...]]
) -> None:
    assert split_cores(cores, num_workers) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", [0, 4, 1, 5]),
        ("cpu:4-5", [4, 5]),
        ("cpu:1/2", [0, 4]),
        ("cpu:2/2", [1, 5]),
        ("cpu:5/8", [0]),
    ],
)
def test_a_device_says_which_of_the_cores_are_its_own(device: str, expected: list[int]) -> None:
    cpu = parse_device(device)
    assert isinstance(cpu, CpuDevice)
    assert cores_of(cpu, [0, 4, 1, 5]) == expected


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 40))
def test_every_worker_computes_and_none_has_two_cores_more(
    cores: set[int], num_workers: int
) -> None:
    shares = split_cores(sorted(cores), num_workers)
    assert len(shares) == num_workers
    sizes = [len(share) for share in shares]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if len(cores) >= num_workers:
        assert sorted(core for share in shares for core in share) == sorted(cores)
