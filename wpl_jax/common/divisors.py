"""How to cut what must be cut into equal parts."""


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of ``number`` that is not above ``most``, at least 1."""
    return max(n for n in range(1, max(min(most, number), 1) + 1) if number % n == 0)
