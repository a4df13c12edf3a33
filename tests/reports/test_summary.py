"""The first screen of a report: errors, uncertainty, costs and commands."""

import html
import re

import numpy as np
import pytest
from helpers.tabular import SPACE

from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections import summary
from wpl_jax.reports.sections.section import Report
from wpl_jax.runs.monitor import Metrics
from wpl_jax.spaces.costs import Costs
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.residual import ResidualNetwork

GUESS = {"loss": 1.0, "error": 50.0, "least_error": 45.0}
REGISTERED = ResidualNetwork((8, 8, 1), 10)


def searched(arm, seed, test=None, space=REGISTERED, baselines=None):
    """A search that found something, trained from scratch if ``test`` is its error."""
    results = {"error_name": "% error", "valid_error": 20.0 + seed, "guess": GUESS}
    results["architecture"] = [0] * len(space.decisions)
    retrained = None
    if test is not None:
        retrained = {"test_error": test, "valid_error": test + 1, "parameters": 1000}
        retrained["guess"] = GUESS
    trained = {
        name: {"test_error": error, "valid_error": error, "parameters": 1000}
        for name, error in (baselines or {}).items()
    }
    return Searched(arm, seed, space, [], results, retrained, None, trained)


def shown(arms, flags=(), config=None, tmp_path=None):
    """Paragraphs and commands of the section, which a shell reads as one line."""
    workdir = tmp_path
    page = Page("", workdir)
    report = Report(workdir, config or {}, arms, "", None, flags=flags)
    summary.SECTION.show(page, report)
    text = html.unescape("\n".join(page._parts))
    commands = re.findall(r"^wpl-jax .*", text, re.M)
    assert all(len(x) <= 88 or x.endswith("\\") for x in commands)
    text = re.sub(r" \\\n *", " ", text)
    return re.findall(r"<p>(.*?)</p>", text), re.findall(
        r"^wpl-jax [^<\n]*", text, re.M
    )


def test_errors_have_their_uncertainty_and_are_compared(tmp_path):
    tests = {
        "wpl": [10.0, 11.0, 12.0],
        "none": [13.0, 14.5, 15.0],
        "l2": [10.0, 12, 11],
    }
    arms = {
        arm: [
            searched(arm, i, x, baselines={"lstm": 9.0} if arm == "wpl" else None)
            for i, x in enumerate(errors)
        ]
        for arm, errors in tests.items()
    }
    (found, cost, _), _ = shown(arms, tmp_path=tmp_path)
    error = np.std(tests["wpl"], ddof=1) / np.sqrt(3)
    assert f"test % error of 11.00 ± {error:.2f} after" in found
    assert "± the standard error over 3 seeds" in found
    difference = np.array(tests["none"]) - tests["wpl"]
    error = np.std(difference, ddof=1) / np.sqrt(3)
    assert (
        f"the arm none has 14.17 ± 0.60, {difference.mean():.2f} ± {error:.2f} more"
        in found
    )
    assert (
        "the arm l2 has 11.00 ± 0.58, no different within two standard errors" in found
    )
    assert "the baseline lstm has 9.00 ± 0.00, 2.00 ± 0.58 less" in found
    assert "a guess without inputs has 50 on validation data" in found
    assert cost == "It has 1,000 parameters (means of 3 seeds)."


def test_one_seed_has_no_uncertainty_and_shared_weights_are_named(tmp_path):
    arms = {"wpl": [searched("wpl", 3)], "none": [searched("none", 3)]}
    (found, cost, _), commands = shown(arms, tmp_path=tmp_path)
    assert found.startswith(
        "What the arm wpl found has a validation % error of 23.00 with the shared "
        "weights (one seed, so its uncertainty is not known); it is not trained yet; "
        "the arm none has 23.00;"
    )
    (parameters,) = Costs(REGISTERED).of_choices([[]])["parameters"]
    assert cost == f"It has {parameters:,.0f} parameters in the size of the search."
    # What is not trained is trained first, and then used.
    assert "--config.retrain.epochs=100" in commands[0]
    retrained = f"--workdir={tmp_path}_retrained"
    assert all(retrained in command for command in commands)


def test_an_arm_without_others_is_not_named(tmp_path):
    space = NasBench201((8, 8, 1), 3, channels=2, cells=1)
    (found, cost, _), _ = shown(
        {"none": [searched("none", 0, None, space)]}, tmp_path=tmp_path
    )
    assert found == (
        "The best architecture has a validation % error of 20.00 with the shared "
        "weights (one seed, so its uncertainty is not known); it is not trained yet; a "
        "guess without inputs has 50 on validation data."
    )
    assert cost.startswith("It has ")
    assert " parameters and " in cost
    assert cost.endswith(" multiply-adds in the size of the search.")
    (found, cost, _), _ = shown({"none": [searched("none", 0, 8.0)]}, tmp_path=tmp_path)
    assert found.startswith("The best architecture has a test % error of 8.00 after")
    assert cost == "It has 1,000 parameters."


def test_times_are_those_of_the_folder(tmp_path):
    for name in ("", "/retrain"):
        metrics = Metrics(tmp_path / f"searches/wpl-seed0{name}", 0)
        metrics.write(0, {"x": 1})
        metrics.close()
    (_, cost, _), _ = shown({"wpl": [searched("wpl", 0, 8.0)]}, tmp_path=tmp_path)
    assert re.search(r"the search took \d+ seconds; its training from scratch", cost)


def test_commands_are_those_of_this_run(tmp_path):
    flags = ("--config=a b.py", "--config.seed=3")
    arms = {"wpl": [searched("wpl", 0, 9.0), searched("wpl", 1, 8.0)]}
    config = {"retrain": {"epochs": 5}}
    _, commands = shown(arms, flags, config, tmp_path)
    retrain, predict, export = commands
    assert retrain == (
        "wpl-jax '--config=a b.py' --config.seed=3 "
        f"--workdir={tmp_path}_retrained --mode=retrain --config.retrain.architecture="
        f"{tmp_path}/searches/wpl-seed1/architecture.json"
    )
    assert predict == f"wpl-jax --workdir={tmp_path} --mode=predict --input=INPUT"
    assert export == f"wpl-jax --workdir={tmp_path} --mode=export --format=nnx"
    # The class of a space that is not registered is in the configuration.
    own = {"wpl": [searched("wpl", 0, 9.0, space=SPACE)]}
    _, commands = shown(own, flags, config, tmp_path)
    for command in commands[1:]:
        assert command.startswith("wpl-jax '--config=a b.py' --config.seed=3 --workdir")
    assert commands[2].endswith("--format=stablehlo")


@pytest.mark.parametrize("flags", [(), ("--config=x.py",)])
def test_a_configuration_that_is_not_known_is_a_placeholder(flags, tmp_path):
    _, (retrain, *_) = shown({"a": [searched("a", 0, 1.0)]}, flags, tmp_path=tmp_path)
    assert ("--config=CONFIG " in retrain) == (not flags)
