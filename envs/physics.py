"""MuJoCo made ready for sampling: the model, the clock, the log, the warning counters."""

import copy
import ctypes
import functools
import logging
import threading
import warnings
from pathlib import Path

import gymnasium.envs.mujoco
import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.errors import SimulationError

logger = logging.getLogger("envs")

ASSETS = Path(gymnasium.envs.mujoco.__file__).parent / "assets"

# Warnings after which MuJoCo has reset the simulation, or has ignored the controls.
_BROKEN = {
    int(mujoco.mjtWarning.mjWARN_BADQPOS): "qpos (joint positions)",
    int(mujoco.mjtWarning.mjWARN_BADQVEL): "qvel (joint velocities)",
    int(mujoco.mjtWarning.mjWARN_BADQACC): "qacc (joint accelerations)",
    int(mujoco.mjtWarning.mjWARN_BADCTRL): "ctrl (controls)",
}
_FIRST, _LAST = min(_BROKEN), max(_BROKEN) + 1
_compile_lock = threading.Lock()


def route_warnings() -> None:
    """Send MuJoCo's warnings to the logger `envs` instead of a file in the working directory.

    A handler that the user has installed is left in place.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda text: logger.warning("MuJoCo: %s", text))


def load_model(file: str) -> mujoco.MjModel:
    """Return a new copy of one of Gymnasium's MuJoCo models, made cheaper to step.

    Args:
        file: name of the model's XML file among Gymnasium's assets.

    Returns:
        A model whose trajectories equal the original's to the last bit: contacts come from an
        explicit list of geom pairs instead of the broad phase, and constraint islands are not
        searched for.
    """
    route_warnings()
    with _compile_lock:
        return copy.copy(_compile(file))


@functools.cache
def _compile(file: str) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(ASSETS / file))
    with warnings.catch_warnings(record=True) as caught:  # settotalmass is deprecated
        model = spec.compile()
        _use_explicit_pairs(spec, model)
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
        model = spec.compile()
    for text in {str(warning.message) for warning in caught}:
        logger.debug("MuJoCo, compiling %s: %s", file, text)
    return model


def _use_explicit_pairs(spec: mujoco.MjSpec, model: mujoco.MjModel) -> None:
    """List the geom pairs that can touch, with the parameters the engine would derive."""
    if model.geom_priority.any() or model.geom_margin.any() or model.geom_gap.any():
        raise ValueError("explicit pairs are only derived for equal priorities, no margin, no gap")
    for first in range(model.ngeom):
        for second in range(first + 1, model.ngeom):
            if _can_touch(model, first, second):
                _add_pair(spec, model, first, second)
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0


def _can_touch(model: mujoco.MjModel, first: int, second: int) -> bool:
    bodies = model.geom_bodyid[[first, second]]
    if bodies[0] == bodies[1]:
        return False
    # Parent and child do not collide, but for the children of the world.
    if any(a and model.body_parentid[b] == a for a, b in (bodies, bodies[::-1])):
        return False
    one = model.geom_contype[first] & model.geom_conaffinity[second]
    other = model.geom_contype[second] & model.geom_conaffinity[first]
    return bool(one or other)


def _add_pair(spec: mujoco.MjSpec, model: mujoco.MjModel, first: int, second: int) -> None:
    def mix(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = model.geom_solmix[first] + model.geom_solmix[second]
        share = model.geom_solmix[first] / total
        return share * values[first] + (1.0 - share) * values[second]

    slide, spin, roll = np.maximum(model.geom_friction[first], model.geom_friction[second])
    spec.add_pair(
        geomname1=model.geom(first).name,
        geomname2=model.geom(second).name,
        condim=int(max(model.geom_condim[first], model.geom_condim[second])),
        friction=[slide, slide, spin, roll, roll],
        solref=mix(model.geom_solref),
        solimp=mix(model.geom_solimp),
        margin=0.0,
        gap=0.0,
    )


class _QuietClock:
    """Takes MuJoCo's clock callback away while any thread is stepping.

    The Python bindings install a C function that reads the clock around every stage of every
    step, for timers nobody reads here. The engine loads the pointer once per use, so it can be
    taken away while another thread steps. A user's own callback is put back too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved: int | None = None
        self._slot = _clock_slot()

    def __enter__(self) -> None:
        if self._slot is not None:
            with self._lock:
                if self._users == 0:
                    self._saved, self._slot.value = self._slot.value, None
                self._users += 1

    def __exit__(self, *_: object) -> None:
        if self._slot is not None:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._slot.value = self._saved


def _clock_slot() -> ctypes.c_void_p | None:
    """Return the C variable that holds the clock callback, or None where it cannot be found."""
    for path in sorted(Path(mujoco.__file__).parent.glob("*mujoco*")):
        if path.suffix in {".py", ".pyi"} or not path.is_file():
            continue
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "mjcb_time")
        except (OSError, ValueError):
            continue
    return None


quiet_clock = _QuietClock()


def check_simulations(
    name: str,
    counters: NDArray[np.int32],
    observations: NDArray[np.float64],
    elapsed: NDArray[np.int64],
    slots: NDArray[np.int64],
) -> None:
    """Raise SimulationError if a simulation has broken down.

    Args:
        name: the environment's name, for the message.
        counters: number of MuJoCo's warnings of each kind [n, kinds]; after those watched here it
            has reset the simulation, or ignored its controls.
        observations: [n, O]; what the last step of an episode breaks is not yet counted.
        elapsed: steps since the last reset, of each simulation [n].
        slots: index of each simulation [n].
    """
    broken = counters[:, _FIRST:_LAST]
    if broken.any():
        row, kind = (int(index) for index in np.argwhere(broken)[0])
        quantity = _BROKEN[_FIRST + kind]
    elif not (np.isfinite(observations.sum()) or np.isfinite(observations).all()):
        row, kind = (int(index) for index in np.argwhere(~np.isfinite(observations))[0])
        quantity = f"observation {kind}"
    else:
        return
    raise SimulationError(
        f"{name}: the simulation in slot {slots[row]} broke down at step {elapsed[row]}: "
        f"{quantity} became NaN, infinite or huge",
        int(slots[row]),
    )
