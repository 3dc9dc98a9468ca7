import json
from pathlib import Path

import pytest

from tandem.artifacts.resolve import resolve
from tandem.artifacts.sampling_defaults import SamplingDefaults
from tandem.core.errors import ConfigError


def read(folder: Path, **fields: object) -> SamplingDefaults:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return SamplingDefaults.read(folder)


def test_the_numbers_count(tmp_path: Path) -> None:
    found = read(
        tmp_path, do_sample=False, temperature=0.6, top_k=20, top_p=None, max_new_tokens=512
    )
    assert found == SamplingDefaults(temperature=0.6, top_k=20, max_tokens=512)
    assert read(tmp_path, do_sample=False, eos_token_id=[2]) == SamplingDefaults()
    assert read(tmp_path, top_k=-1, temperature=0) == SamplingDefaults(temperature=0, top_k=0)


def test_a_model_without_the_file_has_none(tmp_path: Path) -> None:
    assert SamplingDefaults.read(tmp_path) == SamplingDefaults()
    assert SamplingDefaults.read(resolve("mock").path) == SamplingDefaults()


@pytest.mark.model
def test_the_default_model_has_none() -> None:
    assert SamplingDefaults.read(resolve("default").path) == SamplingDefaults()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("top_p", "x"),
        ("top_p", 0),
        ("top_k", True),
        ("max_new_tokens", 0),
        ("top_k", float("nan")),
    ],
)
def test_what_cannot_be_sampled_with_is_named(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field.replace("_new", "(_new)?")):
        read(tmp_path, **{field: value})
