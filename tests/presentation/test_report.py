"""The table and the JSON of an evaluation: their names, and what stands where there is no number."""

import json
from dataclasses import replace

import numpy as np
import pytest

from metarl.curves import Curve, aggregate
from metarl.presentation.published import Row
from metarl.presentation.report import Report, Seeds, table, to_json, write_aggregate

VALUES = np.array([[1.0, 3.0, 8.0], [2.0, np.nan, 4.0], [0.5, 0.5, 0.5]])


def report(measure, values=VALUES, **others):
    tasks = np.zeros((values.shape[1], 1))
    curve = Curve("X", measure, 7, 1, 2, (0.1,) * (len(values) - 1), tasks, values)
    return Report("run", curve, {}, **others)


def test_a_nan_is_printed_and_what_is_not_published_is_not():
    rows = (Row("MAML", (float("nan"), 0.25)),)
    header, cells = table(report("mse", published=rows))
    assert header == [
        *("step", "rate", "mean mse", "± 95 %", "median", "not finite", "MAML, Finn et al. 2017")
    ]
    # Deviations −3, −1, 4 of 4: variance 13, and 1.96 · sqrt(13 / 3) = 4.080.
    assert cells == [
        ["0", "", "4.000", "4.080", "3.000", "0", ""],
        ["1", "0.1", "nan", "nan", "nan", "1", "0.250"],
        ["2", "0.1", "0.500", "0.000", "0.500", "0", ""],
    ]


@pytest.mark.parametrize(
    ("measure", "names"),
    [
        ("return", {"standard_error", "episodes"}),
        ("accuracy", {"standard_error", "half_interval_95", "queries"}),
        ("mse", {"standard_error", "half_interval_95", "median", "not_finite", "queries"}),
    ],
)
def test_the_names_in_the_file_are_those_of_the_problem(measure, names):
    found = to_json(report(measure))
    title = "environment" if measure == "return" else "problem"
    always = {"run", title, "iteration", "seed", "protocol", "references", "published"}
    always |= {"settings", "versions", "steps", "tasks", "rates"}
    assert found.keys() == always | names | {f"mean_{measure}", f"per_task_{measure}"}
    assert found[f"mean_{measure}"] == [4.0, None, 0.5]
    assert found[title] == "X"


@pytest.mark.parametrize(("measure", "title"), [("return", "environment"), ("mse", "problem")])
def test_an_aggregate_names_its_tasks_as_its_runs_do(measure, title, tmp_path):
    curves = [report(measure, VALUES[:1]).curve] * 2
    found = Seeds((1, 2), curves, aggregate(curves, np.random.default_rng(0)))
    written = json.loads(write_aggregate(found, tmp_path).read_text())
    assert written[title] == "X"
    assert not {"environment", "problem"} - {title} & written.keys()


def test_a_reference_that_predicts_otherwise_says_so_in_the_table_and_in_the_file():
    own = replace(report("accuracy").curve, transductive=True)
    others = {"alike": own, "other": replace(own, transductive=False)}
    found = Report("run", own, {}, others)
    header, _ = table(found)
    assert header[2::2] == [
        *("mean accuracy", "alike", "other (2 queries of each class, not transductive)")
    ]
    written = to_json(found)
    assert written["transductive"] is True
    kept = {name: curve["transductive"] for name, curve in written["references"].items()}
    assert kept == {"alike": True, "other": False}
    assert {curve["queries"] for curve in written["references"].values()} == {2}
