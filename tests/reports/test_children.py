"""The interactive view of all children: its data, and the page in a browser."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers.tabular import SPACE

from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections import children
from wpl_jax.reports.sections.section import Report

RNG = np.random.default_rng(0)


def searched(arm, seed, epochs=3, count=4):
    rows = []
    for _ in range(epochs):
        err1, err2 = RNG.normal(3, 1, (2, count)).tolist()
        choices = RNG.integers(0, 2, (count, 2)).tolist()
        rows.append(
            {"children/err1": err1, "children/err2": err2, "children/choices": choices}
        )
    rows[-1]["children/err2"][1] = None
    return Searched(arm, seed, SPACE, rows, {}, None)


def written(arms, tmp_path):
    report = Report(tmp_path, {"arms": {}}, arms, "", None)
    page = Page("A search", tmp_path)
    children.SECTION.show(page, report)
    page.write(tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def data_of(text):
    """What the script will read."""
    found = re.search(r'id="children-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_it_has_all_children_with_their_architectures(tmp_path):
    arms = {
        "wpl": [searched("wpl", 0), searched("wpl", 1)],
        "none": [searched("none", 0)],
    }
    data = data_of(written(arms, tmp_path))
    assert [arm["name"] for arm in data["arms"]] == ["wpl", "none"]
    assert data["arms"][0]["decisions"] == [
        [f"layer_{i}", ["relu", "tanh"]] for i in range(2)
    ]
    assert data["unit"] == "nats"
    rows = [row for seeds in arms.values() for one in seeds for row in one.metrics]
    for i, name in enumerate(("err1", "err2")):
        expected = np.array([x for row in rows for x in row[f"children/{name}"]], float)
        found = np.array([point["y"][i] for point in data["points"]], float)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    choices = [c for row in rows for c in row["children/choices"]]
    assert [point["choice"] for point in data["points"]] == choices
    times = [point["x"] for point in data["points"][:12]]
    np.testing.assert_allclose(times, 1 + np.arange(12) / 4)


def test_of_many_children_it_has_some(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "MOST_POINTS", 10)
    text = written({"wpl": [searched("wpl", 0, epochs=9)]}, tmp_path)
    points = data_of(text)["points"]
    np.testing.assert_allclose(np.diff([point["x"] for point in points]), 1)
    assert "The view has 9 of 36 children, equally spaced." in text


def test_the_page_stands_on_its_own_whatever_names_are(tmp_path):
    name = "</script><script>alert(1)</script>"
    text = written({name: [searched(name, 0)]}, tmp_path)
    assert data_of(text)["arms"][0]["name"] == name
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"<(script|img|link)[^>]*(src|href)=", text)
    assert "http" not in text


def test_searches_without_choices_have_losses_alone(tmp_path):
    one = searched("wpl", 0)
    for row in one.metrics:
        del row["children/choices"]
    points = data_of(written({"wpl": [one]}, tmp_path))["points"]
    assert len(points) == 12
    assert "choice" not in points[0]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Points at a child, and hides an arm, as a user does.
USER = """<script>
const canvas = document.getElementById("children-canvas");
const before = canvas.dataset.drawn;
const box = canvas.getBoundingClientRect();
let said = "";
for (let y = 0; y < box.height && !said; y += 5)
  for (let x = 0; x < box.width && !said; x += 5) {
    const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
    canvas.dispatchEvent(new MouseEvent("mousemove", at));
    const tip = document.getElementById("children-tip");
    if (!tip.hidden) said = [...tip.children].map((row) => row.textContent).join("|");
  }
document.querySelectorAll("#children-controls input")[1].click();
document.body.dataset.said = `${before};${canvas.dataset.drawn};${said}`;
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("epochs", [3, 2000])
def test_a_browser_draws_the_children_and_names_one(epochs, tmp_path):
    arms = {arm: [searched(arm, 0, epochs)] for arm in ("wpl", "none")}
    text = written(arms, tmp_path).replace("</html>", f"{USER}</html>")
    (tmp_path / "page.html").write_text(text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,900"]
    command = [CHROMIUM, *flags, "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    said = html.unescape(re.search(r'data-said="(.*?)"', done.stdout)[1])
    both, one, tip = said.split(";")
    # All but the one that is not finite, of each arm.
    assert (int(both), int(one)) == (2 * (4 * epochs - 1), 4 * epochs - 1)
    about, *rest = tip.split("|")
    found = re.fullmatch(r"(wpl|none), seed 0, epoch (\d+), child (\d)", about)
    row, child = arms[found[1]][0].metrics[int(found[2]) - 1], int(found[3]) - 1
    values = dict(line.split(": ") for line in rest)
    assert float(values["err1"]) == pytest.approx(row["children/err1"][child], rel=1e-3)
    indices = zip(SPACE.decisions, row["children/choices"][child], strict=True)
    chosen = [decision.choices[index] for decision, index in indices]
    assert [values["layer_0"], values["layer_1"]] == chosen
