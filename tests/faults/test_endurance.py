"""Two thousand iterations leave nothing behind in the process."""

from __future__ import annotations

import driver
import endurance
import pytest

ITERATIONS = 2000


@pytest.mark.timeout(3600)
def test_memory_descriptors_and_threads_stay_flat(tmp_path, capsys):
    """With evaluations, figures and checkpoints on the way."""
    settings = [f"iterations={ITERATIONS}", "threads=2", "evaluation.every=100"]
    arguments = [driver.CONFIG, *driver.TINY, *settings, "run.checkpoint_every=20"]
    with capsys.disabled():
        print()
        endurance.assert_flat(endurance.endure(tmp_path, arguments, ITERATIONS, 0.0))


def test_a_leak_is_seen():
    flat = [endurance.Sample(i, i, i, 1000 + (i % 2), 20, 3) for i in range(20)]
    endurance.assert_flat(flat)
    leaks = {
        "memory": [
            s._replace(memory=2 * endurance.GROWTH_KIB * i // 20) for i, s in enumerate(flat)
        ],
        "descriptors": [s._replace(descriptors=20 + i // 4) for i, s in enumerate(flat)],
        "threads": [s._replace(threads=3 + i // 10) for i, s in enumerate(flat)],
    }
    for samples in leaks.values():
        with pytest.raises(AssertionError):
            endurance.assert_flat(samples)
