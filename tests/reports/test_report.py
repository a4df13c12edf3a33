"""The report page: safe text, one file that stands on its own, the same each time."""

import html.parser
import re

import pytest
from helpers.tiny import small_files

from wpl_jax.errors import UserError
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.runs import console

FIGURES = ["one.png", "one.svg", "two.png", "two.svg"]
NASTY = "<script>alert('x')</script> & \"quotes\" $title ${body} $$"


class Elements(html.parser.HTMLParser):
    """Tags with their attributes, ids, links and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.styles = [], [], [], []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
                self.links.append(value)
            else:
                self.styles.append(value or "")

    def handle_data(self, data):
        self.text += data


def draw(color="C0"):
    """Lines, markers, a clip path, a filled area and letters: all that makes ids."""
    figure = new_figure(4.0, 2.0)
    for ax in figure.subplots(1, 2):
        ax.plot([0, 1, 2], [0, 1, 0.5], "o-", color=color, label="curve")
        ax.fill_between([0, 1, 2], [0, 0, 0], [1, 1, 1], alpha=0.2)
        ax.set(title="a title", xlabel="$x$", ylabel="<y> & z")
        ax.legend()
    return figure


def write_page(workdir, **options):
    """A page with all that a page can have, written to a folder."""
    page = Page("A report", workdir)
    page.heading("Figures")
    page.text("First.", "Second.")
    page.table(("name", "value"), [("a", "1"), ("b", "2")])
    page.figure(draw(**options), "one", "The first figure")
    page.figure(draw(**options), "two", "The second figure")
    page.code("x = 1")
    page.write(workdir / "report.html")
    return workdir / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page that tests only read."""
    return write_page(tmp_path_factory.mktemp("page"))


def test_page_escapes_whatever_it_is_given(tmp_path):
    page = Page(NASTY, tmp_path)
    page.heading(NASTY)
    page.text(NASTY)
    page.code(NASTY)
    page.table((NASTY,), [(NASTY,)])
    page.figure(new_figure(), "x", NASTY)
    page.write(tmp_path / "report.html")
    found = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in found.tags
    # The page's title and heading, a section, a text, code, two cells, a caption.
    assert found.text.count(NASTY) == 8


def test_parts_stand_in_the_order_in_which_they_came(page):
    found = Elements(page.read_text(encoding="utf-8"))
    kinds = ("h1", "h2", "p", "table", "svg", "figcaption", "pre")
    assert [tag for tag in found.tags if tag in kinds] == [
        *("h1", "h2", "p", "p", "table"),
        *("svg", "figcaption", "svg", "figcaption", "pre"),
    ]
    cells = [tag for tag in found.tags if tag in ("tr", "th", "td")]
    assert cells == ["tr", "th", "th", *["tr", "td", "td"] * 2]
    texts = ["First.", "Second.", "name", "value", "The first", "The second", "x = 1"]
    places = [found.text.index(text) for text in texts]
    assert places == sorted(places)


def test_page_stands_on_its_own(page):
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    assert not {"script", "link", "iframe", "object", "img"} & set(found.tags)
    assert found.links  # Markers are drawn by reference, within the page.
    assert all(link.startswith("#") for link in found.links)
    assert "@import" not in text
    assert "<?xml" not in text
    assert "<!DOCTYPE svg" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)", text))


def test_ids_of_figures_do_not_clash(page):
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    assert len(found.ids) > 20
    assert len(set(found.ids)) == len(found.ids)
    first, second = (
        Elements(figure) for figure in re.findall("<figure>.*?</figure>", text, re.S)
    )
    assert len(first.ids) == len(second.ids) == len(found.ids) / 2
    for figure in (first, second):
        used = {link[1:] for link in figure.links}
        used |= set(re.findall(r"url\(#([^)]*)\)", " ".join(figure.styles)))
        assert any("url(#" in style for style in figure.styles)
        assert used <= set(figure.ids)


@pytest.mark.slow
def test_same_content_gives_the_same_bytes(page, tmp_path):
    for _ in range(2):  # In another folder, and over what is there.
        again = write_page(tmp_path)
        assert again.read_bytes() == page.read_bytes()
        for name in FIGURES:
            figures = (path.parent / "figures" / name for path in (page, again))
            one, two = (figure.read_bytes() for figure in figures)
            assert one == two, name
    other = write_page(tmp_path, color="C1")
    assert other.read_bytes() != page.read_bytes()


def test_figures_are_saved_beside_the_page(page):
    folder = page.parent / "figures"
    assert sorted(path.name for path in folder.iterdir()) == FIGURES
    assert (folder / "one.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    svg = (folder / "one.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert "The first figure" not in svg
    assert "&lt;y&gt; &amp; z" in svg  # Letters stay letters, for search and copy.


@pytest.mark.parametrize("size", [(8.0, 4.5), (10.0, 3.0)])
def test_new_figure_has_the_size_asked_for(size):
    assert tuple(new_figure(*size).get_size_inches()) == size


@pytest.mark.parametrize("limit", [1000, 12_000])
def test_figures_are_whole_or_not_there_on_a_full_disk(limit, page, tmp_path):
    assert (page.parent / "figures" / "one.png").stat().st_size > limit
    old = dict.fromkeys(FIGURES, b"old")
    (tmp_path / "figures").mkdir()
    for name, content in old.items():
        (tmp_path / "figures" / name).write_bytes(content)
    with (
        small_files(limit),
        pytest.raises(UserError, match=r"one\.png could not"),
    ):
        write_page(tmp_path)
    found = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    assert found == old
    assert not (tmp_path / "report.html").exists()


def test_figures_that_is_a_file_is_named(tmp_path):
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(UserError, match="figures cannot be made"):
        write_page(tmp_path)
    assert (tmp_path / "figures").read_text() == "in the way"


@pytest.mark.slow_except("*script*")
@pytest.mark.parametrize(
    "text", [NASTY, "$\\frac{$", "a $x_1$ b", "\x1b[2J \u202e", "50 $"]
)
def test_text_in_figures_is_plain(text, tmp_path):
    figure = new_figure(6.0, 4.0)
    ax = figure.subplots()
    ax.plot([1, 10**7], [1, 10**7], label=text)
    ax.set(title=text, xlabel=text, xscale="log")
    ax.text(1, 1, text)
    ax.legend()
    page = Page(text, tmp_path)
    page.figure(figure, "one", text)
    page.write(tmp_path / "report.html")
    found = Elements((tmp_path / "report.html").read_text())
    assert "script" not in found.tags
    visible = console.shown(text)
    assert found.text.count(visible) >= 3
    svg = Elements((tmp_path / "figures" / "one.svg").read_text())
    assert svg.text.count(visible) == 4
    assert "script" not in svg.tags


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b", "$x$", '"><script>'])
def test_names_of_figures_are_those_of_files(name, tmp_path):
    with pytest.raises(ValueError, match="a figure's name is"):
        Page("A report", tmp_path).figure(new_figure(), name, "")
    assert list(tmp_path.iterdir()) == []
