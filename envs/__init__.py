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

The cheetahs have a third form, on a GPU, whose observations and rewards are tensors there; it is
registered under the same name in the namespace of its physics engine, and needs the extra `gpu`:

    venv = gymnasium.make_vec("envs:warp/HalfCheetahVel-v0", num_envs=8000, device="cuda")

The package stands on its own: it imports nothing from `metarl`, and MuJoCo only when a cheetah is
made.
"""

import gymnasium as gym

from envs.errors import SimulationError

__all__ = ["SimulationError"]

_HORIZONS = {"Navigation2D": 100, "HalfCheetahVel": 200, "HalfCheetahDir": 200}
_MODULES = {
    "Navigation2D": ("envs.navigation", "envs.navigation"),
    "HalfCheetahVel": ("envs.half_cheetah", "envs.half_cheetah_vector"),
    "HalfCheetahDir": ("envs.half_cheetah", "envs.half_cheetah_vector"),
}

for _name, (_single, _vector) in _MODULES.items():
    if f"{_name}-v0" not in gym.registry:
        gym.register(
            id=f"{_name}-v0",
            entry_point=f"{_single}:{_name}Env",
            vector_entry_point=f"{_vector}:{_name}VectorEnv",
            max_episode_steps=_HORIZONS[_name],
        )
    if _name.startswith("HalfCheetah") and f"warp/{_name}-v0" not in gym.registry:
        gym.register(
            id=f"warp/{_name}-v0",
            vector_entry_point=f"envs.half_cheetah_warp:{_name}WarpEnv",
            max_episode_steps=_HORIZONS[_name],
        )
