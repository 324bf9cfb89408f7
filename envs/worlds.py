"""Many copies of one MuJoCo model, simulated side by side on a GPU by MuJoCo Warp, in float32.

Importing this module needs the extra `gpu` (mujoco-warp and warp-lang); without a GPU it runs on
Warp's CPU device, which is for tests.
"""

from collections.abc import Callable, Iterable

import mujoco
import mujoco_warp
import numpy as np
import torch
import warp
from numpy.typing import ArrayLike, NDArray

warp.config.log_level = warp.LOG_WARNING  # not a line for every kernel that is loaded
warp.init()

_TOUCHING = {  # most contacts of two geoms, in the order of their types
    (int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_CAPSULE)): 2,
}


class Worlds:
    """Copies of a model, one for each world, that step together.

    State and controls are tensors that share memory with the simulation: write into them, never
    replace them. Everything runs on torch's current stream of the device, so that operations of
    torch before and after it need no synchronisation.

    On a GPU all kernels of one `step` are launched as one CUDA graph. It is a graph of its own,
    to be launched between those of others: the solver loops on the device until every world has
    converged, and to record such a loop Warp ends the capture and goes on in a new one, which a
    capture begun by torch would not survive.

    Args:
        model: contacts by explicit pairs alone, as `envs.physics.load_model` gives it.
        count: worlds, n.
        device: `cpu`, or a GPU.
        frame_skip: physics steps of one `step`.
        fields: names of Warp's model fields of which every world has its own values; see `assign`.

    Attributes:
        qpos: joint positions, float32 [n, nq].
        qvel: joint velocities, float32 [n, nv].
        ctrl: controls, float32 [n, nu].
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        count: int,
        device: torch.device | str,
        frame_skip: int = 1,
        fields: Iterable[str] = (),
    ) -> None:
        self.device, self.frame_skip = torch.device(device), frame_skip
        self._on = warp.device_from_torch(str(self.device))
        contacts, rows = most_constraints(model)
        with warp.ScopedDevice(self._on):
            self._model = mujoco_warp.put_model(model, dict.fromkeys(fields, count))
            self._data = mujoco_warp.make_data(model, count, nconmax=contacts, njmax=rows)
        self.qpos, self.qvel, self.ctrl, self._warm_start = (
            warp.to_torch(getattr(self._data, name))
            for name in ("qpos", "qvel", "ctrl", "qacc_warmstart")
        )
        self._streams: dict[int, warp.Stream] = {}
        self._launch: Callable[[], None] | None = None
        # They were made on a stream of Warp's own.
        warp.synchronize_device(self._on)

    def set_state(self, rows: NDArray[np.int64] | slice, qpos: ArrayLike, qvel: ArrayLike) -> None:
        """Start some worlds anew, from positions [k, nq] and velocities [k, nv]."""
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.device)
        for kept, given in ((self.qpos, qpos), (self.qvel, qvel)):
            kept[chosen] = torch.as_tensor(given, dtype=kept.dtype).to(self.device)
        self._warm_start[chosen] = 0.0

    def assign(self, field: str, values: ArrayLike) -> None:
        """Give every world its own value of a model field that was named at the beginning.

        Args:
            field: such as `body_mass`.
            values: [n, *shape], of the field's shape in `mujoco.MjModel`.
        """
        kept = warp.to_torch(getattr(self._model, field))
        kept.copy_(torch.from_numpy(np.array(values, dtype=np.float32)).view(kept.shape))

    def derive_constants(self) -> None:
        """Compute the model fields anew that follow from others, such as from masses."""
        with self._scope():
            mujoco_warp.set_const(self._model, self._data)

    def step(self) -> None:
        """Simulate `frame_skip` physics steps of every world; the first one compiles the kernels."""
        if self._launch is None:
            self._launch = self._prepare()
        self._launch()

    def _prepare(self) -> Callable[[], None]:
        """What simulates a step: the kernels one by one on a CPU, a CUDA graph of them on a GPU."""
        if self._on.is_cpu:
            return self._simulate
        state = self.qpos, self.qvel, self._warm_start
        before = [each.clone() for each in state]
        self._simulate()  # compiles the kernels, which a capture cannot
        for each, kept in zip(state, before, strict=True):
            each.copy_(kept)
        torch.cuda.synchronize(self.device)
        with warp.ScopedDevice(self._on), warp.ScopedCapture() as capture:
            self._advance()
        return lambda: warp.capture_launch(capture.graph, self._stream())

    def _simulate(self) -> None:
        with self._scope():
            self._advance()
        # The first steps may make arrays and load kernels on other streams; a graph's steps do not come here.
        warp.synchronize_device(self._on)

    def _advance(self) -> None:
        for _ in range(self.frame_skip):
            mujoco_warp.step(self._model, self._data)

    def _scope(self) -> warp.ScopedDevice | warp.ScopedStream:
        """Where Warp is to work: on torch's current stream."""
        if self._on.is_cpu:
            return warp.ScopedDevice(self._on)
        return warp.ScopedStream(self._stream(), sync_enter=False)

    def _stream(self) -> warp.Stream:
        current = torch.cuda.current_stream(self.device)
        if current.cuda_stream not in self._streams:
            self._streams[current.cuda_stream] = warp.stream_from_torch(current)
        return self._streams[current.cuda_stream]


def most_constraints(model: mujoco.MjModel) -> tuple[int, int]:
    """Return how many contacts, and how many rows of constraints, a world can have at most.

    Raises:
        ValueError: if that is not known of this model.
    """
    pairs = zip(model.pair_geom1, model.pair_geom2, strict=True)
    types = [sorted(int(model.geom_type[geom]) for geom in pair) for pair in pairs]
    kinds = [(first, second) for first, second in types]
    one_by_one = model.neq == 0 and model.ntendon == 0 and not model.geom_contype.any()
    known = one_by_one and all(kind in _TOUCHING for kind in kinds)
    if not known or model.opt.cone != mujoco.mjtCone.mjCONE_PYRAMIDAL:
        raise ValueError("the most constraints are known only of capsules on planes, in pairs")
    contacts = [_TOUCHING[kind] for kind in kinds]
    # A pyramid has two faces for each direction in which friction acts.
    faces = [2 * (int(dim) - 1) if dim > 1 else 1 for dim in model.pair_dim]
    rows = sum(count * each for count, each in zip(contacts, faces, strict=True))
    joints = int(model.jnt_limited.sum()) + int(np.count_nonzero(model.dof_frictionloss))
    return sum(contacts), rows + joints
