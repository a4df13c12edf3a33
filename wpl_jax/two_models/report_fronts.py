"""The part of the report that compares penalties: fronts, areas and rules."""

from collections.abc import Mapping, Sequence

import numpy as np

from wpl_jax.common.bootstrap import CONFIDENCE, Interval, quantiles, resamples
from wpl_jax.common.counted import counted
from wpl_jax.reports.page import COLORS, Page, new_figure
from wpl_jax.two_models import fronts
from wpl_jax.two_models.analysis import Outcome, select, standard_error
from wpl_jax.two_models.fronts import Area, Corners
from wpl_jax.two_models.penalties import FREE, FROZEN, PENALTIES
from wpl_jax.two_models.report_words import (
    alpha_cell,
    mean_cell,
    reduction_cell,
    rules_of,
    stop_name,
    title_of,
)
from wpl_jax.two_models.rules import Rule, choose

_ACCURACIES = 200  # of B, at which a band is drawn

Setting = tuple[float, int, str]  # stop, shared, normalize
Front = tuple[str, str]  # penalty, step


def add(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    """Adds the fronts of the main setting, the areas of all, and what rules choose."""
    main = config["main"]
    page.heading("What A keeps against what B reaches")
    setting = (main["stop"], main["shared"], main["normalize"])
    _figure(page, outcomes, setting)
    _areas(page, outcomes, config)
    _rules(page, outcomes, config, setting)


def fronts_of(outcomes: Sequence[Outcome], setting: Setting) -> dict[Front, list]:
    """Arms of each penalty and step of a setting, in order of alpha."""
    stop, shared, normalize = setting
    own = select(outcomes, stop=stop, shared=shared, normalize=normalize)
    found = {}
    for penalty in PENALTIES:
        for step in sorted({o.step for o in own}):
            swept = select(own, penalty=penalty, step=step)
            if swept and PENALTIES[penalty].is_swept:
                found[penalty, step] = swept
    return found


def _corner_arms(outcomes, setting: Setting) -> tuple[Outcome, Outcome]:
    """The arms without a penalty and with frozen layers."""
    stop, shared, _ = setting
    (free,) = select(outcomes, penalty=FREE, stop=stop, shared=shared)
    (frozen,) = select(outcomes, penalty=FROZEN, stop=stop, shared=shared)
    return free, frozen


def _figure(page: Page, outcomes: Sequence[Outcome], setting: Setting) -> None:
    free, frozen = _corner_arms(outcomes, setting)
    found = fronts_of(outcomes, setting)
    steps = sorted({step for _, step in found})
    figure = new_figure(10, 4.5)
    panels = figure.subplots(1, len(steps), sharex=True, sharey=True, squeeze=False)[0]
    colors = dict(
        zip(dict.fromkeys(penalty for penalty, _ in found), COLORS, strict=False)
    )
    for ax, step in zip(panels, steps, strict=True):
        for (penalty, of_step), arms in found.items():
            if of_step == step:
                _draw(ax, [free, *arms], colors[penalty], title_of(penalty))
        for arm, marker in ((free, "x"), (frozen, "s")):
            kept, reached = arm.final_test.mean(0)
            label = title_of(arm.penalty)
            ax.plot(reached, kept, marker, color=COLORS[6], ms=7, label=label)
        ax.axhline(free.start_test.mean(), color="0.7", lw=0.8)
        ax.set(title=f"{step} step", xlabel="accuracy that B reaches")
    figure.axes[0].set(ylabel="accuracy that A keeps", **_limits(found, free, frozen))
    figure.axes[-1].legend(fontsize="small")
    stop, shared, _ = setting
    page.figure(
        figure,
        "methods",
        "Each point is one alpha, mean over seeds on test images, for A "
        f"{stop_name(stop)} and {counted(shared, 'shared layer')}. "
        "Up and right is better. Lines "
        "join the points that no other alpha is better than. Points far below all "
        "lines, such as those of trainings that diverged, are outside the figure. The "
        f"band is the {CONFIDENCE:.0%} interval of the line at each accuracy of "
        "B, from a bootstrap over seeds. The grey line is A before B was trained.",
    )


def _limits(found, free: Outcome, frozen: Outcome) -> dict[str, tuple[float, float]]:
    """Limits of the axes that hold the corners and all fronts."""
    shown = [arm.final_test.mean(0) for arm in (free, frozen)]
    for arms in found.values():
        shown += list(
            fronts.front(np.array([o.final_test.mean(0) for o in [free, *arms]]))
        )
    kept, reached = np.transpose([*shown, (free.start_test.mean(), shown[0][1])])
    margins = [0.06 * max(np.ptp(x), 0.02) for x in (reached, kept)]
    return {
        name: (x.min() - margin, x.max() + margin)
        for name, x, margin in zip(
            ("xlim", "ylim"), (reached, kept), margins, strict=True
        )
    }


def _draw(ax, arms: Sequence[Outcome], color: str, label: str) -> None:
    points = np.stack([arm.final_test for arm in arms])
    mean = points.mean(1)
    line = fronts.front(mean)
    ax.plot(*mean.T[::-1], ".", color=color)
    ax.plot(*line.T[::-1], "-", color=color, label=label)
    reached = np.linspace(line[-1, 1], line[0, 1], _ACCURACIES)
    drawn = [
        fronts.kept_at(points[:, draw].mean(1), reached)
        for draw in resamples(points.shape[1])
    ]
    if drawn:
        low, high = quantiles(np.array(drawn))
        ax.fill_between(reached, low, high, color=color, alpha=0.12, lw=0)


def _areas(page: Page, outcomes: Sequence[Outcome], config: dict) -> None:
    main = config["main"]
    rows = []
    settings = dict.fromkeys(
        (o.stop, o.shared, o.normalize)
        for o in outcomes
        if PENALTIES[o.penalty].is_swept
    )
    for setting in sorted(settings, key=lambda s: (-s[0], *s[1:])):
        found = fronts_of(outcomes, setting)
        reference = main["penalty"], main["step"]
        if reference not in found:
            continue
        corners = fronts.corners_of(*_corner_arms(outcomes, setting))
        rows += _area_rows(setting, found, corners, reference)
    main_name = f"{title_of(main['penalty'])}, {main['step']} step"
    page.table(
        (
            "A was trained until",
            "layers shared",
            "scale of the Fisher",
            "penalty",
            "step",
            "area under the front",
            f"more than {main_name}",
            "spread of the Fisher",
        ),
        rows,
    )
    page.text(
        "The area under a front is the share of A's loss that is prevented, in the "
        "mean over what B may pay, from nothing to what frozen layers cost it. A "
        "straight line from no penalty to frozen layers has an area of 0.5. Brackets "
        f"hold the {CONFIDENCE:.0%} bootstrap interval over seeds; differences "
        "are between the same seeds. There is no area where A does not forget, or "
        "where frozen layers cost B nothing: nothing is traded then. The spread of the "
        "Fisher is the share of the shared weights that it is spread over, "
        "(sum F)^2 / (n sum F^2): 1 if it is the same for all, 1/n if one weight has "
        "all of it.",
    )


def _area_rows(
    setting: Setting,
    found: Mapping[Front, Sequence[Outcome]],
    corners: Corners,
    reference: Front,
) -> list[tuple[str, ...]]:
    stop, shared, normalize = setting
    areas: dict = {}
    if fronts.is_trade_off(corners):
        areas = fronts.areas(found, corners, reference)
    return [
        (
            stop_name(stop),
            str(shared),
            normalize,
            title_of(front[0]),
            front[1],
            *_area_cells(areas.get(front), front == reference),
            _spread(arms[0]),
        )
        for front, arms in found.items()
    ]


def _area_cells(found: Area | None, is_reference: bool) -> tuple[str, str]:
    if found is None:
        return "nothing is traded", ""
    more = "" if is_reference else _interval(found.more, "+")
    return _interval(found.area), more


def _interval(found: Interval, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.3f}" for number in found)
    return value if np.isnan(found.low) else f"{value} [{low}, {high}]"


def _spread(arm: Outcome) -> str:
    known = arm.fisher_spread[np.isfinite(arm.fisher_spread)]
    return f"{known.mean():.2%}" if len(known) else "no Fisher"


def _rules(page: Page, outcomes, config: dict, setting: Setting) -> None:
    page.heading("What a rule for alpha gives")
    free, frozen = _corner_arms(outcomes, setting)
    found = fronts_of(outcomes, setting)
    rows = []
    for rule in rules_of(config).values():
        rows += [
            _rule_row(rule, free, arms, penalty, step)
            for (penalty, step), arms in found.items()
        ]
    rows.append(_rule_row(None, free, [frozen], FROZEN, ""))
    page.table(
        (
            "rule",
            "penalty",
            "step",
            "alpha",
            "A after B",
            "B",
            "A's loss prevented ± SE",
            "B pays ± SE",
            "seeds diverged",
        ),
        rows,
    )
    stop, shared, _ = setting
    lost, reached = free.lost_test, free.final_test[:, 1]
    page.text(
        f"Test images, A {stop_name(stop)}, {counted(shared, 'layer')} "
        "shared. Without a penalty "
        f"A loses {lost.mean():.3f} ± {standard_error(lost):.3f} (SE) and B reaches "
        f"{mean_cell(reached)}. Each alpha was chosen on validation images: among the "
        "alphas that obey the rule it makes the other model best. An asterisk marks a "
        "penalty of which no alpha obeys the rule; there it is the nearest one.",
    )


def _rule_row(
    rule: Rule | None, free: Outcome, arms: Sequence[Outcome], penalty: str, step: str
) -> tuple[str, ...]:
    """A row of the table; without a rule that of the only arm."""
    found = choose(free, arms, rule or Rule("prevented", 0.0))
    kept, reached = found.chosen.final_test.T
    cost = f"{found.cost.mean():+.3f}"
    if np.isfinite(found.cost_error):
        cost += f" ± {found.cost_error:.3f}"
    return (
        str(rule) if rule else "none",
        title_of(penalty),
        step,
        alpha_cell(found) if rule else "",
        mean_cell(kept),
        mean_cell(reached),
        reduction_cell(found),
        cost,
        f"{int((found.chosen.finite == 0).sum())} of {len(found.chosen.finite)}",
    )
