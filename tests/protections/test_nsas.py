"""Rehearsal of a diverse archive, against the same with lists and in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.rehearsing import EPOCHS, SHARE, Rehearsing
from helpers.written_search import make_search, run_epoch

from wpl_jax.common.settings import SettingError
from wpl_jax.protections.nsas import Nsas
from wpl_jax.protections.protection import Trained
from wpl_jax.supernet import Architecture, gather


class Archive:
    """The archive as lists of tuples."""

    def __init__(self, size, neighbours, recent):
        self.size, self.neighbours, self.length = size, neighbours, recent
        self.members, self.recent = [], []

    def add(self, child):
        self.recent = [*self.recent, child][-self.length :]
        if len(self.members) < self.size:
            self.members.append(self.most_novel(self.recent, self.members))
            return
        near = min(self.members, key=lambda member: differing(member, child))
        place = self.members.index(near)
        others = self.members[:place] + self.members[place + 1 :]
        self.members[place] = self.most_novel([near, *self.recent], others)

    def most_novel(self, candidates, others):
        """The first of the candidates that are farthest from the others."""

        def novelty(candidate):
            near = sorted(differing(candidate, other) for other in others)
            near = near[: self.neighbours]
            return sum(near) / len(near) if near else 0.0

        return max(candidates, key=novelty)


def differing(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_a_child_is_trained_with_the_archive():
    protection = Nsas(3, SHARE, neighbours=2, recent=4, start_epoch=1)
    search, data = make_search(protection=protection), toy.make_data()
    state = search.init(jax.random.key(1))
    written, archive = Rehearsing(state.shared.params, data, None), Archive(3, 2, 4)
    numbers = set()
    for epoch in range(EPOCHS):
        state = run_epoch(search, state, data, epoch)
        for index, child in enumerate(state.epoch.architectures.choice.tolist()):
            # Before it is full the share is divided among those that there are.
            numbers.add(len(archive.members))
            written.train_with(child, archive.members, epoch, index)
            if epoch >= 1:
                archive.add(tuple(child))
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
    kept = state.shared.memory.archive.choice
    np.testing.assert_array_equal(kept, archive.members)
    assert numbers == {0, 1, 2, 3}


@pytest.mark.parametrize(("size", "neighbours", "recent"), [(4, 10, 6), (5, 2, 3)])
def test_the_archive_is_that_of_lists(size, neighbours, recent):
    """Also where several children are trained together."""
    rng = np.random.default_rng(size)
    children = rng.integers(3, size=(30, 2, 5)).astype(np.int32)
    children[20:] = children[20:] // 2  # Later ones are more alike.
    protection = Nsas(size, neighbours=neighbours, recent=recent)
    form = jax.ShapeDtypeStruct((5,), jnp.int32)

    @jax.jit
    def remember(memory, pair):
        trained = Trained((), Architecture(pair), jnp.arange(2))
        memory, _ = protection.remember(memory, (), trained, (), (), (), 0.0)
        return memory

    memory = protection.init((), Architecture(form))
    lists = Archive(size, neighbours, recent)
    replaced = 0
    for pair in children:
        memory = remember(memory, pair)
        before = list(lists.members)
        for child in pair.tolist():
            lists.add(tuple(child))
        replaced += len(before) == size and before != lists.members
        there = memory.archive.choice[: len(lists.members)]
        np.testing.assert_array_equal(there, lists.members)
    assert replaced > 1
    assert int(memory.seen) == 60


def test_in_the_authors_code_the_archive_has_no_gradient():
    """The losses of the archive are numbers, so only a factor remains."""
    task, data = toy.ToyTask(), toy.make_data()
    params = task.space.init(jax.random.key(0))
    child, archived = Architecture(jnp.array([1, 2])), Architecture(jnp.array([0, 2]))

    def loss(params, architecture):
        rows = task.space.rows(architecture)
        return task.fisher_loss(gather(params, rows), architecture, data, "train", 0)

    def loss_of_code(params):
        others = jax.lax.stop_gradient(loss(params, archived))
        return (1 - SHARE) * loss(params, child) + SHARE * others

    protection = Nsas(share=SHARE, gradient="code")
    assert protection.companions == 0
    optimizer = optax.chain(optax.clip_by_global_norm(8.0), optax.sgd(0.1))
    gradients = jax.jit(
        lambda params: (jax.grad(loss_of_code)(params), jax.grad(loss)(params, child))
    )(params)
    # Clipping comes after the factor: it changes the second alone.
    norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
    assert norms[0] < 8 < norms[1]
    expected, _ = optimizer.update(gradients[0], optimizer.init(params), params)
    under = protection.wrap(optimizer, 0.1, 0.0)
    found, _ = under.update(gradients[1], under.init(params), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
    )


class Scaled(Rehearsing):
    """Trains on a part of the child's loss."""

    def gradient(self, choice, batch):
        found = super().gradient(choice, batch)
        return {name: (1 - SHARE) * value for name, value in found.items()}


def test_a_search_with_the_authors_code_trains_on_a_part_of_the_childs_loss():
    search = make_search(protection=Nsas(share=SHARE, gradient="code"))
    data, state = toy.make_data(), search.init(jax.random.key(1))
    written = Scaled(state.shared.params, data, None)
    state = run_epoch(search, state, data, 0)
    for index, child in enumerate(np.asarray(state.epoch.architectures.choice)):
        written.train_with(child, [], 0, index)
    for name, value in state.shared.params.items():
        np.testing.assert_allclose(value, written.params[name], rtol=2e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"archive": 0},
        {"archive": 65},
        {"share": -0.1},
        {"neighbours": 0},
        {"recent": 0},
        {"gradient": "none"},
        {"start_epoch": -1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Nsas(**wrong)


def test_what_the_authors_code_does_not_read_is_told():
    assert not Nsas.unread({"gradient": "paper", "archive": 8})
    assert set(Nsas.unread({"gradient": "code"})) == {
        *("archive", "neighbours", "recent", "start_epoch")
    }
