"""A worker in a container counts on the container's memory, not on the machine's."""

from pathlib import Path

import pytest

from tandem.worker.memory import machine_memory_bytes

MACHINE = machine_memory_bytes(())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1048576\n", 2**20), ("max\n", MACHINE), ("9223372036854771712\n", MACHINE)],
)
def test_the_lower_of_machine_and_limit_counts(tmp_path: Path, text: str, expected: int) -> None:
    (tmp_path / "memory.max").write_text(text)
    files = (tmp_path / "memory.max", tmp_path / "there-is-none")
    assert machine_memory_bytes(files) == expected
