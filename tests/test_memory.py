"""The estimate of memory against shapes, and against what XLA says."""

import jax
import numpy as np
import pytest
import tiny_search

from wpl_jax import jobs, parallel, search_config
from wpl_jax.errors import UserError
from wpl_jax.memory import Estimate, check, estimate
from wpl_jax.supernet import gather


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def tiny():
    config = tiny_search.get_config()
    config.space.hidden, config.space.num_nodes, config.task.length = 40, 6, 20
    search, data, _ = search_config.make_search(config)
    return search, data, estimate(search, data)


def test_data_and_state_are_counted_to_the_byte(tiny):
    search, data, found = tiny
    state = search.init(jax.random.key(0))
    key = jax.random.key_data(state.key)
    assert found.data == size(data)
    assert abs(found.state - size(state._replace(key=key))) <= 8


def test_a_child_has_its_parameters_with_all_that_is_kept_of_them_and_two_more(tiny):
    search, _, found = tiny
    state = search.init(jax.random.key(0))
    rows = search.task.space.rows(np.zeros(11, np.int32))
    child = size(gather(state.shared.params, rows))
    # Parameters, anchor, Fisher and its average; gradient and new parameters.
    assert found.child == pytest.approx(6 * child, rel=0.01)


def test_the_estimate_is_near_what_xla_says(tiny):
    search, data, found = tiny
    state = jax.eval_shape(search.init, jax.random.key(0))
    numbers = np.int32(0), np.int32(0)
    program = search.train_and_protect.lower(state, data, *numbers).compile()
    said = program.memory_analysis()
    needed = said.argument_size_in_bytes + said.temp_size_in_bytes
    assert 0.5 < found.total / needed < 2


def test_activations_grow_with_the_batch_and_are_divided_among_devices():
    config = tiny_search.get_config()
    kept = []
    for batch_size, count in ((4, 1), (8, 1), (8, 4)):
        config.task.batch_size = batch_size
        search, data = search_on(config, count)
        kept.append(estimate(search, data).activations)
    assert 1.5 < kept[1] / kept[0] < 2.1
    assert kept[2] == kept[1] // 4


def search_on(config, count):
    parallel.use(count)
    try:
        return search_config.make_search(config)[:2]
    finally:
        parallel.use(1)


@pytest.mark.parametrize(
    ("part", "advice"),
    [
        ("data", "less data"),
        ("state", "smaller space"),
        ("child", "smaller space"),
        ("activations", r"smaller config\.task\.batch_size, or more devices"),
    ],
)
def test_too_much_is_said_with_its_largest_part_and_what_to_do(part, advice):
    parts = dict.fromkeys(Estimate._fields, 2**20) | {part: 3 * 2**30}
    found = Estimate(**parts)
    with pytest.raises(UserError, match=rf"3\.0 GiB .* has 2\.0 GiB.*{part}.*{advice}"):
        check(found, 2 * 2**30)
    for limit in (4 * 2**30, None):
        assert f"{part} 3.0 GiB" in check(found, limit)


def test_a_search_that_does_not_fit_is_refused_before_its_folder_is_made(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(parallel, "memory_of_each", lambda: 1000)
    with pytest.raises(UserError, match=r"but it has 1000 bytes"):
        jobs.run(tiny_search.get_config(), tmp_path / "run", "run")
    assert not (tmp_path / "run").exists()


def test_there_is_memory_here():
    assert parallel.memory_of_each() > 2**20
