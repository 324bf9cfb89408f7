"""The centre of mass in closed form equals MuJoCo's."""

import mujoco
import numpy as np
import pytest

from envs.kinematics import PlanarTree
from envs.physics import load_model

BRANCHED = """
<mujoco>
  <worldbody>
    <body name="trunk" pos="1.5 0 -0.25">
      <joint type="slide" axis="1 0 0"/> <joint type="slide" axis="0 0 1"/>
      <joint type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0.2" size="0.05"/>
      <body pos="0.3 0 0.2"> <joint type="hinge" axis="0 1 0"/>
        <geom type="box" pos="0.1 0 0.4" size="0.1 0.2 0.3"/>
        <body pos="0.2 0 0.1"> <joint type="hinge" axis="0 1 0"/>
          <geom type="sphere" pos="0 0 -0.2" size="0.2"/> </body>
        <body pos="-0.2 0 0.3"> <joint type="hinge" axis="0 1 0"/>
          <geom type="sphere" pos="0.3 0 0" size="0.1"/> </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
MODELS = {
    "half_cheetah": lambda: load_model("half_cheetah.xml"),
    "branched": lambda: mujoco.MjModel.from_xml_string(BRANCHED),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
def test_equals_mujocos_after_forward(name, scale):
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    qpos, qvel = scale * rng.normal(size=(2, 50, model.nq))
    com, velocity = PlanarTree(model).centre_of_mass(qpos, qvel)
    data = mujoco.MjData(model)
    for row in range(50):
        data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        np.testing.assert_allclose(com[row], data.subtree_com[1], rtol=0, atol=1e-12 * (1 + scale))
        expected = data.subtree_linvel[1, 0]
        np.testing.assert_allclose(velocity[row], expected, rtol=0, atol=1e-12 * (1 + scale))


def test_velocity_is_the_derivative_of_the_position():
    tree = PlanarTree(load_model("half_cheetah.xml"))
    rng = np.random.default_rng(1)
    qpos, qvel = rng.normal(size=(2, 20, 9))
    step = 1e-6
    after = tree.centre_of_mass(qpos + step * qvel, qvel)[0][:, 0]
    before = tree.centre_of_mass(qpos - step * qvel, qvel)[0][:, 0]
    velocity = tree.centre_of_mass(qpos, qvel)[1]
    np.testing.assert_allclose((after - before) / (2 * step), velocity, atol=1e-8)


def test_bits_do_not_depend_on_the_batch():
    tree = PlanarTree(load_model("half_cheetah.xml"))
    qpos, qvel = np.random.default_rng(2).normal(size=(2, 257, 9))
    com, velocity = tree.centre_of_mass(qpos, qvel)
    strided = np.zeros((257, 91))
    strided[:, 1:10], strided[:, 20:29] = qpos, qvel
    for size in [*range(1, 34), 64, 100, 255, 256]:
        for low in (0, 257 - size):
            rows = slice(low, low + size)
            for q, v in ((qpos, qvel), (strided[:, 1:10], strided[:, 20:29])):
                part = tree.centre_of_mass(q[rows], v[rows])
                assert np.array_equal(part[0], com[rows])
                assert np.array_equal(part[1], velocity[rows])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('axis="1 0 0"', 'axis="0 1 0"'),
        ('<joint type="hinge" axis="0 1 0"/>', ""),
        ('<body pos="0.2 0 0.1">', '<body pos="0.2 0.1 0.1">'),
        ('<body pos="0.2 0 0.1">', '<body pos="0.2 0 0.1" euler="0 30 0">'),
        ('pos="0.1 0 0.4"', 'pos="0.1 0.3 0.4"'),
    ],
)
def test_other_models_are_refused(old, new):
    assert old in BRANCHED
    model = mujoco.MjModel.from_xml_string(BRANCHED.replace(old, new, 1))
    with pytest.raises(ValueError, match="planar tree"):
        PlanarTree(model)
