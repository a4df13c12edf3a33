"""The first screen: what was found, what it costs, and what to do next."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wpl_jax.models.files import MODEL_FILE, name_of
from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import ARCHITECTURE_FILE, Searched, search_folder
from wpl_jax.reports.sections.section import Report, Section, spread
from wpl_jax.runs.loggers.tensorboard import wall_seconds
from wpl_jax.spaces.costs import UNITS, Costs
from wpl_jax.tasks.guessing import read_guess

_MOST_COMPARED = 3  # others in the first sentence; tables have all
_MOST_WIDE = 88  # characters of a command on one line
_EPOCHS = 100  # of a retraining, if the configuration has none
_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def _show(page: Page, report: Report) -> None:
    page.text(_found(report), _cost(report))
    page.text("What to do next, in the folder from which this run was started:")
    page.code("\n".join(_commands(report)))


def _found(report: Report) -> str:
    """How good the best architectures of the main arm are, and compared with what."""
    arm, seeds = next(iter(report.arms.items()))
    scratch = {s.seed: s.retrained for s in seeds if s.retrained}
    if scratch:
        errors = _errors(scratch, "test_error")
        what = f"{_subject(report)} has a test {report.error_name} of"
        how = f" after training from scratch ({_over(errors)})"
        others = [*_compared(report, arm)]
    else:
        results = {s.seed: s.results for s in seeds}
        errors = _errors(results, "valid_error")
        what = f"{_subject(report)} has a validation {report.error_name} of"
        how = f" with the shared weights ({_over(errors)}); it is not trained yet"
        others = [
            (
                f"the arm {other}",
                _errors({s.seed: s.results for s in found}, "valid_error"),
            )
            for other, found in report.arms.items()
            if other != arm
        ]
    parts = [f"{what} {_value(errors)}{how}"]
    parts += [_beside(errors, *other) for other in others[:_MOST_COMPARED]]
    guess = read_guess((list(scratch.values()) or [seeds[0].results])[0])
    if guess is not None:
        parts.append(f"a guess without inputs has {guess.error:.3g} on validation data")
    return f"{'; '.join(parts)}."


def _subject(report: Report) -> str:
    """What was found, by the arm if there are others."""
    first = next(iter(report.arms))
    if len(report.arms) > 1:
        return f"What the arm {first} found"
    return "The best architecture"


def _errors(found: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    return {seed: float(each[name]) for seed, each in found.items()}


def _over(errors: Mapping[int, float]) -> str:
    """Of what the uncertainty is."""
    if len(errors) == 1:
        return "one seed, so its uncertainty is not known"
    return f"± the standard error over {len(errors)} seeds"


def _value(errors: Mapping[int, float]) -> str:
    return spread([*errors.values()], 2)


def _compared(report: Report, arm: str) -> Iterator[tuple[str, dict[int, float]]]:
    """Test errors of what was trained beside it: baselines first, then other arms."""
    baselines: dict[str, dict[int, Mapping[str, Any]]] = {}
    for one in report.arms[arm]:
        for name, trained in one.baselines.items():
            baselines.setdefault(name, {})[one.seed] = trained
    for name, found in baselines.items():
        yield f"the baseline {name}", _errors(found, "test_error")
    for other, seeds in report.arms.items():
        scratch = {s.seed: s.retrained for s in seeds if s.retrained}
        if other != arm and scratch:
            yield f"the arm {other}", _errors(scratch, "test_error")


def _beside(main: Mapping[int, float], name: str, errors: Mapping[int, float]) -> str:
    """Another error, and whether the difference is more than its standard error."""
    shared = sorted(main.keys() & errors.keys())
    said = f"{name} has {_value(errors)}"
    if len(shared) < 2:
        return said
    differences = np.array([main[seed] - errors[seed] for seed in shared])
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / np.sqrt(len(shared))
    if abs(mean) <= 2 * error:
        return f"{said}, no different within two standard errors"
    return f"{said}, {abs(mean):.2f} ± {error:.2f} {'less' if mean > 0 else 'more'}"


def _cost(report: Report) -> str:
    """Parameters, or all costs before it is trained, and times of the main arm."""
    arm, seeds = next(iter(report.arms.items()))
    counts = [s.retrained["parameters"] for s in seeds if s.retrained]
    parts = [f"It has {np.mean(counts):,.0f} parameters"] if counts else []
    if not counts and (costs := _costs(seeds)):
        parts = [f"It has {costs} in the size of the search"]
    folders = [search_folder(report.workdir, arm, s.seed) for s in seeds]
    times = [wall_seconds(folder) for folder in folders]
    again = [wall_seconds(folder / "retrain") for folder in folders]
    for what, seconds in (("the search", times), ("its training from scratch", again)):
        there = [x for x in seconds if x is not None]
        if there:
            parts.append(f"{what} took {_duration(float(np.mean(there)))}")
    if not parts:
        return "What it costs is not known: the folder has no times."
    notes = [f"means of {len(seeds)} seeds"] if len(seeds) > 1 else []
    if any(x is not None for x in (*times, *again)):
        notes.append("times include compilation, and are those of the machine")
    text = "; ".join(parts)
    about = f" ({'; '.join(notes)})" if notes else ""
    return f"{text[0].upper()}{text[1:]}{about}."


def _costs(seeds: Sequence[Searched]) -> str:
    """Costs of what was found, in the sizes of the search; means over seeds."""
    found = [
        Costs(each.space).of_choices([each.results["architecture"]]) for each in seeds
    ]
    return " and ".join(
        f"{np.mean([each[name] for each in found]):,.0f} {UNITS[name]}"
        for name in UNITS
        if name in found[0]
    )


def _duration(seconds: float) -> str:
    """A time in the largest unit of which it has at least 2.

    Examples:
      >>> _duration(90), _duration(150), _duration(10_000)
      ('90 seconds', '2.5 minutes', '2.8 hours')
    """
    size, unit = next((u for u in _UNITS if seconds >= 2 * u[0]), _UNITS[-1])
    digits = 0 if unit == "seconds" else 1
    return f"{seconds / size:.{digits}f} {unit}"


def _commands(report: Report) -> list[str]:
    """Commands that train, use and export what was found, each after its purpose."""
    arm, seeds = next(iter(report.arms.items()))
    best = _best(seeds)
    trained = [one for one in report.searches if one.retrained]
    config = [*report.flags] or ["--config=CONFIG"]
    folder = search_folder(report.workdir, arm, best.seed)
    longer = (
        []
        if report.config.get("retrain", {}).get("epochs")
        else [f"--config.retrain.epochs={_EPOCHS}"]
    )
    retrain = [
        *config,
        f"--workdir={report.workdir}_retrained",
        "--mode=retrain",
        f"--config.retrain.architecture={folder / ARCHITECTURE_FILE}",
        *longer,
    ]
    run = [f"--workdir={report.workdir}"]
    if not trained:
        run = [f"--workdir={report.workdir}_retrained"]
    # The class of a space that is not registered comes from the configuration.
    own = config if ":" in name_of(best.space) else []
    return [
        "# Train it from scratch, in a folder of its own; config.retrain has the "
        "settings:",
        _line(retrain),
        f"# Predict with the best {MODEL_FILE}; INPUT is a file or a folder:",
        _line([*own, *run, "--mode=predict", "--input=INPUT"]),
        "# Write it as a program that does not need this library:",
        _line([*own, *run, "--mode=export", f"--format={_format(best)}"]),
    ]


def _format(best: Searched) -> str:
    """Flax source where the space writes it out, else a compiled program."""
    return "stablehlo" if ":" in name_of(best.space) else "nnx"


def _best(seeds: Sequence[Searched]) -> Searched:
    """By validation data: trained from scratch, where they are."""
    trained = [s for s in seeds if s.retrained]
    return min(
        trained or seeds, key=lambda s: (s.retrained or s.results)["valid_error"]
    )


def _line(words: Sequence[str]) -> str:
    """A command, on several lines where it is long."""
    flags = [shlex.join(["wpl-jax", *words[:1]]), *map(shlex.quote, words[1:])]
    line = " ".join(flags)
    return line if len(line) <= _MOST_WIDE else " \\\n    ".join(flags)


SECTION = Section(_show)
