"""``--mode=ensemble``: files, report and errors."""

import jax
import numpy as np
import pytest
from helpers import toy

from wpl_jax.configs import gaea_nb201_small
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import ensemble
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.arms import restore, searches_of
from wpl_jax.jobs.expand import expand
from wpl_jax.runs.machine import Machine
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import DataCache


def get_config():
    config = gaea_nb201_small.get_config("digits")
    config.strategy.name = "random"
    config.strategy.random.candidates.update(
        {"proposed": 4, "screen_batches": 1, "keep": 3, "judge_batches": 1}
    )
    config.space.nasbench201.channels = 2
    config.search.update({"epochs": 1, "children": 2, "batches": 1, "eval_batches": 1})
    config.ensemble = {"members": 2}
    return config


@pytest.mark.slow
def test_the_best_candidates_are_evaluated_together(tmp_path, capsys):
    config, workdir = get_config(), tmp_path / "run"
    jobs.run(config, workdir, "run")
    jobs.run(config, workdir, "ensemble")
    assert "of 2 children together" in capsys.readouterr().out
    assert "Ensembles of children" in (workdir / "report.html").read_text()
    each = expand(config)[0]
    found = ensemble.read(each.folder(workdir))
    search, data, _ = searches_of([each], workdir, DataCache(), Machine())[each.arm]
    state = restore(search, each, each.folder(workdir))
    selection = jax.device_get(state.selection)
    order = np.argsort(selection.judged.error, kind="stable")
    best = selection.architectures.choice[selection.kept[order[:1]]]
    alone = Evaluator(search.task).evaluate(
        state.shared.params, Architecture(jax.numpy.asarray(best)), data, "test"
    )
    np.testing.assert_allclose(found["test"].alone.error[0], alone.error[0], rtol=1e-5)
    together = found["test"].together
    np.testing.assert_allclose(together.loss[0], alone.loss[0], rtol=1e-5)
    assert len(together.loss) == 2


def test_errors_come_before_anything_is_compiled(tmp_path):
    config = toy.get_config()
    with pytest.raises(UserError, match="There is no run"):
        jobs.run(config, tmp_path / "run", "ensemble")
    config.ensemble = {"members": 0}
    with pytest.raises(ConfigError, match=r"config\.ensemble\.members is 0"):
        jobs.run(config, tmp_path / "run", "ensemble")
