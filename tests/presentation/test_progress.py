"""What a person sees of work that can be counted."""

import io

import pytest

from metarl.presentation.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LINES = "0 of 4, 0:00\n2 of 4, 0:12, left 0:12\n4 of 4, 0:18\n"
LINE = "0 of 4, 0:00\r1 of 4, 0:06, left 0:18\r2 of 4, 0:12, left 0:12\r4 of 4, 0:18           \r"


@pytest.mark.parametrize(
    ("stream", "shown"), [(io.StringIO(), LINES), (Terminal(), f"{LINE}4 of 4, 0:18\n")]
)
def test_progress_is_a_line_now_and_then_or_one_that_is_drawn_anew(stream, shown):
    seconds = [0.0]
    with Progress("x", 4, "pictures", stream=stream, clock=lambda: seconds[0]) as progress:
        for count in (1, 1, 2):
            seconds[0] += 6.0
            progress.advance(count)
    assert stream.getvalue().replace("x: ", "").replace(" pictures", "") == shown


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        (io.StringIO(), "x: 3 of 4 things, 0:12, left 0:04\nx: 4 of 4 things, 0:12\n"),
        (Terminal(), "x: 3 of 4 things, 0:12, left 0:04\rx: 4 of 4 things, 0:12           \n"),
    ],
)
def test_what_is_done_at_once_is_not_shown(stream, shown):
    seconds = [0.0]
    with Progress("x", 4, "things", True, stream, lambda: seconds[0]) as progress:
        progress.advance(2)
    assert not stream.getvalue()
    with Progress("x", 4, "things", True, stream, lambda: seconds[0]) as progress:
        for wait, count in ((0.01, 2), (11.99, 1), (0.01, 1)):
            seconds[0] += wait
            progress.advance(count)
    assert stream.getvalue() == shown
