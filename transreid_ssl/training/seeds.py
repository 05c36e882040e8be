"""What the random numbers of a step are drawn from."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """One 31-bit seed from three numbers (a splitmix-like hash: neighbours share nothing)."""
    value = (
        seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    ) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    return (value ^ (value >> 33)) & 0x7FFFFFFF
