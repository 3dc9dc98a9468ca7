"""`tandem bench goodput` around its sweep: the model first, and records that are whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.bench.records import Record
from tandem.bench.sweep import SweepSettings
from tandem.cli import goodput
from tandem.cli.bench_flags import GoodputOptions
from tandem.cli.goodput import run_goodput
from tandem.core.errors import Cancelled, ConfigError

OLD = "what was published\n"
End = BaseException | None


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were fetched, and `sweep`, in order."""
    done: list[str] = []
    monkeypatch.setattr(goodput, "resolve", lambda model, progress: done.append(model))
    return done


@pytest.fixture
def sweep_ends(monkeypatch: pytest.MonkeyPatch, happened: list[str]) -> Callable[[End], None]:
    """Let sweeps write a record, and end like this."""

    def ends(how: End) -> None:
        async def sweep(
            options: GoodputOptions, settings: SweepSettings, write: Callable[[Record], None]
        ) -> None:
            happened.append("sweep")
            write(settings.conditions)
            if how:
                raise how

        monkeypatch.setattr(goodput, "_sweep", sweep)

    ends(None)
    return ends


@pytest.mark.usefixtures("sweep_ends")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "cpu:0-1"}, ["default", "sweep"]),
        ({"device": "mock:h100", "model": "org/name"}, ["org/name", "sweep"]),
        ({"device": "mock:h100", "simulated": True}, ["sweep"]),
    ],
)
def test_the_model_is_here_before_an_arm_starts(
    tmp_path: Path, happened: list[str], options: dict, expected: list[str]
) -> None:
    run_goodput(GoodputOptions(out=tmp_path, **options), ())
    assert happened == expected


@pytest.mark.parametrize("how", [asyncio.CancelledError(), ConfigError("no such policy")])
def test_an_interrupted_sweep_leaves_the_record_alone(
    tmp_path: Path, sweep_ends: Callable[[End], None], how: BaseException
) -> None:
    record = tmp_path / "goodput.jsonl"
    record.write_text(OLD)
    sweep_ends(how)
    with pytest.raises((Cancelled, ConfigError)) as told:
        run_goodput(GoodputOptions(out=tmp_path, device="mock:h100"), ())
    assert record.read_text() == OLD
    kept = tmp_path / "goodput.partial.jsonl"
    assert kept.read_text().count("\n") == 1
    assert isinstance(told.value, ConfigError) or str(kept) in told.value.message


@pytest.mark.usefixtures("sweep_ends")
def test_a_whole_sweep_replaces_it(tmp_path: Path) -> None:
    record = tmp_path / "goodput.jsonl"
    record.write_text(OLD)
    run_goodput(GoodputOptions(out=tmp_path, device="mock:h100"), ("--num-blocks", "64"))
    assert '"up_flags":["--num-blocks","64"]' in record.read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["goodput.jsonl", "goodput.md"]


@pytest.mark.parametrize(
    ("arms", "up_flags"),
    [
        ("", ("--num-blocks", "64", "--api-key", "secret")),
        ("", ("--api-key=secret",)),
        ("4p4d+api-key=secret", ()),
    ],
)
def test_no_key_comes_into_the_record(
    tmp_path: Path, happened: list[str], arms: str, up_flags: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="TANDEM_API_KEY") as told:
        run_goodput(GoodputOptions(out=tmp_path, device="mock:h100", arms=arms), up_flags)
    assert "secret" not in told.value.message
    assert not happened
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_fetched(
    tmp_path: Path, happened: list[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        run_goodput(GoodputOptions(out=tmp_path / "file" / "out", device="mock:h100"), ())
    assert not happened


@pytest.mark.usefixtures("happened")
def test_logs_that_are_a_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        run_goodput(GoodputOptions(out=tmp_path, device="mock:h100"), ())


@pytest.mark.usefixtures("sweep_ends")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "name", ["measured_s", "warm_up_s", "length_scale", "tolerance", "start_timeout_s"]
)
def test_what_is_no_number_is_refused(
    tmp_path: Path, happened: list[str], name: str, value: float
) -> None:
    with pytest.raises(ConfigError, match="is a number"):
        run_goodput(GoodputOptions(out=tmp_path, device="mock:h100", **{name: value}), ())
    assert not happened
