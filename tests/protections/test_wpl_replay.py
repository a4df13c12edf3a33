"""WPL with rehearsal, against the same written in numpy."""

import jax
import numpy as np
import pytest
from helpers import toy
from helpers.rehearsing import EPOCHS, SHARE, Rehearsing
from helpers.written_search import make_search, run_epoch

from wpl_jax.common.settings import SettingError
from wpl_jax.protections.estimators import Batch
from wpl_jax.protections.wpl_replay import WplReplay


def test_children_are_trained_with_the_newest_under_the_penalty():
    protection = WplReplay(
        strength=3.0,
        start_epoch=1,
        flush_every=None,
        estimator=Batch(batches=2),
        companions=1,
        share=SHARE,
    )
    search, data = make_search(protection=protection), toy.make_data()
    state = search.init(jax.random.key(1))
    written, earlier = Rehearsing(state.shared.params, data, protection), []
    for epoch in range(EPOCHS):
        state = run_epoch(search, state, data, epoch)
        for index, child in enumerate(np.asarray(state.epoch.architectures.choice)):
            written.train_with(child, earlier, epoch, index)
            written.protect(child, epoch, index)
            if epoch >= 1:
                earlier = [child]
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=5e-5)


@pytest.mark.parametrize("wrong", [{"companions": 0}, {"share": 2}, {"eta": 2}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        WplReplay(**wrong)
