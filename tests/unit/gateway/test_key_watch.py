"""Keys that are given and taken back while the gateway runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from gateway.access import Access, KeySources, read_access
from gateway.key_watch import KeyWatch
from tandem.core.errors import Unauthenticated
from tandem.process.api_keys import add_api_key, digest_of

OWN_KEY = "tandem-of-the-operator"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def first_key(path: Path) -> str:
    return add_api_key(path, "team-a")


@pytest.fixture
def watched(path: Path, first_key: str) -> tuple[Access, KeyWatch]:
    sources = KeySources(path, OWN_KEY)
    access = read_access(None, sources)
    watch = KeyWatch(sources, access)
    look_twice(watch)
    return access, watch


def look_twice(watch: KeyWatch) -> None:
    """What the file says counts then."""
    watch.look()
    watch.look()


def whose(access: Access, key: str) -> str | None:
    try:
        return access.tenant_of({"authorization": f"Bearer {key}"})
    except Unauthenticated:
        return None


def test_a_key_counts_once_it_is_added_and_no_more_once_it_is_removed(
    path: Path, first_key: str, watched: tuple[Access, KeyWatch]
) -> None:
    access, watch = watched
    second_key = add_api_key(path, "team-a")
    assert whose(access, second_key) is None
    look_twice(watch)
    assert [whose(access, key) for key in (first_key, second_key)] == ["team-a", "team-a"]
    path.write_text(f'{digest_of(second_key)} = "team-a"\n')
    look_twice(watch)
    assert [whose(access, key) for key in (first_key, second_key)] == [None, "team-a"]
    path.write_text("# nobody's\n")
    look_twice(watch)
    assert whose(access, second_key) is None and not access.is_open
    assert whose(access, OWN_KEY) == "default"


def test_what_changed_between_the_start_and_the_first_look_counts(path: Path) -> None:
    sources = KeySources(path)
    path.touch()
    access = read_access(None, sources)
    path.write_text(f'{digest_of("late")} = "default"\n')
    look_twice(KeyWatch(sources, access))
    assert whose(access, "late") == "default"


def test_what_is_still_being_written_does_not_count(
    path: Path, first_key: str, watched: tuple[Access, KeyWatch]
) -> None:
    access, watch = watched
    second_key = add_api_key(path, "team-a")
    whole = path.read_text()
    # Cut off where it is no error.
    for text in (whole.splitlines(keepends=True)[1], "", whole):
        path.write_text(text)
        watch.look()
        assert whose(access, first_key) == "team-a"
    watch.look()
    assert [whose(access, key) for key in (first_key, second_key)] == ["team-a", "team-a"]


def damage(path: Path) -> None:
    path.write_text("not = 'a key'")


def remove(path: Path) -> None:
    path.unlink()


def be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_text("\n")


@pytest.mark.parametrize("harm", [damage, remove, be_a_folder, empty])
def test_a_file_that_is_none_of_keys_changes_nothing_and_is_told_of_once(
    path: Path, first_key: str, watched: tuple[Access, KeyWatch], harm: Callable[[Path], None]
) -> None:
    access, watch = watched
    text = path.read_text()
    harm(path)
    with capture_logs() as logs:
        look_twice(watch)
        look_twice(watch)
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert str(path) in logs[0]["why"]
    assert whose(access, first_key) == "team-a"
    if path.is_dir():
        path.rmdir()
    path.write_text(text.replace("team-a", "default"))
    look_twice(watch)
    assert whose(access, first_key) == "default"


def test_a_change_that_looks_like_none_by_its_time_and_size_counts(
    path: Path, first_key: str, watched: tuple[Access, KeyWatch]
) -> None:
    access, watch = watched
    before = path.stat()
    path.write_text(path.read_text().replace(digest_of(first_key), digest_of("another")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    look_twice(watch)
    assert [whose(access, key) for key in (first_key, "another")] == [None, "team-a"]


def test_what_could_not_be_read_for_once_is_tried_again(
    path: Path, first_key: str, watched: tuple[Access, KeyWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    access, watch = watched
    path.write_text("# nobody's")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", Mock(side_effect=OSError(5, "Input/output error")))
        look_twice(watch)
    assert whose(access, first_key) == "team-a"
    look_twice(watch)
    assert whose(access, first_key) is None


def test_another_tenants_keys_wait_for_the_next_start(
    path: Path, first_key: str, watched: tuple[Access, KeyWatch]
) -> None:
    access, watch = watched
    strangers, second = add_api_key(path, "team-b"), add_api_key(path, "team-a")
    with capture_logs() as logs:
        look_twice(watch)
    assert logs[0]["tenants"] == ["team-b"] and logs[0]["log_level"] == "warning"
    assert [whose(access, key) for key in (strangers, second)] == [None, "team-a"]


async def test_without_a_file_there_is_nothing_to_watch() -> None:
    async with asyncio.timeout(10):
        await KeyWatch(KeySources(), Access()).run()


def test_a_file_that_hangs_holds_nobody_up(
    watched: tuple[Access, KeyWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop ends while it is read."""
    _, watch = watched
    was_asked, may_answer, has_answered = Event(), Event(), Event()

    def read_bytes(path: Path) -> bytes:
        was_asked.set()
        may_answer.wait(30)
        has_answered.set()
        return b""

    async def look_and_give_up() -> None:
        watching = asyncio.create_task(watch.run())
        assert await asyncio.to_thread(was_asked.wait, 10)
        watching.cancel()

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    asyncio.run(look_and_give_up())
    assert not has_answered.is_set()
    may_answer.set()
    assert has_answered.wait(10)
