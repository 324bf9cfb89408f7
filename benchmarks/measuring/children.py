"""Iterations of training in a process of their own, so that no size sees what another left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import rounds, sizes, stages
from metarl.problems.rl import RLProblem
from metarl.schema import Config
from metarl.train import meta_iteration
from metarl.training import Training


def measure(
    preset: str, quick: bool, overrides: Sequence[str], count: int, warm_ups: int = 1
) -> dict[str, Any]:
    """Seconds, stages and memory of ``count`` iterations of a preset with other settings.

    Args:
        preset: ``paper`` or ``gym``.
        quick: a few short episodes.
        overrides: of settings.
        count: iterations measured.
        warm_ups: iterations before them.
    """
    order = json.dumps([preset, quick, list(overrides), count, warm_ups])
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "measuring.children", order],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_here(settings: Config, count: int, warm_ups: int) -> dict[str, Any]:
    taken, split = [], []
    with Training(settings) as training:
        assert isinstance(training.problem, RLProblem)
        before = stages.peak_mib()
        with stages.watched(training.problem) as watch:
            for _ in range(warm_ups + count):
                watch.take()
                taken.append(rounds.timed(lambda: meta_iteration(training) and None))
                split.append(watch.take())
        kept = min(training.problem.fitting, settings.outer.tasks)
    taken, split = taken[warm_ups:], split[warm_ups:]
    return {
        "seconds": rounds.median(rounds.walls(taken)),
        "cpu": rounds.median(rounds.cpus(taken)),
        "stages": {name: rounds.median([each[name] for each in split]) for name in stages.STAGES},
        "kept": kept,
        "peak MiB": stages.peak_mib(),
        "before MiB": before,
        "walls": rounds.walls(taken),
    }


if __name__ == "__main__":
    preset, quick, overrides, count, warm_ups = json.loads(sys.argv[1])
    settings = sizes.settings_of(preset, quick, overrides)
    print(json.dumps(_measure_here(settings, count, warm_ups)))
