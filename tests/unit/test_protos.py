"""The wire contract's own rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from tandem.v1 import inference_pb2

ROOT = Path(__file__).parents[2]


def test_the_committed_stubs_are_what_protos_says() -> None:
    subprocess.run(["scripts/protos", "--check"], cwd=ROOT, check=True)


def test_buf_finds_nothing() -> None:
    buf = shutil.which("buf")
    if buf is None:
        pytest.skip(
            "buf is not installed, so its STANDARD rules were NOT checked: npm i @bufbuild/buf"
        )
    subprocess.run([buf, "lint"], cwd=ROOT, check=True)


@pytest.mark.parametrize("message", inference_pb2.DESCRIPTOR.message_types_by_name.values())
def test_numbers_of_what_clients_call_have_no_gaps(message: Descriptor) -> None:
    numbers = sorted(field.number for field in message.fields)
    assert numbers == [*range(1, len(numbers) + 1)], message.name
