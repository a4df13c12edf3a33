"""Sections of differentiable searches, on records by hand."""

import json
import math

import numpy as np
import pytest
from helpers.toy import ToySpace
from PIL import Image

from wpl_jax.errors import UserError
from wpl_jax.evaluation.table import nasbench201
from wpl_jax.reports import search_report
from wpl_jax.reports.animation import frames_of, write_gif
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.sections import (
    architecture_weights,
    child_order,
    derived_accuracy,
    derived_operations,
    discretization_gap,
    forgetting,
    introduction,
    true_order,
    weight_entropy,
)
from wpl_jax.reports.sections.section import Report
from wpl_jax.spaces.nasbench201 import NasBench201

SPACE = NasBench201((8, 8, 3), 10, 4, 1, exclude_none=True, edge_weights=True)
EPOCHS = 3
CONFIG = {
    "search": {"batches": 7, "eval_batches": 2},
    "arms": {},
    "ranking": {"truth": "table"},
}
SKIP, ALL_3X3 = [0] * 6, [2] * 6  # as the space numbers them, without "none"
# Of two seeds, what would be derived at the end of each epoch.
DERIVED = (
    (SKIP, [0, 0, 0, 2, 2, 2], ALL_3X3),
    (SKIP, SKIP, [0, 0, 2, 2, 2, 2]),
)


def weights_of(choice, share):
    """The choice of each edge has this share, the others the rest in equal parts."""
    rows = np.full((8, 4), (1 - share) / 3)
    rows[np.arange(6), choice] = share
    rows[6:] = 0  # Places where there is no choice have no weight.
    rows[6, :2] = 0.5
    rows[7, :3] = [1.0, 0.0, 0.0]
    return rows.tolist()


def write_search(folder, seed, space=SPACE, **changes):
    folder.mkdir(parents=True)
    columns = forgetting.SECTION.columns.of_all(space)
    lines = []
    for epoch, choice in enumerate(DERIVED[seed]):
        record = dict.fromkeys(columns, 0.5) | {
            "step": epoch,
            "children/error": 60.0 - 10 * seed,
            "children/reward": 0.5,
            "children/best": choice,
            "children/err1": [1.0],
            "children/err2": [2.0 + seed + epoch],
            "strategy/weights": weights_of(choice, (0.25, 0.5, 1.0)[epoch]),
            "strategy/derived": choice,
            "children/discretization_gap_loss": 0.5 * epoch,
            "children/discretization_gap_error": -4.0 + 2 * epoch + 2 * seed,
        }
        record |= {name: values[epoch] for name, values in changes.items()}
        lines.append(json.dumps(record) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    results = {
        "architecture": DERIVED[seed][-1],
        "error_name": "error %",
        "valid_error": 40.0,
        "valid_loss": 1.0,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return search_report.read(folder, "gaea", seed, space, EPOCHS)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two seeds of one arm, which tests only read."""
    folder = tmp_path_factory.mktemp("differentiable")
    seeds = [write_search(folder / f"seed{seed}", seed) for seed in (0, 1)]
    return Report(folder, CONFIG, {"gaea": seeds}, "data", None)


def of_one(report, **changes):
    return report._replace(**changes)


def test_the_introduction_tells_what_a_child_is_and_of_no_penalty(report, tmp_path):
    lines = [{**row, "penalty/alpha": 0.0} for row in report.searches[0].metrics]
    one = report.searches[0]._replace(metrics=lines)
    page = Page("title", tmp_path)
    introduction.SECTION.show(page, report._replace(arms={"gaea": [one]}))
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Gradients train architecture weights. There a child is a mixture" in text
    assert "Each epoch trains one child on 7 batches." in text
    assert "Weight Plasticity Loss" not in text


def test_where_an_epoch_trains_one_child_nothing_is_said_of_forgetting(
    report, tmp_path
):
    lines = [{**row, "penalty/alpha": 0.0} for row in report.searches[0].metrics]
    one = report.searches[0]._replace(metrics=lines)
    page = Page("title", tmp_path)
    for section in (introduction, forgetting, child_order):
        section.SECTION.show(page, report._replace(arms={"gaea": [one]}))
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "trains one child on 7 batches. err1 and err2 are its error then." in text
    assert "<svg" not in text
    assert "<table" not in text


# Entropy.


def test_entropies_are_those_of_each_decision_in_nats(report):
    (mean,) = weight_entropy.means(report).axes
    (each,) = weight_entropy.of_decisions(report).axes
    # Of a share of 1/4 it is log 4. Of 1/2, and three of 1/6, it is log 2 + log 3 / 2.
    edge = np.array([math.log(4), math.log(2) + math.log(3) / 2, 0])
    inputs = math.log(2), 0  # of nodes 2 and 3
    of_groups = {line.get_label(): line.get_ydata() for line in each.lines}
    np.testing.assert_allclose(of_groups["edge 0 1"], edge, atol=1e-6)
    np.testing.assert_allclose(of_groups["inputs of 2"], inputs[0], atol=1e-6)
    np.testing.assert_allclose(of_groups["inputs of 3"], inputs[1], atol=1e-6)
    of_arms = {line.get_label(): line.get_ydata() for line in mean.lines}
    np.testing.assert_allclose(of_arms["gaea"], (6 * edge + sum(inputs)) / 8, atol=1e-6)
    most = (6 * math.log(4) + math.log(2) + math.log(3)) / 8
    assert mean.lines[-1].get_ydata()[0] == pytest.approx(most)
    # A line for each seed, their mean, and the maximum.
    assert len(mean.lines) == 2 + 1 + 1
    dashed = [line.get_ydata()[0] for line in each.lines if len(line.get_ydata()) == 2]
    assert dashed == pytest.approx([math.log(2), math.log(3), math.log(4)])


# Weights.


def test_heat_map_has_each_weight_and_marks_the_largest(report):
    figure = architecture_weights.heat_map(report.searches)
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 2
    ax = panels[0]
    image = ax.images[0].get_array()
    assert image.shape == (6 * 5 + 3 + 4, EPOCHS)  # Each group is below its name.
    # Of the fourth edge of seed 0, which begins with a skip connection.
    assert image.mask[15].all()
    np.testing.assert_allclose(image[16:20, 1], [1 / 6, 1 / 6, 0.5, 1 / 6])
    np.testing.assert_allclose(image[-3:, 0], [1, 0, 0])  # The inputs of node 3.
    places = ax.collections[3].get_offsets()
    assert places.tolist() == [[1, 16], [2, 18], [3, 18]]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[15:20] == ["", "skip connect", "conv 1x1", "conv 3x3", "avg pool 3x3"]
    names = {text.get_position()[1]: text.get_text() for text in ax.texts}
    assert names[15] == "edge 0 3"
    assert names[33] == "inputs of 3"


def test_animation_has_a_frame_for_each_epoch(report, tmp_path):
    architecture_weights.animate(report.searches, tmp_path)
    shown = []
    for seed in (0, 1):
        path = tmp_path / f"weights_gaea_seed{seed}.gif"
        with Image.open(path) as film:
            assert film.n_frames == EPOCHS
            assert film.info["duration"] == 200
            shown += [np.asarray(film.convert("L"), int)]
        assert path.stat().st_size < 100_000
    # Both begin with equal weights, under titles of their own.
    changed = np.nonzero((np.abs(shown[0] - shown[1]) > 40).any(1))[0]
    assert changed.size
    assert changed.max() < 40


def test_only_what_moves_is_drawn_again(tmp_path):
    figure = new_figure(2, 1)
    ax = figure.subplots()
    (bar,) = ax.barh([0], [1.0], color="black")
    ax.set(xlim=(0, 1), ylim=(-1, 1))
    frames = list(frames_of(figure, [bar], lambda i: bar.set_width((1, 0.5)[i]), 2))
    dark = [np.sum(np.asarray(frame.convert("L")) < 100) for frame in frames]
    assert frames[0].size == (160, 80)
    assert dark[1] < dark[0]
    frame, other = (np.asarray(frame) for frame in frames)
    assert (frame[:, :80] == other[:, :80]).all()  # All to the left of the change.
    write_gif(frames, tmp_path / "film.gif", 100)
    with Image.open(tmp_path / "film.gif") as film:
        film.seek(1)
        shown = np.asarray(film.convert("RGB"), int)
    assert np.abs(shown - other).max() < 40  # colors of the palette


# Operations.


def test_operations_are_counted_and_averaged_over_seeds(report):
    figure = derived_operations.areas(report)
    (ax,) = figure.axes
    tops = {patch.get_label(): patch.get_data() for patch in ax.patches}
    assert list(tops) == ["skip connect", "conv 1x1", "conv 3x3", "avg pool 3x3"]
    # Seed 0 has 6, 3 and 0 skip connections, seed 1 has 6, 6 and 2.
    skip = tops["skip connect"]
    np.testing.assert_array_equal(skip.values - skip.baseline, [6, 4.5, 1])
    conv = tops["conv 3x3"]
    np.testing.assert_array_equal(conv.baseline, [6, 4.5, 1])
    np.testing.assert_array_equal(conv.values, [6, 6, 6])
    np.testing.assert_array_equal(skip.edges, [0.5, 1.5, 2.5, 3.5])


def test_decisions_of_different_choices_are_counted_apart():
    class Mixed(ToySpace):
        decisions = (
            *ToySpace.decisions,
            ToySpace.decisions[0]._replace(choices=("x", "y")),
        )

    found = derived_operations.counts(Mixed(), np.array([[1, 1, 0], [0, 2, 1]]))
    assert found["0", "1", "2"].tolist() == [[0, 2, 0], [1, 0, 1]]
    assert found["x", "y"].tolist() == [[1, 0], [0, 1]]


# Accuracy.


def accuracy_lines(report):
    truths = derived_accuracy.find_truths(report)
    return derived_accuracy.curves(report, truths).axes, list(truths)


def test_accuracies_are_those_of_the_table(report):
    panels, titles = accuracy_lines(report)
    assert titles == ["CIFAR-10", "CIFAR-100", "ImageNet16-120"]
    table = nasbench201()
    seed_0, seed_1, mean, selected, best, random = panels[0].lines
    # All skip connections have 54.30, published; the rest by the benchmark's index.
    number = table.number(["skip_connect"] * 3 + ["nor_conv_3x3"] * 3, [])
    expected = [54.297, table.columns["cifar10_test"][number], 93.76]
    np.testing.assert_allclose(seed_0.get_ydata(), expected)
    np.testing.assert_allclose(seed_1.get_ydata()[:2], [54.297, 54.297])
    both = (seed_0.get_ydata() + seed_1.get_ydata()) / 2
    np.testing.assert_allclose(mean.get_ydata(), both)
    assert selected.get_xdata().tolist() == [4, 4]
    last = [seed_0.get_ydata()[-1], seed_1.get_ydata()[-1]]
    np.testing.assert_allclose(selected.get_ydata(), last)
    assert best.get_ydata()[0] == pytest.approx(94.373, abs=0.001)
    # Without "none" a random architecture has more than the 87.1 of all.
    without = np.all(table.choices != 0, axis=1)
    assert without.sum() == 4**6
    of_space = table.columns["cifar10_test"][without].mean()
    assert random.get_ydata()[0] == pytest.approx(of_space)
    assert 89 < of_space < 90
    low, high = panels[0].get_ylim()
    assert low < 54.297  # More than 5 % of the values are so low.
    assert 94.373 < high < 97


def test_without_architecture_weights_it_is_the_best_child(report):
    without = [
        one._replace(metrics=[{"children/best": row["children/best"]}] * EPOCHS)
        for one in report.searches
        for row in one.metrics[-1:]
    ]
    panels, _ = accuracy_lines(report._replace(arms={"random": without}))
    np.testing.assert_allclose(panels[0].lines[0].get_ydata(), [93.76] * 3)


def test_a_table_of_ones_own_is_used(report, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("space,choice,images_test\ntoy,0 0,10\ntoy,2 2,70\n")
    config = {"ranking": {"truth": "table", "table": {"path": str(path)}}}
    metrics = [{"children/best": [0, 0]}, {"children/best": [2, 2]}]
    one = report.searches[0]
    one = one._replace(metrics=metrics, results={"architecture": [2, 2]})
    one = one._replace(space=ToySpace())
    toy = Report(tmp_path, config, {"a": [one]}, "", None)
    panels, titles = accuracy_lines(toy)
    assert titles == ["images"]
    assert panels[0].lines[0].get_ydata().tolist() == [10, 70]
    assert len(panels[0].lines) == 3  # It lacks architectures, so no line of them.


@pytest.mark.parametrize("ranking", [{}, {"ranking": {"truth": "from_scratch"}}])
def test_a_table_that_is_not_the_truth_of_the_run_is_not_shown(report, ranking):
    """NAS-Bench-201's accuracies on CIFAR-10 say nothing about one's own images."""
    config = {name: CONFIG[name] for name in ("search", "arms")} | ranking
    assert derived_accuracy.find_truths(report._replace(config=config)) == {}


def test_the_page_says_of_which_data_the_accuracies_are(report, tmp_path):
    page = Page("title", tmp_path)
    derived_accuracy.SECTION.show(page, report._replace(about="photos: 20 images"))
    page.write(tmp_path / "page.html")
    text = " ".join((tmp_path / "page.html").read_text().split())
    assert "on CIFAR-10, CIFAR-100 and ImageNet16-120, by a table" in text
    assert "on its own data (photos: 20 images)" in text


def test_spaces_without_a_table_have_no_accuracies(report, tmp_path):
    page = Page("title", tmp_path)
    toy = [one._replace(space=ToySpace()) for one in report.searches]
    derived_accuracy.SECTION.show(page, report._replace(arms={"toy": toy}))
    page.write(tmp_path / "page.html")
    assert "Accuracy" not in (tmp_path / "page.html").read_text()


def test_the_order_of_children_is_compared_with_the_table(report, tmp_path):
    """Kendall's tau of four children: concordant less discordant of six pairs."""
    table = nasbench201()
    children = [SKIP, [0, 0, 0, 2, 2, 2], ALL_3X3, [3] * 6]
    names = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    rows = [table.number([names[c] for c in child], child) for child in children]
    truth = table.columns["cifar10_test"][rows]
    best_first = np.argsort(-truth)
    in_order, swapped = np.empty(4), np.empty(4)
    in_order[best_first] = [1.0, 2.0, 3.0, 4.0]
    swapped[best_first] = [2.0, 1.0, 3.0, np.nan]
    swapped = [None if np.isnan(x) else x for x in swapped]
    changes = {
        "children/choices": [children] * EPOCHS,
        "children/err1": [in_order.tolist()] * EPOCHS,
        "children/err2": [in_order.tolist(), swapped, (-in_order).tolist()],
    }
    one = write_search(tmp_path / "random", 0, **changes)._replace(arm="random")
    both = report._replace(workdir=tmp_path, arms={"random": [one], **report.arms})
    truths = derived_accuracy.find_truths(both)
    found = true_order.orders(one, truths["CIFAR-10"])
    np.testing.assert_allclose(found.err1, [1, 1, 1])
    np.testing.assert_allclose(found.err2, [1, 4 / 6, -1])
    assert true_order.of_last(found.err2) == -1
    of_eight = np.array([9.0, 9, 9, 9, 9, 9, 0.5, 0.3])
    assert true_order.of_last(of_eight) == pytest.approx(0.4)
    page = Page("title", tmp_path)
    true_order.SECTION.show(page, both)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "2.000" in text  # err1 - err2
    assert text.count("<tr>") == 2  # Mixtures have no children to be ranked.


def test_a_table_that_has_moved_is_a_warning(report, tmp_path):
    page = Page("title", tmp_path)
    config = {
        "ranking": {"truth": "table", "table": {"path": str(tmp_path / "moved.csv")}}
    }
    derived_accuracy.SECTION.show(page, report._replace(config=config))
    page.write(tmp_path / "page.html")
    assert "moved.csv cannot be read as a table" in (tmp_path / "page.html").read_text()


# The gap.


def test_gap_is_the_difference_of_both_curves(report):
    loss, error, gap = discretization_gap.curves(report).axes
    derived, mixture = (line.get_ydata() for line in loss.lines)
    np.testing.assert_allclose(mixture, [2.5, 3.5, 4.5])
    np.testing.assert_allclose(derived, [2.5, 4, 5.5])
    derived, mixture = (line.get_ydata() for line in error.lines)
    np.testing.assert_allclose(mixture, [55, 55, 55])
    np.testing.assert_allclose(derived, [52, 54, 56])
    np.testing.assert_allclose(gap.lines[0].get_ydata(), [-3, -1, 1])


# The page.


@pytest.mark.slow
def test_arms_may_search_other_spaces(report, tmp_path):
    """As DARTS with "none" beside PC-DARTS: other choices, and other groups."""
    space = NasBench201((8, 8, 3), 10, 4, 1)
    weights = np.full((6, 5), 0.2).tolist()
    changes = {
        "strategy/weights": [weights] * EPOCHS,
        "strategy/derived": [[1] * 6, [3] * 6, [4] * 6],
        "children/best": [[1] * 6, [3] * 6, [4] * 6],
    }
    other = write_search(tmp_path / "other", 0, space, **changes)._replace(arm="all")
    both = report._replace(arms={"all": [other], **report.arms}, workdir=tmp_path)
    panels, _ = accuracy_lines(both)
    skip, all_3x3 = panels[0].lines[0].get_ydata()[:2]
    np.testing.assert_allclose([skip, all_3x3], [54.297, 93.76])
    (mean,) = weight_entropy.means(both).axes
    dashed = {round(line.get_ydata()[0], 6) for line in mean.lines[-2:]}
    of_inputs = (6 * math.log(4) + math.log(2) + math.log(3)) / 8
    assert dashed == {round(math.log(5), 6), round(of_inputs, 6)}
    first, second = derived_operations.areas(both).axes
    assert len(first.patches) == 5
    colors = [
        {patch.get_label(): patch.get_facecolor() for patch in ax.patches}
        for ax in (first, second)
    ]
    assert colors[0]["skip connect"] == colors[1]["skip connect"]
    page = Page("title", tmp_path)
    architecture_weights.SECTION.show(page, both)
    assert (tmp_path / "figures" / "weights_all_seed0.gif").exists()
    assert (tmp_path / "figures" / "weights_gaea_seed1.gif").exists()


def test_page_has_the_sections(report, tmp_path):
    for section in (
        derived_accuracy.SECTION,
        weight_entropy.SECTION,
        architecture_weights.SECTION,
        derived_operations.SECTION,
        discretization_gap.SECTION,
    ):
        page = Page("title", tmp_path)
        section.show(page, report._replace(workdir=tmp_path))
        page.write(tmp_path / "page.html")
        assert "<svg" in (tmp_path / "page.html").read_text()
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    drawn = (
        "derived_accuracy",
        "weight_entropy",
        "weights_gaea_1",
        "discretization_gap",
    )
    assert {f"{name}.png" for name in (*drawn, "derived_operations")} < names
    assert "weights_gaea_1.png" in names
    assert {"weights_gaea_seed0.gif", "weights_gaea_seed1.gif"} < names


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "on 2 validation batches"),
        ({"eval_batches": 1}, "on 1 to 2 validation batches"),
    ],
)
def test_captions_have_the_validation_batches_of_the_arms(own, said, report, tmp_path):
    """An arm may set its own; those of an arm without a gap do not count."""
    gap = "children/discretization_gap_error"
    without_gap = [
        one._replace(
            metrics=[{k: v for k, v in row.items() if k != gap} for row in one.metrics]
        )
        for one in report.searches
    ]
    changes = {"gaea": {"search": own}, "enas": {"search": {"eval_batches": 99}}}
    found = {"gaea": report.searches, "other": report.searches, "enas": without_gap}
    three = of_one(report, config={**CONFIG, "arms": changes}, arms=found)
    three = three._replace(workdir=tmp_path)
    page = Page("title", tmp_path)
    discretization_gap.SECTION.show(page, three)
    page.write(tmp_path / "page.html")
    assert said in " ".join((tmp_path / "page.html").read_text().split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy/weights": [[[1.0] * 4] * 7] * 3}, "a list of 8 lists of 4 numbers"),
        ({"strategy/derived": [[4] * 6] * 3}, "architecture of 6 decisions"),
        ({"children/discretization_gap_loss": ["2"] * 3}, "a number or null"),
    ],
)
def test_damaged_records_are_named(changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        write_search(tmp_path / "search", 0, **changes)
