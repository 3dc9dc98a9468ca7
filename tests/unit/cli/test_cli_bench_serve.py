"""`tandem bench serve` loses no run to a file that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from load_reports import SPEC, report, row
from typer.main import get_command

from tandem.bench.load_options import LoadOptions
from tandem.bench.report.comparison import load_differences
from tandem.bench.report.load_report import LoadReport, read_report
from tandem.cli import bench_serve
from tandem.cli.app import commands
from tandem.cli.bench_flags import ServeOptions
from tandem.cli.bench_serve import plan_of, run_serve
from tandem.core.errors import ConfigError

Meanwhile = Callable[[], object]
# What older reports do not say.
SAID = {"trace": "", "token_ids": "", "tokenizer": "", "timeout_s": 600.0}


@pytest.fixture
def while_loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Meanwhile], None]:
    """Let a load take no time, in which something happens."""

    def happens(meanwhile: Meanwhile) -> None:
        async def run(*_: object) -> LoadReport:
            meanwhile()
            return report([row(0.0)])

        monkeypatch.setattr(bench_serve, "_run", run)

    return happens


@pytest.mark.parametrize("flag", ["out", "html"])
def test_a_file_that_cannot_be_written_is_told_before_the_load(
    tmp_path: Path, while_loaded: Callable[[Meanwhile], None], flag: str
) -> None:
    began: list[bool] = []
    while_loaded(lambda: began.append(True))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        run_serve(ServeOptions(**{flag: tmp_path / "file" / "report"}), LoadOptions())
    assert not began


def test_to_look_whether_it_can_changes_nothing(
    tmp_path: Path, while_loaded: Callable[[Meanwhile], None]
) -> None:
    old = tmp_path / "old.json"
    old.write_text("an older report")
    seen: dict[str, str] = {}
    while_loaded(lambda: seen.update({each.name: each.read_text() for each in tmp_path.iterdir()}))
    run_serve(ServeOptions(out=old, html=tmp_path / "new.html"), LoadOptions())
    assert seen == {"old.json": "an older report"}
    assert (tmp_path / "new.html").exists()


def test_what_came_of_it_is_kept_though_nobody_reads_what_is_printed(
    tmp_path: Path,
    while_loaded: Callable[[Meanwhile], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object) -> None:
        # As rich does when `head` has gone.
        raise SystemExit(1)

    while_loaded(lambda: None)
    monkeypatch.setattr(bench_serve, "print_report", gone)
    out, html = tmp_path / "report.json", tmp_path / "page.html"
    with pytest.raises(SystemExit):
        run_serve(ServeOptions(out=out, html=html), LoadOptions())
    assert read_report(out).requests
    assert html.exists()


def test_what_came_of_it_is_printed_though_it_cannot_be_written(
    tmp_path: Path,
    while_loaded: Callable[[Meanwhile], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report.json"
    # As a disk that fills up meanwhile.
    while_loaded(out.mkdir)
    with pytest.raises(ConfigError, match="cannot write"):
        run_serve(ServeOptions(out=out), LoadOptions())
    assert "output tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize(("measured", "fails"), [(True, True), (False, False)])
def test_only_what_is_measured_makes_it_fail(
    monkeypatch: pytest.MonkeyPatch, measured: bool, fails: bool
) -> None:
    async def run(*_: object) -> LoadReport:
        return report([row(0.0), row(1.0, None, problem="status 503", measured=measured)])

    monkeypatch.setattr(bench_serve, "_run", run)
    with pytest.raises(SystemExit) if fails else nullcontext():
        run_serve(ServeOptions(), LoadOptions())


def test_what_makes_it_another_load_is_in_its_spec(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "trace.jsonl", tmp_path / "b" / "trace.jsonl"
    for length, file in enumerate((one, other), 5):
        file.parent.mkdir()
        file.write_text(f'{{"input_length": {length}, "output_length": 3}}\n')
        (file.parent / "tokenizer.json").write_text(str(length))

    def differences(changed: ServeOptions, file: Path = one) -> list[str]:
        loads = (LoadOptions(trace=str(each)) for each in (one, file))
        first, second = map(plan_of, (ServeOptions(), changed), loads)
        return [each.partition(":")[0] for each in load_differences(first.spec, second.spec)]

    assert differences(ServeOptions()) == []
    assert differences(ServeOptions(), other) == ["--trace"]
    assert differences(ServeOptions(token_ids="5:9")) == ["--token-ids"]
    assert differences(ServeOptions(timeout_s=5.0)) == ["--timeout"]
    assert differences(ServeOptions(tokenizer=str(other.parent))) == ["--tokenizer"]


def test_what_differs_is_named_by_flags_that_there_are() -> None:
    other = replace(SPEC, **{each.name: "another" for each in fields(SPEC)})
    named = {each.partition(":")[0] for each in load_differences(other, replace(SPEC, **SAID))}
    serve: Any = get_command(commands).commands["bench"].commands["serve"]  # type: ignore[attr-defined]
    flags = {flag for each in serve.params for flag in each.opts}
    assert named - flags == {"prompts", "arrivals"}
    assert len(named) == len(fields(SPEC))


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_a_time(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="--timeout is a number"):
        run_serve(ServeOptions(timeout_s=timeout_s), LoadOptions())
