"""Random numbers that depend on a seed and a position alone, so that a sample does not depend on what runs beside it."""

_MASK64 = (1 << 64) - 1


def mix64(value: int) -> int:
    """SplitMix64's finalizer (Steele et al., 2014): 64 bits in, 64 well-mixed bits out."""
    value &= _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on seed and position alone."""
    return (mix64(seed + (position + 1) * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def completion_seed(seed: int, index: int) -> int:
    """The seed of completion `index` of a request; the first one's is the request's own."""
    return seed & _MASK64 if index == 0 else mix64(seed ^ mix64(index))
