"""Sizes of calls by the time that batches take."""

from wpl_jax.evaluation import speed


def test_calls_are_as_long_as_their_seconds_allow(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
    measured, counts = speed.Speed(1), []
    # The first call compiles for 100 seconds; then a batch takes a quarter of one, and
    # from the fourth call on 20.
    for each in (100, 0.25, 0.25, 20, 20):
        counts.append(measured.batches_of_a_call())
        with measured.of(counts[-1]):
            now[0] += each * counts[-1]
    assert counts[:4] == [1, 1, 8, 8]
    assert counts[4] < 3
