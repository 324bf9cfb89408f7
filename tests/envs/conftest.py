"""Gymnasium's half-cheetah, for the tests that hold ours against it."""

import mujoco
import pytest

from envs.physics import ASSETS


@pytest.fixture
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """The original model's deprecation warning goes into a file of the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def original(in_a_folder_of_its_own):
    """The original model."""
    return mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))
