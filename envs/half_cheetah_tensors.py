"""What the half-cheetahs observe, computed by torch from states on a GPU."""

from typing import Protocol

import torch
from torch import Tensor

from envs.half_cheetah_rules import Gym, Paper, Preset
from envs.kinematics import PlanarTree


class Reader(Protocol):
    """The tensors' form of `Preset.read`."""

    def __call__(self, qpos: Tensor, qvel: Tensor, x_before: Tensor) -> tuple[Tensor, Tensor]:
        """Return observations [n, O] and the rewarded velocities [n] of states [n, 9]."""


def make_reader(preset: Preset, device: torch.device) -> Reader:
    """Return what reads states on a device as the preset does."""
    if isinstance(preset, Paper):
        return PaperReader(preset.tree, device)
    assert isinstance(preset, Gym)
    return GymReader(preset, device)


class PaperReader:
    """[qpos[1:], qvel, centre of mass], and the velocity of the centre of mass.

    The formulas are those of `PlanarTree`, with matrix products over the links.
    """

    def __init__(self, tree: PlanarTree, device: torch.device) -> None:
        links = len(tree.parents)
        turned_by = torch.eye(links)
        for link in range(1, links):
            turned_by[link] += turned_by[tree.parents[link]]
        along, across = (torch.from_numpy(each[:, :, 0]) for each in (tree.along, tree.across))
        self.turned_by = turned_by.mT.contiguous().to(device)
        self.arms = torch.cat([along, across]).float().to(device)
        self.origin = torch.from_numpy(tree.origin).float().to(device)

    def __call__(self, qpos: Tensor, qvel: Tensor, x_before: Tensor) -> tuple[Tensor, Tensor]:
        """See `Reader`."""
        pitch, spin = qpos[:, 2:] @ self.turned_by, qvel[:, 2:] @ self.turned_by
        cos, sin = pitch.cos(), pitch.sin()
        plane = torch.cat([cos, sin], dim=1) @ self.arms + qpos[:, :2]
        moved = torch.cat([spin * cos, spin * sin], dim=1) @ self.arms[:, 1]
        com = torch.stack([plane[:, 0], torch.zeros_like(x_before), plane[:, 1]], dim=1)
        return torch.cat([qpos[:, 1:], qvel, com + self.origin], dim=1), moved + qvel[:, 0]


class GymReader:
    """[qpos[1:], qvel (, torso position)], and the root's mean velocity in the step."""

    def __init__(self, preset: Gym, device: torch.device) -> None:
        self.dt, self.torso_position = preset.dt, preset.torso_position
        self.origin = torch.from_numpy(preset.origin).float().to(device)

    def __call__(self, qpos: Tensor, qvel: Tensor, x_before: Tensor) -> tuple[Tensor, Tensor]:
        """See `Reader`."""
        parts = [qpos[:, 1:], qvel]
        if self.torso_position:
            torso = torch.stack([qpos[:, 0], torch.zeros_like(x_before), qpos[:, 1]], dim=1)
            parts.append(torso + self.origin)
        return torch.cat(parts, dim=1), (qpos[:, 0] - x_before) / self.dt
