"""Errors that the environments raise."""


class SimulationError(FloatingPointError):
    """The physics of an environment broke down: a quantity became NaN, infinite or huge.

    MuJoCo answers this with a silent reset to the initial state, so that observations stay finite
    and an episode goes on as if nothing had happened. The environments watch MuJoCo's warning
    counters and raise this error instead.

    Args:
        message: one sentence.
        slot: of the vector environment; 0 in a single one.
    """

    def __init__(self, message: str, slot: int = 0) -> None:
        super().__init__(message)
        self.slot = slot
