"""Programs are forgotten before the system ends the process for their mappings."""

import jax
import jax.numpy as jnp
import pytest

from wpl_jax.devices import program_memory
from wpl_jax.devices.program_memory import forget_programs


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Files in which a system says how many mappings there are, of how many."""

    def say(used, most):
        for name, text in (("_MAPPINGS", "mapping\n" * used), ("_MOST", f"{most}\n")):
            path = tmp_path / name
            path.write_text(text, encoding="utf-8")
            monkeypatch.setattr(program_memory, name, path)

    return say


@pytest.mark.parametrize(("used", "forgotten"), [(49, False), (50, True)])
def test_programs_are_forgotten_at_half_of_what_there_is(system, used, forgotten):
    double = jax.jit(lambda x: 2 * x)
    double(1.0)
    system(used, 100)
    assert forget_programs() == forgotten
    assert double._cache_size() == (not forgotten)
    assert double(3.0) == 6


def test_nothing_is_forgotten_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(program_memory, "_MOST", tmp_path / "nothing")
    assert not forget_programs(share=0.0)


def test_a_compiled_program_has_mappings_that_are_given_back():
    """What the module says of XLA, on a system that tells."""
    if not program_memory._MAPPINGS.exists():
        pytest.skip("no /proc")

    def count():
        return len(program_memory._MAPPINGS.read_bytes().splitlines())

    many = jax.jit(lambda x: [jnp.sort(jnp.tanh(x @ x) + i) for i in range(30)])
    many(jnp.ones((3, 3)))
    full = count()
    assert forget_programs(share=0.0)
    assert count() < full - 30
