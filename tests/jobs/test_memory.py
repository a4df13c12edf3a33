"""The estimate of memory against shapes, and against what XLA says."""

import jax
import numpy as np
import pytest
from helpers import tiny as tiny_models
from helpers import tiny_search, toy

from wpl_jax.devices import capacity
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs import search_config
from wpl_jax.jobs.memory import (
    Estimate,
    Need,
    advice_for,
    check,
    check_all,
    of_retraining,
    of_search,
)
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.two_models import settings_of
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.image_classification import ImageClassification
from wpl_jax.tasks.language_model import LanguageModel
from wpl_jax.two_models import memory as two_models_memory
from wpl_jax.two_models import run as two_models_run


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def tiny():
    config = tiny_search.get_config()
    (
        config.space.recurrent_cell.hidden,
        config.space.recurrent_cell.num_nodes,
        config.task.language_model.length,
    ) = 40, 6, 20
    search, data, _ = search_config.make_search(config)
    return search, data, of_search(search, data).memory


def test_data_and_state_are_counted_to_the_byte(tiny):
    search, data, found = tiny
    state = search.init(jax.random.key(0))
    key = jax.random.key_data(state.key)
    assert found.data == size(data)
    assert abs(found.state - size(state._replace(key=key))) <= 8


def test_a_child_has_its_parameters_with_all_that_is_kept_of_them_and_two_more(tiny):
    search, _, found = tiny
    state = search.init(jax.random.key(0))
    rows = search.task.space.rows(Architecture(np.zeros(11, np.int32)))
    child = size(gather(state.shared.params, rows))
    # Parameters, anchor, Fisher and its average; gradient and new parameters.
    assert found.child == pytest.approx(6 * child, rel=0.01)


@pytest.mark.slow
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
        config.task.language_model.batch_size = batch_size
        search, data = search_on(config, count)
        kept.append(of_search(search, data).memory.activations)
    assert 1.5 < kept[1] / kept[0] < 2.1
    assert kept[2] == kept[1] // 4


def search_on(config, count):
    return search_config.make_search(config, num_devices=count)[:2]


def test_a_retraining_has_its_state_a_gradient_and_new_parameters(tiny):
    config = tiny_search.get_config()
    config.retrain.space = {"recurrent_cell": {"hidden": 80}}
    retraining, data, _ = make_retraining(config)
    need = of_retraining(retraining, data)
    architecture = np.zeros(len(retraining.task.space.decisions), np.int32)
    state = retraining.init(jax.random.key(0), architecture)
    key = jax.random.key_data(state.key)
    assert abs(need.memory.state - size(state._replace(key=key))) <= 8
    assert need.memory.child == 2 * size(state.params)
    assert need.memory.data == size(data)
    numbers = np.int32(0), np.int32(0), np.int32(2)
    said = retraining.train.lower(state, data, *numbers).compile().memory_analysis()
    needed = said.argument_size_in_bytes + said.temp_size_in_bytes
    assert 0.5 < need.memory.total / needed < 2


def made(devices=None, what="search", settings="config", **parts):
    memory = Estimate(**dict.fromkeys(Estimate._fields, 2**20) | parts)
    devices = devices or Devices()
    advice = advice_for(LanguageModel(None), devices, settings)
    return Need(what, devices, (), memory, advice)


@pytest.mark.parametrize(
    ("part", "mode", "advice"),
    [
        ("data", "batch", "less data"),
        ("state", "batch", r"smaller space \(config\.space\)\.$"),
        ("child", "batch", r"smaller space \(config\.space\)\.$"),
        ("child", "children", r"or fewer search\.children_per_step"),
        (
            "activations",
            "batch",
            r"smaller batch_size, .*\(config\.task\), or more devices",
        ),
        ("activations", "children", r"batch_size, .* or search\.children_per_step=1"),
    ],
)
def test_too_much_is_said_with_its_largest_part_and_what_to_do(
    part, mode, advice, monkeypatch
):
    need = made(Devices(1, mode), **{part: 3 * 2**30})
    monkeypatch.setattr(capacity, "memory_of_each", lambda count, there=0: 2 * 2**30)
    with pytest.raises(UserError, match=rf"3\.0 GiB .* has 2\.0 GiB.*{part}.*{advice}"):
        check(need)
    for limit in (4 * 2**30, None):
        monkeypatch.setattr(
            capacity, "memory_of_each", lambda count, there=0, x=limit: x
        )
        assert f"{part} 3.0 GiB" in check(need)


def test_a_search_and_a_retraining_say_what_to_reduce(tiny):
    search, data, _ = tiny
    assert of_search(search, data).advice == {
        "data": "Take less data (config.task)",
        "state": "Take a smaller space (config.space), or fewer search.children or "
        "candidates",
        "child": "Take a smaller space (config.space)",
        "activations": "Take a smaller batch_size, or a smaller length (config.task), "
        "or more devices, which share a batch",
    }
    retraining, data, _ = make_retraining(tiny_search.get_config())
    advice = of_retraining(retraining, data).advice
    assert advice["state"] == "Take a smaller space (config.retrain.space)"


def test_the_task_says_which_of_its_settings_take_less_memory():
    images = advice_for(ImageClassification(None), Devices(), "config")
    assert images["data"] == (
        "Take less data, or smaller images (shrink), or more devices that divide them "
        "(shard_images) (config.task)"
    )
    assert "Take a smaller batch_size (config.task)," in images["activations"]
    own = advice_for(toy.ToyTask(), Devices(1, "children"), "config")
    assert own["data"] == "Take less data (config.task)"
    assert own["activations"].startswith("Take a smaller rows_per_batch (config.task),")


def test_of_several_the_largest_of_each_kind_counts_with_the_data_of_all(monkeypatch):
    monkeypatch.setattr(
        capacity, "memory_of_each", lambda count, there=0: 2**40 // count
    )
    text, images = np.zeros(2**20, np.int32), np.zeros(2**21, np.int32)
    needs = [
        made(state=2**30)._replace(data=text),
        made(Devices(8), state=2**31)._replace(data=text),
        made(None, "retraining", "config.retrain", state=3)._replace(data=images),
    ]
    search, retraining = check_all(needs).splitlines()
    assert "for the search" in search
    assert "data 12.0 MiB, state 2.0 GiB" in search
    assert "for the retraining" in retraining
    assert "data 12.0 MiB, state 3 bytes" in retraining
    needs[2] = needs[2]._replace(memory=needs[2].memory._replace(child=2**41))
    with pytest.raises(UserError, match=r"retraining.* \(config\.retrain\.space\)"):
        check_all(needs)


def test_a_search_that_does_not_fit_is_refused_before_its_folder_is_made(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(capacity, "memory_of_each", lambda count, there=0: 1000)
    with pytest.raises(UserError, match=r"but it has 1000 bytes"):
        jobs.run(tiny_search.get_config(), tmp_path / "run", "run")
    assert not (tmp_path / "run").exists()


def test_a_cpu_has_what_is_free_and_the_data_that_is_there(monkeypatch):
    """What other programs and the files of the data take is not free."""
    monkeypatch.setattr(capacity, "free_memory", lambda: 3 * 2**20)
    assert capacity.memory_of_each(1) == 3 * 2**20
    assert capacity.memory_of_each(3, there=7) == 2**20 + 7
    assert "data 1.0 GiB" in check(made(data=2**30))  # And 3 parts of 1 MiB.
    monkeypatch.setattr(capacity, "free_memory", lambda: 3 * 2**20 - 1)
    with pytest.raises(UserError, match=r"has 3\.0 MiB"):
        check(made(data=0, state=2 * 2**20))
    monkeypatch.setattr(capacity, "free_memory", lambda: None)
    assert capacity.memory_of_each(1) > 2**20


def test_there_is_memory_here():
    assert 0 < capacity.memory_of_each(8) < capacity.memory_of_each(1)


# The two-model experiment.


@pytest.fixture(scope="module")
def two_models():
    config = tiny_models.get_config()
    config.hidden, config.layers_b = 60, 4
    settings = settings_of(config)
    arms = settings.arms()
    data, names = two_models_run.load_data(settings, config.data)
    setting = two_models_run.make_setting(settings, data, len(names))
    sizes = {"seeds": config.num_seeds, "stops": 2, "arms": len(arms)}
    found = two_models_memory.estimate(data, setting, **sizes)
    return two_models_run.Experiment(settings, data, setting), data, arms, found


@pytest.mark.slow
def test_images_models_and_curves_of_two_models_are_counted(two_models):
    experiment, data, arms, found = two_models
    assert found.data == size(data)
    kept = experiment.abstract_state(arms)
    bytes_kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    assert found.models == pytest.approx(bytes_kept, rel=0.02)


@pytest.mark.slow
def test_the_estimate_of_two_models_is_near_what_xla_says(two_models):
    experiment, data, arms, found = two_models
    layers = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype),
        experiment.abstract_state(arms)["models_a"],
    )
    train = experiment._train_b["proximal"]
    share, alpha = np.ones(2, bool), np.float32(1)
    program = train.lower(experiment._key_b, layers, layers, share, alpha, data)
    said = program.compile().memory_analysis()
    needed = said.argument_size_in_bytes + said.temp_size_in_bytes
    assert 0.5 < sum(found) / needed < 2


def test_the_momentum_of_b_is_counted(two_models):
    _, data, arms, plain = two_models
    config = tiny_models.get_config()
    config.hidden, config.layers_b = 60, 4
    config.model_b.sgd.momentum = 0.9
    settings = settings_of(config)
    setting = two_models_run.make_setting(settings, data, 10)
    sizes = {"seeds": config.num_seeds, "stops": 2, "arms": len(arms)}
    found = two_models_memory.estimate(data, setting, **sizes)
    a = 65 * 60 + 61 * 10
    pool = 2 * a + 65 * 60 + 2 * 61 * 60 + 61 * 10
    assert found.training - plain.training == config.num_seeds * 4 * pool
    assert found[:2] == plain[:2]


@pytest.mark.parametrize(
    ("field", "value", "part", "advice"),
    [
        ("hidden", 10**7, "training", "config.hidden"),
        ("batch_size", 10**9, "activations", "config.batch_size"),
        ("num_seeds", 10**9, "activations", "num_seeds"),
    ],
)
def test_two_models_that_do_not_fit_are_refused(
    field, value, part, advice, tmp_path, monkeypatch
):
    monkeypatch.setattr(capacity, "memory_of_each", lambda count, there=0: 2**34)
    config = tiny_models.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=rf"has 16\.0 GiB.* of the {part}\.") as caught:
        jobs.run(config, tmp_path / "run", "run")
    assert advice in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_curves_that_do_not_fit_name_what_to_reduce(monkeypatch):
    monkeypatch.setattr(capacity, "memory_of_each", lambda count, there=0: 2**34)
    parts = dict.fromkeys(two_models_memory.Estimate._fields, 1) | {"models": 2**40}
    with pytest.raises(UserError, match=r"of the models\.") as caught:
        two_models_memory.check(two_models_memory.Estimate(**parts))
    assert "model_b.eval_every" in str(caught.value)
