"""The page of a report: what is in it, and what it does in a browser."""

import contextlib
import copy
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources

import pytest
from playwright.sync_api import Page, sync_playwright

from meta_test import across_figure
from meta_test.across import across
from meta_test.evaluate import evaluate
from meta_test.figure import strokes_by_name
from meta_test.optimizers import baseline
from meta_test.page import page
from meta_test.report import as_json, write
from tests.meta_test.problems import line, line_suite, sgd


HOSTILE = "</script><img src=x onerror=alert(1)>"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
# Playwright adds --headless; root has no sandbox.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PHONE = {"width": 360, "height": 740}

browsing = pytest.mark.skipif(
    BROWSER is None, reason="needs Chromium: apt-get install chromium"
)


def report_of(*contenders):
    """On a bowl and on a steeper one."""
    suite = line_suite()
    [cell] = suite.cells
    steep = dataclasses.replace(cell, name="steep & narrow", task=line(3.0))
    suite = dataclasses.replace(
        suite, cells=(cell, steep), about="bowls in one dimension"
    )
    return evaluate(contenders, suite)


@pytest.fixture(scope="module")
def report():
    """One that learns, one that explodes, one with a bad name, and the reference."""
    return report_of(
        sgd("mine", 0.5, learned=True),
        sgd("exploding", 1e20, learned=True),
        sgd(HOSTILE, 0.01, 3.0),
        baseline("adam"),
    )


@pytest.fixture(scope="module")
def tree(report):
    """As it is read from report.json, with report cards of the schema."""
    tree = json.loads(json.dumps(as_json(report)))
    wishes = ("converges", "is fast", "generalises", "is cheap")
    tree["cards"] = [
        {
            "contender": contender["name"],
            "wishes": [
                {
                    "name": wish,
                    "score": None if wish == "is cheap" and i == 0 else (i + k) / 8,
                    "shown": f"{12.5 * (i + k):g} %",
                    "detail": f"of {wish} <5>",
                }
                for k, wish in enumerate(wishes)
            ],
        }
        for i, contender in enumerate(tree["contenders"])
    ]
    return tree


class Reader(HTMLParser):
    """Collects what a browser would: text, elements, attributes and scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self._words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())

    @property
    def ids(self) -> list[str]:
        return [id_ for _, attributes in self.tags if (id_ := attributes.get("id"))]


def test_it_names_every_cell_contender_and_section(tree):
    read = Reader(page(tree))
    for name in [c["name"] for c in tree["contenders"] + tree["suite"]["cells"]]:
        assert name in read.text
    ids = read.ids
    assert len(set(ids)) == len(ids)
    links = [a["href"] for t, a in read.tags if t == "a" and a.get("href")]
    assert {link.removeprefix("#") for link in links if link} <= set(ids)
    assert {"cell-1-line", "cell-2-steep-narrow", "cards", "speed"} <= set(ids)
    assert "bowls in one dimension." in read.text
    assert "0.01, 3" in read.text  # what was tried of the baseline
    assert "1000000, 1000001, 1000002" in read.text


def test_it_says_how_each_learned_optimizer_fares(tree):
    text = Reader(page(tree)).text
    mine, exploding = (one for one in tree["across"]["contenders"][:2])
    assert f"tuned adam on {mine['better_train']} of 2 cells" in text
    assert "None of its 10 trainings diverged" in text
    assert f"{exploding['diverged']} of its 10 trainings diverged: line (5/5)" in text
    assert re.search(r"Most is lost in training on (line|steep & narrow) : .* ∞", text)
    assert "5/5 diverged" in text
    assert ">20" in text


def test_a_name_is_never_markup(tree):
    text = page(tree)
    assert HOSTILE not in text
    read = Reader(text)
    # The report, the strokes and the program; no image.
    assert [tag for tag, _ in read.tags].count("script") == 3
    assert "img" not in [tag for tag, _ in read.tags]
    embedded, _, program = read.scripts
    assert json.loads(embedded) == tree
    assert "<" not in embedded
    assert HOSTILE not in program


def test_it_reaches_for_nothing(tree):
    text = page(tree)
    read = Reader(text)
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in read.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    loads = [
        value or ""
        for _, attributes in read.tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "action", "data")
    ]
    assert all(value.startswith(("#", "data:")) for value in loads)
    # Not a place to load from, but the name of SVG.
    assert text.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|\simport\s", text)


def test_nothing_but_diverged_trainings():
    read = Reader(page(as_json(report_of(sgd("exploding", 1e20)))))
    assert "No learned optimizer takes part" in read.text
    assert "5/5 diverged" in read.text
    assert "all diverged" in read.text
    assert "speed" not in read.ids


def test_learned_without_a_reference(report):
    learned = report.contenders[:2]
    read = Reader(page(as_json(report_of(*learned))))
    assert "adam does not take part, so that there is no reference" in read.text
    assert "Its median train loss is the lowest of all on 2 of 2 cells" in read.text
    assert "lowest of all on 0 of 2 cells" in read.text
    assert "speed" not in read.ids
    assert "cards" not in read.ids


def test_a_cell_without_accuracies_or_positive_losses(tree):
    """Undefined and negative numbers are shown as such."""
    odd = copy.deepcopy(tree)
    for row in odd["rows"]:
        row["train_loss"] = {"q25": -2.0, "median": -1.0, "q75": None}
        row["tuning"] = None
    text = Reader(page(odd)).text
    assert "-1 [-2, -]" in text


def test_the_style_and_script_travel_with_the_package():
    names = {path.name for path in resources.files("meta_test.page").iterdir()}
    assert {"template.html", "style.css", "page.js", "base.js"} <= names


def test_strokes_of_baselines_without_their_own_differ():
    names = ["mine", "rmsprop", "adabelief", "adam"]
    found = strokes_by_name({name: name == "mine" for name in names})
    assert len(set(found.values())) == 4
    assert found["adam"] == strokes_by_name({"adam": False})["adam"]


def test_bars_of_six_learned_optimizers_differ(report):
    """There are three colours for them, so that the others are hatched."""
    [first, *_] = across(report)
    names = [f"learned {i}" for i in range(6)]
    figure = across_figure.draw_speedup(
        [dataclasses.replace(first, contender=name) for name in names],
        strokes_by_name(dict.fromkeys(names, True)),
    )
    in_steps = figure.axes[0].patches[::2]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in in_steps}) == 6


def test_a_report_leaves_its_page_and_pictures_of_all_cells(report, tmp_path):
    paths = write(report, tmp_path)
    read = json.loads(paths.json.read_text(encoding="utf-8"))
    assert paths.page.read_text(encoding="utf-8") == page(read)
    assert [path.name for path in paths.pictures] == ["profile.png", "speedup.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths.pictures)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json",
        "report.txt",
        "report.csv",
        "report.html",
        "curves.png",
        "profile.png",
        "speedup.png",
    }


def test_without_the_reference_there_are_no_pictures_of_all_cells(tmp_path):
    assert across_figure.write(report_of(sgd("plain", 0.1)), tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(tree), encoding="utf-8")
    return path.as_uri()


@contextlib.contextmanager
def opened(browser, address, **options):
    """The page, offline; what the browser complains of is a failure."""
    context = browser.new_context(offline=True, **options)
    shown = context.new_page()
    complaints = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("requestfailed", lambda request: complaints.append(request.url))
    shown.on("dialog", lambda dialog: complaints.append(dialog.message))
    asked = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(address)
    yield shown
    context.close()
    assert complaints == []
    # Saving the report makes a URL of what the page has already.
    assert [url for url in asked if not url.startswith("blob:")] == [address]


def column(shown: Page, table: str, index: int) -> list[str]:
    rows = shown.locator(f"{table} tbody tr")
    return [
        row.locator("th, td").nth(index).inner_text().split("\n")[0]
        for row in rows.all()
    ]


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    shares = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [
        s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares
    ]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(shown: Page, selector: str) -> float:
    """Between the text of an element and the page."""
    ink = shown.locator(selector).first.evaluate("e => getComputedStyle(e).color")
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


@browsing
def test_the_policy_forbids_the_network(browser, address):
    """Of this machine, where nothing listens: it is not asked."""
    shown = browser.new_page()
    shown.goto(address)
    refused = shown.evaluate(
        """new Promise((resolve) => {
            addEventListener("securitypolicyviolation", (event) =>
                resolve(event.effectiveDirective));
            fetch("http://127.0.0.1:9/").catch(() => {});
        })"""
    )
    assert refused == "connect-src"
    shown.close()


@browsing
def test_it_draws_every_chart(browser, address, tree):
    with opened(browser, address) as shown:
        drawn = shown.locator(".chart > svg")
        # Two of each cell, speedups, the profile and the radar.
        assert drawn.count() == 2 * len(tree["suite"]["cells"]) + 3
        lines = shown.locator("[data-chart=training] g[data-optimizer] path.line")
        paths = [path.get_attribute("d") or "" for path in lines.all()]
        assert len(paths) == len(tree["rows"])
        assert not any("NaN" in path or "Infinity" in path for path in paths)
        assert "exploding 5/5 diverged" in shown.locator("#cell-1-line").inner_text()
        # An outline with a gap where a wish has no score.
        outlines = shown.locator("[data-chart=radar] g[data-optimizer]")
        assert [g.locator("line").count() for g in outlines.all()].count(2) == 1


@browsing
def test_sorting_a_table(browser, address):
    with opened(browser, address) as shown:
        table = "#cell-1-line table"
        heads = shown.locator(f"{table} thead th")
        before = column(shown, table, 0)
        sorted_by = heads.nth(2)
        assert sorted_by.get_attribute("aria-sort") == "ascending"
        sorted_by.get_by_role("button").click()
        assert sorted_by.get_attribute("aria-sort") == "descending"
        assert column(shown, table, 0) != before
        assert column(shown, table, 2)[0] == "∞"
        # By keyboard, another column, the lowest first: infinity stays a number.
        test_loss = heads.filter(has_text="test loss")
        test_loss.get_by_role("button").press("Enter")
        assert test_loss.get_attribute("aria-sort") == "ascending"
        assert sorted_by.get_attribute("aria-sort") is None
        assert column(shown, table, 0)[-1].startswith("exploding")
        # By words.
        heads.nth(0).get_by_role("button").click()
        names = column(shown, table, 0)
        assert names[0].startswith("</script>")
        assert names[1:] == sorted(names[1:])
        # What has no value is last, whichever way.
        table = "#cards table"
        cheap = shown.locator(f"{table} thead th").nth(4).get_by_role("button")
        for _ in range(2):
            cheap.click()
            assert column(shown, table, 0)[-1].startswith("mine")


@browsing
def test_the_legend_hides_an_optimizer_everywhere(browser, address, tree):
    with opened(browser, address) as shown:
        drawn = shown.locator('svg g[data-optimizer="adam"]')
        everywhere = 2 * len(tree["suite"]["cells"]) + 3
        assert drawn.count() == everywhere
        button = shown.locator(".legend").get_by_role("button", name="adam", exact=True)
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert drawn.count() == 0
        assert shown.locator('svg g[data-optimizer="mine"]').count() == everywhere
        button.press("Space")
        assert drawn.count() == everywhere
        # Also without any left.
        for other in shown.locator(".legend button").all():
            other.click()
        assert shown.locator("svg g[data-optimizer]").count() == 0


@browsing
def test_the_loss_can_be_switched(browser, address):
    with opened(browser, address) as shown:
        chart = shown.locator("#cell-1-line [data-chart=evaluations]")
        for choice in ("train", "validation", "test"):
            shown.get_by_label(choice, exact=True).check()
            label = chart.locator("svg").get_attribute("aria-label") or ""
            assert label.startswith(f"{choice} loss against steps on line")
        assert chart.locator("g[data-optimizer] path.line").count() == 4


@browsing
def test_a_chart_tells_its_values(browser, address):
    with opened(browser, address) as shown:
        chart = shown.locator("#cell-1-line [data-chart=training]")
        tooltip = chart.locator(".tooltip")
        assert not tooltip.is_visible()
        chart.locator("svg").hover(position={"x": 300, "y": 100})
        assert tooltip.is_visible()
        assert re.match(r"step \d+", tooltip.inner_text())
        for name in ("mine", "exploding", HOSTILE, "adam"):
            assert name in tooltip.inner_text()
        assert "∞" in tooltip.inner_text()
        # By keyboard, from the first record, which is the start.
        chart.locator("svg").press("Escape")
        assert not tooltip.is_visible()
        chart.locator("svg").press("ArrowRight")
        assert tooltip.inner_text().startswith("step 0")
        chart.locator("svg").press("ArrowRight")
        assert tooltip.inner_text().startswith("step 2\n")
        shown.locator("[data-chart=profile] svg").press("ArrowRight")
        assert "within 1 times the fewest steps" in shown.content()


@browsing
def test_a_phone_never_scrolls_sideways(browser, address):
    with opened(browser, address, viewport=PHONE) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") <= 360
        shown.locator("#cell-1-line svg").first.hover(position={"x": 250, "y": 100})
        for details in shown.locator("details summary").all():
            details.click()
        assert shown.evaluate("document.documentElement.scrollWidth") <= 360


@browsing
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(browser, address, scheme):
    with opened(browser, address, color_scheme=scheme) as shown:
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(paper) < 0.1) == (scheme == "dark")
        for selector in ("body", ".quiet", "small", "a", ".bad", "td", "figcaption"):
            assert contrast(shown, selector) >= 4.5, selector
        # Lines of black become white on a dark page.
        line = shown.locator('svg g[data-optimizer="exploding"] path.line').first
        ink = luminance(line.evaluate("e => getComputedStyle(e).stroke"))
        assert abs(ink - luminance(paper)) > 0.5


@browsing
def test_it_prints_unfolded(browser, address):
    with opened(browser, address, color_scheme="dark") as shown:
        assert shown.pdf(format="A4").startswith(b"%PDF")
        shown.emulate_media(media="print", color_scheme="dark")
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert luminance(paper) > 0.9
        shown.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert shown.locator("details:not([open])").count() == 0
        shown.evaluate("dispatchEvent(new Event('afterprint'))")
        assert shown.locator("details[open]").count() == 0


@browsing
def test_the_report_can_be_saved(browser, address, tree):
    with opened(browser, address, accept_downloads=True) as shown:
        with shown.expect_download() as download:
            shown.get_by_role("button", name="Download report.json").click()
        assert download.value.suggested_filename == "report.json"
        saved = download.value.path().read_text(encoding="utf-8")
        assert json.loads(saved) == tree


@browsing
def test_nothing_but_diverged_trainings_in_a_browser(browser, tmp_path):
    path = tmp_path / "report.html"
    text = page(json.loads(json.dumps(as_json(report_of(sgd("exploding", 1e20))))))
    path.write_text(text, encoding="utf-8")
    with opened(browser, path.as_uri()) as shown:
        lines = shown.locator("g[data-optimizer] path.line")
        assert lines.count() == 4
        assert not any("NaN" in (one.get_attribute("d") or "") for one in lines.all())
        assert shown.get_by_text("exploding 5/5 diverged").count() == 4
