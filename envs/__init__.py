"""Task-parameterised Gymnasium environments for meta-reinforcement learning.

Importing this package registers the environments below with Gymnasium, each in a single and in a
native vector form that agree to the last bit:

| id                  | task (a row of floats)              | horizon |
|---------------------|-------------------------------------|---------|
| `Navigation2D-v0`   | goal position, (x, y)               | 100     |
| `HalfCheetahVel-v0` | goal velocity [m/s]                 | 200     |
| `HalfCheetahDir-v0` | direction, +1 forward, -1 backward  | 200     |

    env = gymnasium.make("envs:HalfCheetahVel-v0", preset="gym")
    venv = gymnasium.make_vec("envs:HalfCheetahVel-v0", num_envs=800, num_threads=1)
    tasks = venv.unwrapped.sample_tasks(40, np.random.default_rng(0))  # [40, 1]
    obs, info = venv.reset(seed=0, options={"task": tasks.repeat(20, axis=0)})

The package stands on its own: it imports nothing from `metarl`, and MuJoCo only when a cheetah is
made.
"""

import gymnasium as gym

from envs.errors import SimulationError

__all__ = ["SimulationError"]

_IDS = {
    "Navigation2D-v0": ("envs.navigation:Navigation2DEnv", "Navigation2DVectorEnv", 100),
    "HalfCheetahVel-v0": ("envs.half_cheetah:HalfCheetahVelEnv", "HalfCheetahVelVectorEnv", 200),
    "HalfCheetahDir-v0": ("envs.half_cheetah:HalfCheetahDirEnv", "HalfCheetahDirVectorEnv", 200),
}

for _id, (_single, _vector, _horizon) in _IDS.items():
    if _id not in gym.registry:
        gym.register(
            id=_id,
            entry_point=_single,
            vector_entry_point=f"{_single.partition(':')[0]}:{_vector}",
            max_episode_steps=_horizon,
        )
