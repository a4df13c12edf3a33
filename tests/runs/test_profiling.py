"""Traces: asked for once, begun when programs are compiled, whole."""

import jax
import jax.numpy as jnp
import pytest

from wpl_jax.runs.profiling import Tracer, TraceRequest


def run(folder, request, calls, landmarks=()):
    """Which calls are traced."""
    tracer, traced = Tracer(folder, request), []
    for number in range(calls):
        tracer.begin()
        if tracer._left is not None:
            traced.append(number)
        jax.block_until_ready(jnp.arange(3) + number)
        tracer.end(number + 1 in landmarks)
    tracer.close()
    return traced


@pytest.fixture
def nothing_is_traced(monkeypatch):
    """JAX writes no trace, which takes seconds; which calls it is asked for stays."""
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *args, **kwargs: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)


@pytest.mark.usefixtures("nothing_is_traced")
def test_a_trace_that_was_not_written_is_told(tmp_path, capsys):
    request = TraceRequest(3)
    assert run(tmp_path, request, 19) == []
    request.remind()
    assert "No trace was written" in capsys.readouterr().out
    assert run(tmp_path, request, 25) == [20, 21, 22]
    request.remind()
    assert "No trace" not in capsys.readouterr().out


@pytest.mark.slow_except("9-*")
@pytest.mark.parametrize(
    ("asked", "landmarks", "traced"),
    [
        (None, {2}, []),
        (3, {2, 4}, [2, 3, 4]),
        (2, (), [20, 21]),
        (9, {22}, [20, 21, 22, 23]),
    ],
)
def test_calls_are_traced_once_programs_are_compiled(
    asked, landmarks, traced, tmp_path, capsys
):
    request = TraceRequest(asked) if asked else None
    assert run(tmp_path / "first", request, 24, landmarks) == traced
    assert run(tmp_path / "second", request, 24, landmarks) == []
    written = list((tmp_path / "first").rglob("*.xplane.pb"))
    assert len(written) == bool(traced)
    assert not (tmp_path / "second").exists()
    said = capsys.readouterr().out
    assert (f"A trace is in {tmp_path / 'first' / 'profile'}" in said) == bool(traced)
