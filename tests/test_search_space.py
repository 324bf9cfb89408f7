"""What a sweep tries, as it is written on the command line, and mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarl import sweep
from metarl.search_space import Choice, Range, read_space

CONFIG = str(Path(__file__).parent.parent / "configs" / "nav2d.yaml")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("inner.lr=0.05..0.5", Range(0.05, 0.5, log=False)),
        ("inner.lr=1e-3..1:log", Range(0.001, 1, log=True)),
        ("inner.steps=1..3", Range(1, 3, log=False)),
        ("a=-2..-1.5", Range(-2, -1.5, log=False)),
        ("inner.estimator=[lvc, dice]", Choice(("lvc", "dice"))),
        ("network.hidden_sizes=[[8], [8, 8]]", Choice(("[8]", "[8, 8]"))),
        ("outer.kfac_damping=[null, 0.1]", Choice(("null", "0.1"))),
        ("problem.env=[a..b:c, d]", Choice(("a..b:c", "d"))),
    ],
)
def test_ranges_and_choices(given, expected):
    key = given.partition("=")[0]
    assert read_space([given]) == {key: expected}


MISTAKES = {
    "no range": (["inner.lr=0.1"], [CONFIG], "write KEY=LOW..HIGH"),
    "no value": (["inner.lr"], [CONFIG], "write KEY=LOW..HIGH"),
    "one choice": (["inner.lr=[0.1]"], [CONFIG], "write KEY=LOW..HIGH"),
    "the wrong way round": (["inner.lr=1..0.1"], [CONFIG], "LOW < HIGH"),
    "words": (["inner.lr=low..high"], [CONFIG], "must be numbers"),
    "a logarithm of 0": (["inner.lr=0..1:log"], [CONFIG], ":log above 0"),
    "no YAML": (["inner.lr=[1, 2"], [CONFIG], "this is not YAML"),
    "twice": (["inner.lr=0..1", "inner.lr=[1, 2]"], [CONFIG], "stands twice"),
    "seeds": (["seed=1..3"], [CONFIG], "name them by --seeds"),
    "an unknown setting": (["inner.lrr=0.1..1"], [CONFIG], "did you mean inner.lr?"),
    "a last choice that cannot be": (
        ["inner.estimator=[lvc, dyce]"],
        [CONFIG],
        "inner.estimator is",
    ),
    "an end that cannot be": (["inner.lr=-1.0..1.0"], [CONFIG], "inner.lr is -1.0"),
    "nothing to go by": (
        ["inner.lr=0.1..1"],
        [CONFIG, "evaluation.every=0"],
        "evaluation.every is 0",
    ),
    "no file": (["inner.lr=0.1..1"], ["none.yaml"], "there is no such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_exit_code_2_and_leaves_nothing(tmp_path, capsys, mistake):
    tried, given, said = MISTAKES[mistake]
    chosen = [argument for each in tried for argument in ("--set", each)]
    assert sweep.main([*given, *chosen, "--run-dir", str(tmp_path / "runs")]) == 2
    answer = capsys.readouterr().err
    assert said in answer
    assert answer.count("\n") == 1
    assert not (tmp_path / "runs").exists()
