"""Signals, pipes, terminals, folders and two processes at once, with the command as a user starts it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import driver
import folders
import pytest

from metarl import runs

ENDLESS = "iterations=100000"
COMMAND = [sys.executable, "-m", "metarl.train"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(driver.ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def wait_for_line(out: Path, start: str) -> None:
    """Until the output has a line that starts so, blanks aside."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(line.strip().startswith(start) for line in out.read_text().splitlines()):
            return
        time.sleep(0.005)
    raise AssertionError(f"no line {start!r} in {out.read_text()!r}")


def let_work(pid: int, seconds: float) -> None:
    """Until a process has worked for so long, however busy the machine is."""
    enough = driver.cpu_seconds(pid) + seconds
    while driver.cpu_seconds(pid) < enough:
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_any_time_leaves_a_run_that_goes_on(server, tmp_path, number, code):
    """Before the first iteration, and within the fourth."""
    for start in ("envs:Navigation2D-v0", "3/"):
        directory = tmp_path / start[:1]
        pid = server.start(*driver.new(directory, ENDLESS))
        wait_for_line(server.scratch / "out", start)
        os.kill(pid, number)
        ended = server.wait()
        assert (ended.code, ended.err) == (code, ""), ended
        run = runs.find_run("latest", directory)
        done = runs.find_checkpoint(run)[0].iteration
        assert done == len(runs.read_metrics(run)) >= 1
        assert f"continue with --resume {run}" in ended.out
        assert server.run(f"iterations={done + 1}", "--resume", str(run)).code == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_second_interrupt_ends_it_at_once_and_leaves_a_checkpoint(server, tmp_path, threads):
    """Within an iteration of minutes: the first waits for its end, the second does not, nor for threads."""
    short = ["problem.env=support:Target-v0", "iterations=2"]
    assert server.run(*driver.new(tmp_path, *short)).code == 0
    run = runs.find_run("latest", tmp_path)
    long = ["iterations=4", "problem.horizon=2000000", f"threads={threads}"]
    pid = server.start(*long, "--resume", str(run))
    wait_for_line(server.scratch / "out", "support:")
    let_work(pid, 0.5)
    os.kill(pid, signal.SIGINT)
    let_work(pid, 0.2)  # else two signals that wait are one
    before = driver.cpu_seconds(pid)
    os.kill(pid, signal.SIGINT)
    ended = server.wait()
    assert ended.cpu - before < 10, "the rest of the wave takes a minute"
    assert ended.code == 130
    assert re.fullmatch(r"metarl: interrupted( in environment Target-v0, .*)?\n", ended.err)
    assert runs.find_checkpoint(run)[0].iteration == 2
    ended = server.run("iterations=4", "problem.horizon=4", "--resume", str(run))
    assert ended.code == 0, ended


HANG = """
import gymnasium, numpy, pathlib, time

class Hang(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, deaf=False):
        self.deaf = deaf

    def set_task(self, task):
        pass

    def sample_tasks(self, count, rng):
        return numpy.zeros((count, 1))

    def reset(self, seed=None, options=None):
        return numpy.zeros(1), {}

    def step(self, action):
        pathlib.Path("hangs").touch()
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                if not self.deaf:
                    raise

gymnasium.register("Hang-v0", entry_point=Hang, disable_env_checker=True)
"""


@pytest.mark.parametrize("case", ["one thread", "two threads", "deaf"])
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_step_that_never_returns_is_ended_by_a_second_signal_and_named(
    server, tmp_path, number, code, said, case
):
    """Though another thread is in it, which nobody can end, and though it holds on to what should end it."""
    (tmp_path / "hang.py").write_text(HANG)
    settings = ["problem.env=hang:Hang-v0", f"threads={1 + (case == 'two threads')}"]
    settings += ["problem.env_kwargs.deaf=true"] * (case == "deaf")
    started = driver.new(tmp_path, *settings)
    pid = server.start(*started, hook=("import_from", str(tmp_path)), cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "hangs").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, number)
    time.sleep(0.7)  # else it may be one SIGTERM that was sent along
    os.kill(pid, number)
    ended = server.wait()
    said = f"metarl: {said} in environment Hang-v0, slot 0, step 0\n"
    assert (ended.code, ended.err) == (code, said)


def test_a_reader_that_leaves_ends_the_run_quietly_and_it_can_go_on(server, tmp_path):
    with subprocess.Popen(
        [*COMMAND, *driver.new(tmp_path, ENDLESS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        for _ in range(3):  # what it is, and two iterations: the first has its checkpoint by then
            child.stdout.readline()
        child.stdout.close()
        said = child.stderr.read()
    assert (child.returncode, said) == (141, b"")
    run = runs.find_run("latest", tmp_path)
    done = runs.find_checkpoint(run)[0].iteration
    assert server.run(f"iterations={done + 1}", "--resume", str(run)).code == 0


def test_an_output_that_is_full_is_named_and_the_run_can_go_on(server, tmp_path):
    with Path("/dev/full").open("w") as full:
        for arguments in (driver.new(tmp_path, "iterations=1"), [driver.CONFIG, "--print-config"]):
            command = [*COMMAND, *arguments]
            done = subprocess.run(
                command, check=False, stdout=full, stderr=subprocess.PIPE, text=True
            )
            driver.assert_one_sentence(
                driver.Ended(done.returncode, "", done.stderr),
                "standard output cannot be written (No space left on device)",
            )
    run = runs.find_run("latest", tmp_path)
    assert server.run("--resume", str(run)).code == 0


def test_an_output_that_is_closed_does_not_matter_and_no_file_takes_its_place(tmp_path):
    """As a service may start it: without input, output and errors."""
    closed = 'exec "$0" "$@" <&- >&- 2>&-'
    settings = driver.new(tmp_path, "iterations=2", "evaluation.every=2")
    subprocess.run(["sh", "-c", closed, *COMMAND, *settings], check=True)
    assert len(folders.record(runs.find_run("latest", tmp_path))) == 2


def on_a_terminal(arguments: list[str], **environment: str) -> str:
    """What a command writes to a terminal of its own."""
    primary, secondary = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    )
    os.close(secondary)
    parts = []
    while True:
        try:
            part = os.read(primary, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(primary)
    assert child.wait(timeout=60) == 0
    return b"".join(parts).decode()


def test_a_terminal_without_colours_or_beyond_ascii_or_none(tmp_path):
    """NO_COLOR; an encoding of ASCII alone; TERM=dumb, which gets plain lines like a pipe."""
    arguments = driver.new(tmp_path, "iterations=2")
    text = on_a_terminal(arguments, NO_COLOR="1", PYTHONIOENCODING="ascii")
    colours = {
        code for group in re.findall(r"\x1b\[(\d+(?:;\d+)*)m", text) for code in group.split(";")
    }
    assert colours <= {"0", "1", "2"}
    assert text.isascii()
    assert "iteration 2/2" in text
    text = on_a_terminal(arguments, TERM="dumb", LC_ALL="C")
    assert "\x1b" not in text
    assert re.search(r"^2/2  return ", text, flags=re.MULTILINE)


def test_no_home_no_terminal_and_ascii(tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "TERM", "LANG")
    }
    done = subprocess.run(
        [*COMMAND, *driver.new(tmp_path, "iterations=2", "evaluation.every=2")],
        env=environment | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert done.stdout.isascii()
    assert done.stdout.decode().splitlines()[-1].startswith("done;")
    assert done.stderr == b""


STOPPED_CLOCK = """
import sys
from datetime import datetime
from metarl import runs, train

class Stopped(datetime):
    @classmethod
    def now(cls, tz):
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

runs.datetime = Stopped
sys.exit(train.main())
"""


def test_two_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path):
    """At once, and in a second that does not end."""
    command = [sys.executable, "-c", STOPPED_CLOCK, *driver.new(tmp_path, "iterations=1")]
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait(timeout=300) for child in children] == [0, 0]
    first, second = sorted(tmp_path.glob("*/*"))
    assert (first.name, second.name) == ("20260102T030405Z-s1", "20260102T030405Z-s1-2")
    driver.assert_same_run(first, second)


def test_a_run_that_may_not_be_read_or_has_an_impossible_name_is_named(server, tmp_path):
    (tmp_path / "hidden").mkdir(mode=0o000)
    for name in (str(tmp_path / "hidden" / "run"), "x" * 300):
        ended = server.run("--resume", name, hook=("obey_permissions",), cwd=tmp_path)
        driver.assert_one_sentence(ended, name)
    ended = server.run("a=" + "x" * 300, "--resume", "latest", cwd=tmp_path)
    driver.assert_one_sentence(ended, "runs: holds no run")


def test_a_second_process_is_refused_while_one_writes_the_run(server, tmp_path):
    pid = server.start(*driver.new(tmp_path, ENDLESS))
    wait_for_line(server.scratch / "out", "1/")
    run = runs.find_run("latest", tmp_path)
    other = subprocess.run(
        [*COMMAND, "--resume", str(run)], capture_output=True, text=True, check=False
    )
    driver.assert_one_sentence(
        driver.Ended(other.returncode, other.stdout, other.stderr),
        *(str(run), "another process writes this run"),
    )
    os.kill(pid, signal.SIGTERM)
    assert server.wait().code == 143
    assert json.loads((run / "system.json").read_text()).get("resumed") is None
    assert [line["iteration"] for line in folders.record(run)] == list(
        range(runs.find_checkpoint(run)[0].iteration)
    )
