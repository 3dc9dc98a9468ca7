"""Tables in a terminal that is too narrow for them."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from tandem.cli.tables import print_rows

ROWS = [
    {"worker": "prefill-0", "address": "10.0.0.11:50051", "device": "cuda:0", "pid": "4194304"},
    {"worker": "[/red]", "address": "10.0.0.12:50051", "device": "cuda:1", "pid": "7"},
]


def printed(width: int) -> list[str]:
    output = StringIO()
    console = Console(file=output, width=width)
    print_rows(console, ROWS, numbers=["pid"], less_needed=["pid", "device"])
    return [each.rstrip() for each in output.getvalue().splitlines()]


def test_columns_are_left_out_as_far_as_need_be() -> None:
    whole = [
        "worker     address          device      pid",
        "prefill-0  10.0.0.11:50051  cuda:0  4194304",
        "[/red]     10.0.0.12:50051  cuda:1        7",
    ]
    assert printed(len(whole[1])) == whole
    assert printed(len(whole[1]) - 1) == [each[:34].rstrip() for each in whole]
    assert printed(33) == [each[:26].rstrip() for each in whole]


def test_what_is_too_wide_even_then_is_broken_and_not_cut_off() -> None:
    said = "".join(printed(20)).replace(" ", "")
    assert len(said) == sum(len(row["worker"] + row["address"]) for row in ROWS) + len(
        "workeraddress"
    )
