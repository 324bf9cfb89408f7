"""The display: plain lines that parse, their thinning and the time to go on an injected clock."""

import io
import math
import re

import pytest

from metarl.presentation import display
from metarl.presentation.display import Display, Pace, read
from metarl.presentation.plaintext import duration, number, sparklines

METRICS = {
    "return/pre": -152.34,
    "return/post": -98.1,
    "return/gain": 54.24,
    "outer/kl": 0.0087,
    "outer/accepted": 1.0,
    "time/collect": 3.0,
    "time/outer": 1.0,
    "time/env_steps_per_second": 41_234.4,
}
LINE = re.compile(
    r" *(\d+)/(\d+)  return (\S+) -> (\S+)  gain (\S+)  kl (\S+)  step (\w+)  steps/s (\S+)"
    r"  sampling (\d+)%  update (\d+)%  elapsed (\S+)  left (\S+)"
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.TextIOWrapper):
    """A terminal of 100 columns in memory."""

    def __init__(self, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding, newline="")

    def isatty(self):
        return True

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def terminal(monkeypatch):
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal


def run(stream, total, seconds=1.0, start=0, metrics=METRICS, until=None):
    clock = Clock()
    with Display(total, start, stream, clock) as shown:
        shown.note("on cpu")
        for done in range(start + 1, (until or total) + 1):
            clock.now += seconds
            shown.update(done, metrics)
    return stream


def lines(*args, **kwargs):
    text = run(io.StringIO(), *args, **kwargs).getvalue()
    note, *rest = text.splitlines()
    assert note == "on cpu"
    return rest


def test_a_plain_line_says_what_was_measured():
    (line,) = lines(1)
    assert LINE.fullmatch(line).groups() == (
        *("1", "1", "-152.3", "-98.1", "+54.2", "0.0087", "accepted", "41,234", "75", "25"),
        *("0:01", "0:00"),
    )


@pytest.mark.parametrize(("seconds", "step"), [(1.0, 10), (3.0, 4), (20.0, 1)])
def test_lines_thin_out_by_time_after_the_first_ten(seconds, step):
    shown = [int(LINE.fullmatch(line)[1]) for line in lines(50, seconds)]
    expected = [*range(1, 11), *range(10 + step, 51, step)]
    assert shown == sorted({*expected, 50})


def test_the_last_iteration_before_an_interruption_is_shown():
    shown = [int(LINE.fullmatch(line)[1]) for line in lines(50, 0.1, until=17)]
    assert shown == [*range(1, 11), 17]


def test_every_character_of_a_plain_line_is_ascii():
    assert all(line.isascii() for line in lines(12))


def test_a_note_survives_a_stream_that_cannot_write_it():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    with Display(1, stream=stream) as shown:
        shown.note("α → β")
    assert stream.buffer.getvalue().decode().strip() == "? ? ?"


def test_supervised_metrics_and_missing_ones():
    metrics = {"loss/pre": 2.5, "loss/post": 0.5, "time/collect": 0.0, "time/outer": 0.0}
    (line,) = lines(1, metrics=metrics)
    assert line == "1/1  loss 2.50 -> 0.5  gain +2.00  elapsed 0:01  left 0:00"
    (line,) = lines(1, metrics={"accuracy/post": 0.75})
    assert line == "1/1  accuracy 0.75  elapsed 0:01  left 0:00"
    (line,) = lines(1, metrics={})
    assert line == "1/1  elapsed 0:01  left 0:00"


def test_accuracy_is_shown_before_loss():
    shown = read({"loss/pre": 2.0, "loss/post": 1.0, "accuracy/pre": 0.2, "accuracy/post": 0.9})
    assert (shown.name, shown.before, shown.after) == ("accuracy", 0.2, 0.9)
    assert shown.gain == pytest.approx(0.7)


def test_time_to_go_is_what_is_left_at_the_pace_so_far():
    clock = Clock()
    pace = Pace(total=500, start=100, clock=clock)
    assert pace.remaining() is None
    for done in range(101, 121):
        clock.now += 3.0
        pace.tick(done)
    assert pace.elapsed() == 60.0
    assert pace.remaining() == pytest.approx(380 * 3.0)


def test_time_to_go_follows_a_changed_pace_after_fifty_iterations():
    clock = Clock()
    pace = Pace(total=1000, start=0, clock=clock)
    for done in range(1, 201):
        clock.now += 1.0 if done <= 150 else 7.0
        pace.tick(done)
    assert pace.remaining() == pytest.approx(800 * 7.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0:00"),
        (62, "1:02"),
        (3599.6, "1:00:00"),
        (11045, "3:04:05"),
        (183845, "2d 03:04"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(-152.34, "-152.3"), (-3.333, "-3.33"), (0.5, "0.5"), (0.01234, "0.0123"), (0, "0")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_sparklines_share_one_scale():
    assert sparklines([0, 7], [3, 4], blocks="01234567") == ["07", "34"]
    assert sparklines([1.0, math.nan, 1.0], blocks="ab") == ["a a"]
    assert sparklines([], [math.nan]) == ["", " "]


def test_a_terminal_gets_a_panel_and_the_notes_stay(terminal):
    text = run(terminal(), 12).text()
    assert "iteration 12/12" in text
    assert "on cpu" in text
    for part in ("return before", "-152.3", "after adaptation", "-98.1", "+54.2", "accepted"):
        assert part in text
    assert "41,234" in text
    assert "\x1b[?25h" in text, "the cursor must be given back"


def test_a_terminal_without_colour_gets_none(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = run(terminal(), 3).text()
    colours = re.findall(r"\x1b\[(\d+(?:;\d+)*)m", text)
    assert not {code for group in colours for code in group.split(";")} - {"0", "1", "2"}


def test_an_ascii_terminal_gets_ascii(terminal):
    text = run(terminal("ascii"), 12).text()
    assert "iteration 12/12" in text
    assert text.isascii()
    assert "?" not in text.replace("\x1b[?25", "")


def test_a_dumb_terminal_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    text = run(terminal(), 2).text()
    assert "\x1b" not in text
    assert LINE.fullmatch(text.splitlines()[1])


def test_rich_is_not_loaded_without_a_terminal():
    import subprocess
    import sys

    code = "import sys; from metarl.presentation.display import Display\nwith Display(1) as d: d.note('x')\n"
    code += "assert not [m for m in sys.modules if m.partition('.')[0] in ('rich', 'torch')]"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_trend_keeps_the_newest(terminal):
    panel = Display(100, stream=terminal())._view
    for value in range(40):
        panel.update({"return/pre": value, "return/post": value})
    assert [each.after for each in panel._trend] == list(range(40 - display.TREND, 40))
