"""The report of searches: numbers by hand, damaged files, one page on its own."""

import contextlib
import html.parser
import json
import re
import shutil
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import outside
from PIL import Image

from wpl_jax.errors import UserError
from wpl_jax.evaluation import rank_files
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.evaluation.rank_files import Ranked
from wpl_jax.evaluation.truth import RandomSearch
from wpl_jax.reports import measures, search_report
from wpl_jax.reports.searched import Columns
from wpl_jax.reports.sections import forgetting
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.runs.checkpoint import Checkpoints
from wpl_jax.runs.run_files import NUMBER, list_of
from wpl_jax.spaces.recurrent_cell import ACTIVATIONS, RecurrentCell
from wpl_jax.tasks import Evaluation

SPACE = RecurrentCell(7, 4, 3)
EPOCHS, START = 4, 1  # The penalty is on from epoch 1, and shows from epoch 2 on.
CONFIG = {
    "main_arm": "wpl",
    "search": {"children": 3, "batches": 7, "eval_batches": 2},
    "arms": {"none": {}, "wpl": {}},
}
ABOUT = "some <data> & more"

# Of each search its columns; what comes before epoch 2 would show in every mean.
COLUMNS = {
    ("wpl", 0): {
        "forgetting/error_mean": [900, 900, 1.0, 3.0],
        "forgetting/error_best_mean": [900, 900, -4.0, None],
        "forgetting/error_max": [900, None, 10.0, 20.0],
        "forgetting/loss_mean": [900, 900, 0.01, 0.03],
        "forgetting/loss_best_mean": [900, 900, 0.02, 0.04],
        "forgetting/loss_max": [900, 900, 0.1, 0.2],
        "forgetting/loss_kendall": [None, -1, 0.5, 0.7],
        "children/reward": [900, 900, 900, 0.125],
    },
    ("wpl", 1): {
        "forgetting/error_mean": [900, 900, 4.0, 6.0],
        "forgetting/error_best_mean": [900, 900, -2.0, 0.0],
        "forgetting/error_max": [900, 900, 30.0, 50.0],
        "forgetting/loss_mean": [900, 900, 0.05, 0.07],
        "forgetting/loss_best_mean": [900, 900, 0.06, 0.08],
        "forgetting/loss_max": [900, 900, 0.5, 0.6],
        "forgetting/loss_kendall": [-1, -1, 0.9, 0.9],
        "children/reward": [900, 900, None, 0.375],
    },
    ("none", 0): {
        "forgetting/error_mean": [900, 900, None, 20.0],
        "forgetting/error_best_mean": [900, 900, 7.0, 8.0],
        "forgetting/error_max": [900, 900, 100.0, 100.0],
        "forgetting/loss_mean": [900, 900, 0.3, 0.5],
        "forgetting/loss_best_mean": [900, 900, 0.2, 0.4],
        "forgetting/loss_max": [900, 900, 1.0, 2.0],
        "forgetting/loss_kendall": [-1, -1, None, -0.2],
        "children/reward": [900, 900, 900, -0.5],
    },
    ("none", 1): {
        "forgetting/error_mean": [900, 900, 12.0, 20.0],
        "forgetting/error_best_mean": [900, 900, 8.5, 8.5],
        "forgetting/error_max": [900, 900, 300.0, 300.0],
        "forgetting/loss_mean": [900, 900, 0.1, 0.1],
        "forgetting/loss_best_mean": [900, 900, 0.5, 0.5],
        "forgetting/loss_max": [900, 900, 0.5, 0.5],
        "forgetting/loss_kendall": [-1, -1, 0.1, 0.3],
        "children/reward": [900, 900, 900, 0.5],
    },
}
VALID_ERRORS = {
    ("wpl", 0): 30.0,
    ("wpl", 1): 20.0,
    ("none", 0): 44.0,
    ("none", 1): 50.0,
}
CHILD_ERRORS = {
    ("wpl", 0): 31.0,
    ("wpl", 1): 57.0,
    ("none", 0): 58.0,
    ("none", 1): 59.0,
}
# Half of the searches are no better; of one the children alone. Another has a child
# that explodes, and one below the loss of a guess.
GUESS = {"loss": 4.0, "error": 55.0, "least_error": 50.0}
ARCHITECTURES = {
    ("wpl", 0): [0, 0, 1, 0, 2],
    ("wpl", 1): [3, 0, 2, 1, 1],
    ("none", 0): [1, 0, 1, 0, 1],
    ("none", 1): [2, 0, 2, 1, 2],
}
TABLE = [
    [
        *("arm", "mean difference", "best 5", "largest"),
        *("mean difference, nats", "best 5, nats", "largest, nats"),
        "rank correlation",
        *("mean reward, last epoch", "ppl of the best"),
    ],
    # Of two seeds, the standard error is half their distance.
    [
        "wpl",
        "3.50 ± 1.50",  # of 2 and 5
        "-2.50 ± 1.50",  # of -4, the null left out, and -1
        "27.5 ± 12.5",  # of 15 and 40
        "0.0400 ± 0.0200",  # of 0.02 and 0.06
        "0.0500 ± 0.0200",  # of 0.03 and 0.07
        "0.350 ± 0.200",  # of 0.15 and 0.55
        "0.750 ± 0.150",  # of 0.6 and 0.9
        "0.250 ± 0.125",
        "25.0 ± 5.0",
    ],
    [
        "none",
        "18.00 ± 2.00",  # of 20, the null left out, and 16
        "8.00 ± 0.50",  # of 7.5 and 8.5
        "200.0 ± 100.0",
        "0.2500 ± 0.1500",  # of 0.4 and 0.1
        "0.4000 ± 0.1000",  # of 0.3 and 0.5
        "1.000 ± 0.500",  # of 1.5 and 0.5
        "0.000 ± 0.200",  # of -0.2, the null left out, and 0.2
        "0.000 ± 0.500",
        "47.0 ± 3.0",
    ],
]


def write_search(folder, arm, seed, epochs=EPOCHS):
    """What a search leaves, as far as a report reads it, and more."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = []
    for epoch in range(epochs):
        err1 = rng.uniform(4, 5, 3).round(3).tolist()
        record = {name: values[epoch] for name, values in COLUMNS[arm, seed].items()}
        record |= {
            "step": epoch,
            "children/err1": err1,
            "children/err2": [
                err1[0] + 0.1,
                None,
                3.9 if (arm, seed) == ("wpl", 1) else 4.1,
            ],
            "children/best": [epoch % 4, 0, 1, epoch % 2, 3],
            "children/error": CHILD_ERRORS[arm, seed],
            "penalty/alpha": 0.01,
            "training/skipped": 0,
        }
        lines.append(json.dumps(record, sort_keys=True) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    results = {
        "architecture": ARCHITECTURES[arm, seed],
        "error_name": "ppl",
        "valid_error": VALID_ERRORS[arm, seed],
        "valid_loss": float(np.log(VALID_ERRORS[arm, seed])),
        "guess": GUESS,
    }
    (folder / "results.json").write_text(json.dumps(results))


def read_all(folder, keys=tuple(COLUMNS)):
    return [read(folder / f"{a}-seed{s}", a, s) for a, s in keys]


def read(folder, arm="wpl", seed=0, epochs=EPOCHS):
    return search_report.read(folder, arm, seed, SPACE, epochs)


class Parsed(html.parser.HTMLParser):
    """Table rows, headings, texts and references of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.rows, self.text = set(), [], [], ""
        self._cell = False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("th", "td")
        if self._cell:
            self.rows[-1].append("")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
                self.links.append(value)

    def handle_endtag(self, tag):
        self._cell = False

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Folders of four searches, which tests only read."""
    folder = tmp_path_factory.mktemp("searches")
    for arm, seed in COLUMNS:
        write_search(folder / f"{arm}-seed{seed}", arm, seed)
    return folder


@pytest.fixture(scope="module")
def written(searches, tmp_path_factory):
    """The folder of a report, which tests only read."""
    folder = tmp_path_factory.mktemp("report")
    search_report.write(folder, CONFIG, read_all(searches), ABOUT, START)
    return folder


@pytest.fixture(scope="module")
def page(written):
    return Parsed(written / "report.html")


# The page.


def test_table_has_means_and_standard_errors_and_the_main_arm_first(page):
    assert page.rows == TABLE


@pytest.mark.slow
def test_one_seed_has_no_error_and_a_penalty_that_never_shows_the_last_epoch(
    searches, tmp_path
):
    some = read_all(searches, [("none", 1), ("wpl", 1)])  # "none" is the main arm here.
    some[1].metrics[-1]["children/reward"] = None
    search_report.write(tmp_path, CONFIG, some, ABOUT, 100)
    page = Parsed(tmp_path / "report.html")
    assert page.rows[1:] == [
        [
            *("none", "20.00", "8.50", "300.0"),
            *("0.1000", "0.5000", "0.500", "0.300", "0.500", "50.0"),
        ],
        [
            *("wpl", "6.00", "0.00", "50.0"),
            *("0.0700", "0.0800", "0.600", "0.900", "nan", "20.0"),
        ],
    ]
    assert "1 seed." in page.text


def test_the_loss_is_called_what_the_task_says(page, searches, tmp_path):
    assert "nats" in page.text
    some = read_all(searches, [("wpl", 0)])
    some[0].results["loss_name"] = "kWh"
    search_report.write(tmp_path, CONFIG, some, ABOUT, START)
    own = Parsed(tmp_path / "report.html")
    assert own.rows[0] == [cell.replace("nats", "kWh") for cell in TABLE[0]]
    assert "nats" not in own.text
    header = (tmp_path / measures.SEARCHES_FILE).read_text().splitlines()[0]
    assert '"forgotten, kWh"' in header


def test_page_begins_with_what_is_no_better_than_guessing(page):
    text = " ".join(page.text.split())
    first, _ = text.split("Many candidate architectures")
    assert "No better than guessing on the validation data: none, seed 0" in first
    said, _ = first.split("No better than")[1].split("A guess knows")
    assert [part.strip() for part in said.split(":")[1].split(";")] == [
        "none, seed 0, all children of the last epoch (ppl 58.00, guessing 55.00)",
        "none, seed 1, the best architecture (ppl 50.00, guessing 55.00)",
        "none, seed 1, all children of the last epoch (ppl 59.00, guessing 55.00).",
    ]


@pytest.mark.slow
def test_training_from_scratch_and_rankings_at_the_level_are_named(searches, tmp_path):
    some = read_all(searches, [("wpl", 0)])
    retrained = {"parameters": 9, "valid_error": 61.0, "test_error": 3.0}
    shared = np.array([np.nan, 51.0] * 3)
    scores = Evaluation(shared, shared)
    choices = np.stack([SPACE.sample(jax.random.key(i)) for i in range(6)])
    rank_files.write(
        *(tmp_path, SPACE, Ranking(truth=outside.Table()), choices, [70.0] * 6),
        {"wpl-seed0": Ranked(scores, 71.0, 5.0, [RandomSearch(9, 0.5, 80, 3, 7200)])},
    )
    some[0] = some[0]._replace(retrained=retrained | {"guess": GUESS})
    search_report.write(tmp_path, CONFIG, some, ABOUT, START)
    page = Parsed(tmp_path / "report.html")
    text = page.text
    assert ["wpl-seed0", "71.00", "1.00", "1e+02 %", "5 s"] in page.rows
    assert ["wpl-seed0", "9", "0.5", "80.00", "3", "2 h"] in page.rows
    for said in (
        "wpl, seed 0, the best ranked architecture with the shared weights (ppl 51.00",
        "wpl, seed 0, trained from scratch (ppl 61.00",
        "the best ranked architecture, by a table (ppl 70.00",
        "Lower the learning rate (config.retrain.optimizer)",
        "config.search.epochs",
    ):
        assert said in text, said


def test_results_of_an_earlier_version_say_nothing_of_guessing(folder):
    with_field("guess", None)(folder / RESULTS)
    read(folder)


def test_page_tells_of_the_run(page):
    for part in (
        "some <data> & more",
        "ppl on 2 validation batches",
        "trains 3 children",
        "on 7 batches each",
        "on from epoch 2",  # counted from 1
        "2 seeds.",
    ):
        assert part in " ".join(page.text.split()), part
    start = page.text.index("{", page.text.index("Configuration"))
    assert json.JSONDecoder().raw_decode(page.text[start:])[0] == CONFIG


def test_best_architecture_of_each_arm_is_that_of_the_lower_error(page, written):
    for said in (
        "wpl, cell: ppl 20.0 on the validation",
        "none, cell: ppl 44.0 on the validation",
    ):
        assert said in page.text
    found = {}
    for arm in ("wpl", "none"):
        text = (written / "figures" / f"cell_{arm}.dot").read_text()
        edges = set(re.findall(r'"(\w+)" -> "(\w+)"', text))
        found[arm] = edges, re.findall(r'label="(\d  \w+)"', text)
    assert found["wpl"] == (
        {("in", "0"), ("0", "1"), ("1", "2"), ("2", "out")},
        [f"{i}  {ACTIVATIONS[a]}" for i, a in enumerate((3, 2, 1))],
    )
    assert found["none"] == (
        {("in", "0"), ("0", "1"), ("0", "2"), ("1", "out"), ("2", "out")},
        [f"{i}  {ACTIVATIONS[a]}" for i, a in enumerate((1, 1, 1))],
    )


def test_figures_are_there(written):
    names = {path.name for path in (written / "figures").iterdir()}
    drawn = ("forgetting", "ranks", "cell_wpl", "cell_none")
    expected = {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    expected |= {"cell_wpl.dot", "cell_none.dot", "cell_over_epochs.gif"}
    graphviz = {"cell_wpl_graphviz.svg", "cell_none_graphviz.svg"}
    assert names == expected | (graphviz if shutil.which("dot") else set())
    with Image.open(written / "figures" / "cell_over_epochs.gif") as film:
        assert film.n_frames == EPOCHS
    svg = (written / "figures" / "forgetting.svg").read_text(encoding="utf-8")
    for title in forgetting.PANELS.values():
        assert title in svg


def test_axes_of_differences_are_logarithmic_beyond_ten(searches, tmp_path):
    """As the caption says; the axis of the reward is linear."""
    both = read_all(searches, [("wpl", 0)])
    small = dict.fromkeys(forgetting.PANELS, 9.0)
    flat = [both[0]._replace(metrics=[row | small for row in both[0].metrics])]
    for some, scale in ((both, "symlog"), (flat, "linear")):
        report = Report(tmp_path, CONFIG, {"wpl": some}, ABOUT, START)
        scales = [ax.get_yscale() for ax in forgetting.curves(report).axes]
        assert scales == [scale] * 3 + ["linear"]


@pytest.mark.slow
def test_section_of_ones_own_reads_columns_that_some_searches_record(
    searches, tmp_path, monkeypatch
):
    shown = []

    def show(page, report):
        for one in report.searches:
            if "strategy/scores" in one.metrics[0]:
                page.heading(f"Scores of {one.folder}")
                shown.append(one.metrics[-1]["strategy/scores"])

    def scores(space):
        return {"strategy/scores": list_of(list_of(NUMBER), len(space.decisions))}

    own = Section(show, Columns(of_some=scores))
    monkeypatch.setattr(search_report, "SECTIONS", (*search_report.SECTIONS, own))
    folder = shutil.copytree(searches / "wpl-seed0", tmp_path / "wpl-seed0")
    expected = [[0.5, 0.5]] * 5
    for line in range(EPOCHS - 1):
        with_field("strategy/scores", expected, line)(folder / METRICS)
    with pytest.raises(UserError, match="line 4: the field 'strategy/scores' is miss"):
        read(folder)
    with_field("strategy/scores", expected, EPOCHS - 1)(folder / METRICS)
    some = [read(folder), *read_all(searches, [("none", 0)])]
    search_report.write(tmp_path, CONFIG, some, ABOUT, START)
    assert shown == [expected]
    text = Parsed(tmp_path / "report.html").text
    assert "Scores of wpl-seed0" in text
    assert "Scores of none-seed0" not in text


def test_page_stands_on_its_own(page, written):
    assert not {"link", "iframe", "object", "img"} & page.tags
    assert "svg" in page.tags
    assert page.links  # Markers are drawn by reference, within the page.
    assert all(link.startswith("#") for link in page.links)
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)", text))


@pytest.mark.slow
def test_same_searches_give_the_same_bytes(searches, written, tmp_path):
    search_report.write(tmp_path, CONFIG, read_all(searches), ABOUT, START)
    for path in written.rglob("*.*"):
        again = (tmp_path / path.relative_to(written)).read_bytes()
        # Commands name the folder.
        again = again.replace(bytes(tmp_path), bytes(written))
        assert again == path.read_bytes(), path.name


# What is read.


def test_columns_are_floats_with_nan_for_nulls(searches):
    (search,) = read_all(searches, [("none", 0)])
    assert (search.arm, search.seed, len(search.metrics)) == ("none", 0, EPOCHS)
    curve = search.curve("forgetting/error_mean")
    assert curve.dtype == np.float64
    np.testing.assert_array_equal(curve, [900, 900, np.nan, 20])


@pytest.fixture
def folder(searches, tmp_path):
    return shutil.copytree(searches / "wpl-seed0", tmp_path / "wpl-seed0")


def test_unfinished_search_is_a_user_error(folder):
    (folder / "results.json").unlink()
    with pytest.raises(UserError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"There is no {folder / 'results.json'}: ")
    assert "not finished" in str(caught.value)


def cut_off(path):
    path.write_text(path.read_text()[:-20])


def with_field(name, value, line=None):
    """Damage to a field, of one line of several; None leaves it out."""

    def damage(path):
        records = [json.loads(text) for text in path.read_text().splitlines()]
        record = records[line or 0]
        record.pop(name, None)
        if value is not None:
            record[name] = value
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    return damage


METRICS, RESULTS, RETRAINED = "metrics.jsonl", "results.json", "retrain/retrained.json"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (RESULTS, cut_off, "not JSON"),
        (RESULTS, lambda path: path.write_text("null"), "expected an object"),
        (RESULTS, with_field("valid_error", None), "'valid_error' is missing"),
        (RESULTS, with_field("valid_error", "2"), "'valid_error' is '2', expected"),
        (RESULTS, with_field("architecture", [0, 0, 1, 9, 2]), "each within its"),
        (RESULTS, with_field("architecture", [0]), "architecture of 5 decisions"),
        (RESULTS, with_field("guess", {"loss": 1}), "in 'guess', the field 'error'"),
        (
            METRICS,
            with_field("children/error", "1"),
            "line 1: the field 'children/error'",
        ),
        (METRICS, cut_off, "the first 3 are whole, expected 4"),
        (
            METRICS,
            with_field("forgetting/error_best_mean", None, 3),
            "line 4: the field 'forgetting/error_b",
        ),
        (
            METRICS,
            with_field("forgetting/error_max", "much"),
            "line 1: the field 'forgetting/error_max' is",
        ),
        (METRICS, with_field("step", 7, 1), "the first 1 are whole, expected 4"),
        (
            METRICS,
            with_field("children/err2", [1.0], 2),
            "line 3: the field 'children/err2' is [1.0]",
        ),
        (
            METRICS,
            with_field("children/best", [0, 0, 1, 9, 3], 2),
            "line 3: the field 'children/best'",
        ),
        (METRICS, lambda path: path.write_text(""), "the first 0 are whole"),
        (METRICS, Path.unlink, "there is none"),
        (METRICS, lambda path: path.write_bytes(b"\xff\n"), "the first 0 are whole"),
        (METRICS, lambda path: path.write_bytes(path.read_bytes() * 2), "first 4 are"),
        (RETRAINED, cut_off, "not JSON"),
        (RETRAINED, with_field("test_error", None), "'test_error' is missing"),
        (RETRAINED, with_field("parameters", [1]), "'parameters' is [1], expected a"),
    ],
)
def test_damaged_file_is_a_user_error_that_names_it(name, damage, said, folder):
    (folder / "retrain").mkdir()
    found = {"parameters": 9, "valid_error": 2.0, "test_error": 3.0}
    (folder / RETRAINED).write_text(json.dumps(found))
    assert read(folder).retrained == found
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / name} is damaged: ")
    assert said in message
    assert "elete " in message


@pytest.mark.parametrize("line", [0, EPOCHS - 1])
def test_records_other_than_those_of_the_checkpoint_are_a_user_error(line, folder):
    """They are whole and in order: only the checksum shows it."""
    records = (folder / METRICS).read_bytes().splitlines(keepends=True)
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        for step in (EPOCHS - 1, EPOCHS):
            checksum = zlib.crc32(b"".join(records[:step]))
            checkpoints.save(step, {"x": np.zeros(2)}, beside=checksum)
    assert len(read(folder).metrics) == EPOCHS
    with_field("children/error", 77.5, line)(folder / METRICS)
    with pytest.raises(UserError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / METRICS} is damaged: a record has changed")
    assert f"delete {folder}" in message
    # Of the records before the other checkpoint, that one's checksum is left.
    newest = next((folder / "checkpoints" / str(EPOCHS) / "check").glob("meta*"))
    newest.write_bytes(b"{")
    if line < EPOCHS - 1:
        with pytest.raises(UserError, match="a record has changed"):
            read(folder)
    shutil.rmtree(folder / "checkpoints")
    assert len(read(folder).metrics) == EPOCHS


def test_seeds_of_unequal_length_are_a_user_error(searches):
    """Nothing is averaged over searches of which one lacks epochs."""
    with pytest.raises(UserError, match="whole, expected 5"):
        read(searches / "wpl-seed0", epochs=5)
