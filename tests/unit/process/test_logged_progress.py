"""A service's log says what it does to get its model."""

from structlog.testing import capture_logs

from tandem.process.logged_progress import LoggedProgress


def test_a_stage_is_told_once() -> None:
    progress = LoggedProgress()
    with capture_logs() as logs:
        for done in range(3):
            progress("downloading", done, 3)
        progress("checking", 0, None)
    assert [each["stage"] for each in logs] == ["downloading", "checking"]
