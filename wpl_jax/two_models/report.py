"""The report of the two-model experiment: its figures, tables and their text."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.reports.page import COLORS, Page, band, new_figure
from wpl_jax.tasks.guessing import Guess, Model, remark
from wpl_jax.two_models import report_fronts
from wpl_jax.two_models.analysis import Outcome, select
from wpl_jax.two_models.arms import Arm
from wpl_jax.two_models.penalties import FREE
from wpl_jax.two_models.report_words import (
    alpha_cell,
    mean_cell,
    reduction_cell,
    rules_of,
    stop_name,
    title_of,
)
from wpl_jax.two_models.results import REPORT_FILE, read
from wpl_jax.two_models.rules import Chosen, Rule, choose


def write(workdir: Path, config: dict[str, Any], arms: Sequence[Arm]) -> None:
    """Writes ``report.html`` and ``figures/`` from a run's results.

    Args:
      workdir: Of the run.
      config: Of the run, JSON-like.
      arms: That the configuration asks for.

    Raises:
      UserError: As :func:`wpl_jax.two_models.results.read` does.
    """
    outcomes, guess = read(workdir, config, arms)
    page = Page("Two models that share layers", workdir)
    page.warning(_no_better_than_guessing(outcomes, config, guess))
    _introduction(page, config, outcomes)
    _summary(page, outcomes, config)
    _training_curves(page, outcomes, config)
    report_fronts.add(page, outcomes, config)
    _stops(page, outcomes, config)
    _sharing(page, outcomes, config)
    _calibration(page, outcomes, config)
    page.configuration(config)
    page.write(workdir / REPORT_FILE)


def _no_better_than_guessing(
    outcomes: Sequence[Outcome], config: dict, guess: Guess | None
) -> str:
    """Names the models whose training has taught them nothing."""
    if guess is None:
        return ""
    accuracies: dict[str, np.ndarray] = {}
    for outcome in select(outcomes, penalty=FREE):
        stop, shared = outcome.stop, outcome.shared
        accuracies[f"A {stop_name(stop)}"] = outcome.start_valid
        of_b = f"B beside A {stop_name(stop)}, {counted(shared, 'layer')} shared"
        accuracies[f"{of_b}, no penalty"] = outcome.final_valid[:, 1]
        if found := _chosen(outcomes, config, stop, shared, _main_rule(config)):
            name = f"{of_b}, {found.chosen.penalty}"
            accuracies[name] = found.chosen.final_valid[:, 1]
    models = []
    for name, accuracy in accuracies.items():
        errors = 100 * (1 - accuracy)
        at_level = errors[[guess.explains(error) for error in errors]]
        if len(at_level):
            name += f", {len(at_level)} of {len(errors)} seeds"
            models.append(Model(name, float(at_level.mean()), guess))
    remedy = (
        "Lower the learning rate of config.model_a or config.model_b, or raise "
        "config.model_a.steps or config.model_b.steps."
    )
    return remark(models, "% error", remedy)


def _introduction(page: Page, config: dict, outcomes: Sequence[Outcome]) -> None:
    page.text(
        f"A network A of {counted(config['layers_a'], 'layer')} "
        "is trained, then a network B of "
        f"{counted(config['layers_b'], 'layer')} "
        "that shares some of A's layers: B starts from "
        "them and goes on training them. What this does to A is called multi-model "
        "forgetting, and it is what happens in architecture search with shared "
        "weights, where each candidate trains on the weights of all.",
        "The Weight Plasticity Loss (WPL; Benyahia et al., ICML 2019) adds to B's loss "
        "the penalty alpha/2 * sum_i F_i (theta_i - anchor_i)^2 over the shared "
        "weights theta, with the anchor where A left them and F the diagonal of A's "
        "Fisher information: how much A's output depends on each weight. Elastic "
        "Weight Consolidation (EWC) is the same penalty with another estimate of F, "
        "L2 the same with F = 1.",
        f"Data: {config['data']['path'] or config['data']['format']}. "
        f"{counted(config['num_seeds'], 'seed')}; "
        "bands and ± show the standard deviation over "
        "seeds, SE the standard error of the mean. Alpha was chosen on validation "
        "images, all tables show test images. With a seed A, B's initialization and "
        "the batches are the same in all arms.",
    )


def _summary(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    main = config["main"]
    penalty = re.split(r",| \(", title_of(main["penalty"]))[0]
    page.heading("Forgetting, and how much of it the penalty prevents")
    settings = dict.fromkeys((o.stop, o.shared) for o in outcomes)
    rows = []
    for stop, shared in sorted(settings, key=lambda s: (-s[0], s[1])):
        for rule in rules_of(config).values():
            found = _chosen(outcomes, config, stop, shared, rule)
            if found is None:
                continue
            without, chosen = found.without, found.chosen
            rows.append(
                (
                    stop_name(stop),
                    str(shared),
                    str(rule),
                    mean_cell(without.start_test),
                    mean_cell(without.final_test[:, 0]),
                    mean_cell(chosen.final_test[:, 0]),
                    reduction_cell(found),
                    mean_cell(without.final_test[:, 1]),
                    mean_cell(chosen.final_test[:, 1]),
                    alpha_cell(found),
                )
            )
    page.table(
        (
            "A was trained until",
            "layers shared",
            "rule for alpha",
            "A before",
            "A after B, no penalty",
            f"A after B, {penalty}",
            "relative reduction ± SE",
            "B, no penalty",
            f"B, {penalty}",
            "alpha",
        ),
        rows,
    )
    page.text(
        "Accuracies on test images. The relative reduction is (d - d_WPL)/d, d what A "
        "lost without the penalty and d_WPL with it; 100 % means that nothing was "
        "forgotten, above 100 % that A gained. Where A did not forget beyond the "
        "noise between seeds, no ratio is given. The penalty here: "
        f"{title_of(main['penalty'])}, {main['step']} step, normalization of the "
        f"Fisher: {main['normalize']}. A rule limits what one model loses, on "
        "validation images; alpha is the one under which the other model is best. An "
        "asterisk marks settings in which no alpha obeys the rule; there it is the "
        "nearest one."
    )


def _training_curves(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    page.heading("Both models while B is trained")
    shared = config["main"]["shared"]
    stops = sorted({o.stop for o in outcomes}, reverse=True)
    rule = _main_rule(config)
    chosen = (_chosen(outcomes, config, stop, shared, rule) for stop in stops)
    found = [each for each in chosen if each]
    figure = new_figure(10, 3.6 * ((len(found) + 1) // 2))
    columns = min(2, len(found))
    axes = figure.subplots(-(-len(found) // columns), columns, squeeze=False).ravel()
    for ax, calibrated, letter in zip(axes, found, "abcdefgh", strict=False):
        for outcome, color in ((calibrated.without, 1), (calibrated.chosen, 0)):
            label = title_of(outcome.penalty)
            steps = _steps(outcome, config)
            band(ax, steps, outcome.valid_a, COLORS[color], f"A, {label}")
            band(ax, steps, outcome.valid_b, COLORS[color], f"B, {label}", "--")
        ax.set_title(f"({letter}) A {stop_name(calibrated.chosen.stop)}")
        ax.set(xlabel="iterations of training B", ylabel="accuracy", ylim=(0, 1))
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    axes[0].legend(fontsize="small")
    page.figure(
        figure,
        "training",
        f"Accuracy on validation images with {counted(shared, 'shared layer')}, "
        "after A converged "
        "and after A was stopped early (figure 2 of the paper). Solid: A, which is "
        f"not trained any more. Dashed: B. Rule for alpha: {rule}.",
    )


def _stops(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    page.heading("What it costs B to keep an A that was stopped early")
    figure = new_figure()
    ax = figure.subplots()
    shared = config["main"]["shared"]
    stops = sorted({o.stop for o in outcomes}, reverse=True)
    for stop, color in zip(stops, COLORS, strict=False):
        swept = select(outcomes, stop=stop, shared=shared, **_penalty(config))
        without = _without(outcomes, stop, shared)
        points = np.array([o.final_test.mean(0) for o in [without, *swept]])
        ax.plot(*points.T[::-1], ".-", color=color, label=f"A {stop_name(stop)}")
        ax.plot(*points[0][::-1], "x", color=color, ms=9)
        ax.axhline(without.start_test.mean(), color=color, lw=0.8, ls=":")
    ax.set(xlabel="accuracy that B reaches", ylabel="accuracy that A keeps")
    ax.legend(fontsize="small")
    page.figure(
        figure,
        "stops",
        f"{title_of(config['main']['penalty'])}: from no penalty (cross) through "
        "growing alpha, mean over seeds on test images; dotted: A before B was "
        "trained. A converged A leaves features that serve B as well. An A that was "
        "stopped early leaves poor ones, which B cannot improve without changing A.",
    )


def _sharing(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    page.heading("How much is forgotten by how many layers are shared")
    figure = new_figure()
    ax = figure.subplots()
    main = config["main"]
    plain = select(outcomes, penalty=FREE, stop=main["stop"])
    plain.sort(key=lambda o: o.shared)
    for outcome, color in zip(plain, COLORS, strict=False):
        band(
            ax,
            _steps(outcome, config),
            outcome.valid_a,
            color,
            f"{outcome.shared} shared",
        )
    ax.set(xlabel="iterations of training B", ylabel="accuracy of A", ylim=(0, 1))
    ax.legend()
    page.figure(
        figure,
        "sharing",
        "Accuracy of the converged A on validation images while B is trained without "
        "a penalty (figure 1, right, of the paper). The highest number shares all of "
        "A's layers, its classifier too.",
    )


def _calibration(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    page.heading("Which alpha keeps A, and what it costs B")
    main = config["main"]
    setting = {name: main[name] for name in ("stop", "shared", "penalty")}
    without = _without(outcomes, main["stop"], main["shared"])
    scales = {
        "none": ("raw", "alpha, with the raw Fisher of equation 8"),
        "tree": ("normalized", "alpha, with the Fisher scaled to mean 1"),
        "tensor": ("per_tensor", "alpha, with each tensor's Fisher scaled to mean 1"),
    }
    for normalize, (name, xlabel) in scales.items():
        swept = select(outcomes, normalize=normalize, **setting)
        if not swept:
            continue
        figure = new_figure(10, 4)
        for ax, model, title in zip(
            figure.subplots(1, 2, sharey=True), (0, 1), "AB", strict=True
        ):
            for step, color in (("explicit", COLORS[1]), ("proximal", COLORS[0])):
                arms = select(swept, step=step)
                if arms:
                    alphas = np.array([o.alpha for o in arms])
                    values = np.array([o.final_test[:, model] for o in arms]).T
                    band(ax, alphas, values, color, f"{step} step")
            ax.axhline(
                without.final_test[:, model].mean(),
                color="0.4",
                ls=":",
                label="no penalty",
            )
            ax.set(xscale="log", xlabel=xlabel, title=f"model {title}", ylim=(0, 1))
        figure.axes[0].set_ylabel("accuracy after B's training")
        figure.axes[0].legend(fontsize="small")
        page.figure(
            figure,
            f"alpha_{name}",
            f"{title_of(main['penalty'])}, {counted(main['shared'], 'shared layer')}, "
            f"A {stop_name(main['stop'])}, on test images. The "
            "explicit step adds the penalty's gradient and diverges where learning "
            "rate * alpha * F exceeds 2 for some weight, which takes both models to "
            "chance; the proximal step minimises the same objective and holds at "
            "every alpha.",
        )


def _without(outcomes: Sequence[Outcome], stop: float, shared: int) -> Outcome:
    """The arm without a penalty; every study brings it along."""
    (outcome,) = select(outcomes, penalty=FREE, stop=stop, shared=shared)
    return outcome


def _penalty(config: dict) -> dict:
    """What the main penalty is, but for its alpha."""
    return {name: config["main"][name] for name in ("penalty", "step", "normalize")}


def _chosen(
    outcomes: Sequence[Outcome], config: dict, stop: float, shared: int, rule: Rule
) -> Chosen | None:
    """The main penalty at the alpha of a rule; None where the setting lacks it."""
    swept = select(outcomes, stop=stop, shared=shared, **_penalty(config))
    if not swept:
        return None
    return choose(_without(outcomes, stop, shared), swept, rule)


def _main_rule(config: dict) -> Rule:
    return rules_of(config)[config["main"]["rule"]]


def _steps(outcome: Outcome, config: dict) -> np.ndarray:
    return np.arange(outcome.valid_a.shape[1]) * config["model_b"]["eval_every"]
