"""Tables that can be computed again from the runs, and a page that works in a browser."""

import csv
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.report import page
from anomaly_toolbox.report.gather import gather
from tests.report.conftest import write_run


def auprc_of(folder):
    table = np.genfromtxt(folder / "scores.csv", delimiter=",", names=True)
    return average_precision_score(table["label"], table["score"])


def test_every_folder_is_told_of(log_dir):
    gathered = gather(log_dir)
    assert len(gathered.finished) == 7
    reasons = {str(folder.relative_to(log_dir)): reason for folder, reason in gathered.left_out}
    assert reasons["GANomaly/Digits/label=5"] == "unfinished: 1 of 2 epochs done"
    assert reasons["GANomaly/Digits/label=3"] == "scores.csv is damaged or missing"
    assert reasons["GANomaly/Digits/label=4"].startswith("hparams.json is damaged: not JSON")
    assert reasons["PCA/lost"] == "damaged: hparams.json is missing"
    assert reasons["copies/label=2"] == "the same run as GANomaly/Digits/label=2"
    assert len(reasons) == 5


def test_the_csv_can_be_computed_again(log_dir):
    page.write(log_dir, log_dir)
    rows = list(csv.DictReader((log_dir / "results_table.csv").read_text().splitlines()))
    assert list(rows[0]) == ["dataset", "method", "score", "choice", "figure", "2", "10", "mean"]
    values = {(row["method"], row["score"], row["figure"]): row for row in rows}
    found = values["EGBAD", "paper", "auprc"]
    expected = [auprc_of(log_dir / f"EGBAD/Digits/<{label}>") for label in (2, 10)]
    assert [float(found["2"]), float(found["10"])] == pytest.approx(expected, rel=1e-5)
    assert float(found["mean"]) == pytest.approx(np.mean(expected), rel=1e-5)
    of_seeds = [auprc_of(log_dir / "GANomaly/Digits" / name) for name in ("label=2", "label=2,seed=1")]
    assert float(values["GANomaly", "paper", "auprc"]["2"]) == pytest.approx(np.mean(of_seeds), rel=1e-5)
    assert float(values["GANomaly", "paper", "auprc_low"]["2"]) == pytest.approx(min(of_seeds), rel=1e-5)
    assert values["GANomaly", "paper", "seeds"]["2"] == "2"
    assert values["KNN", "paper", "prevalence"]["mean"] == "0.1"
    assert values["KNN", "paper", "score_seconds"]["10"] == "2"
    assert ("GANomaly", "residual", "auprc") in values


def test_the_markdown_has_every_table(log_dir):
    page.write(log_dir, log_dir / "out" / "deep")
    text = (log_dir / "out" / "deep" / "results_table.md").read_text()
    assert "| method | 2 | 10 | mean |" in text
    assert "×2" in text
    for title in ("AUROC:", "Training, seconds:", "Scoring the test images, seconds:", "Seeds:", "## Left out"):
        assert title in text
    assert "`GANomaly/Digits/label=5`: unfinished: 1 of 2 epochs done" in text
    assert "EGBAD loses to KNN" in text


class Tags(HTMLParser):
    """Every tag with its attributes, and the ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]


def test_the_page_is_whole_and_loads_nothing(log_dir):
    page.write(log_dir, log_dir)
    text = (log_dir / "report.html").read_text()
    tags = Tags(text)
    images = [attributes for tag, attributes in tags.tags if tag == "img"]
    assert len(images) == 2 * 3 * 2
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    charts = [attributes for tag, attributes in tags.tags if tag == "svg"]
    assert len(charts) == 2 + 2 * 2
    assert all(chart["role"] == "img" and set(chart["aria-labelledby"].split()) <= set(tags.ids) for chart in charts)
    assert len(tags.ids) == len(set(tags.ids))
    assert not [tag for tag, attributes in tags.tags if tag == "link" and not attributes["href"].startswith("data:")]
    assert not [tag for tag, attributes in tags.tags if tag == "script" and "src" in attributes]
    assert "#0a0b" not in text  # a stand-in colour that was forgotten
    assert "unfinished: 1 of 2 epochs done" in text


def test_charts_are_files_too(log_dir):
    paths, n_left_out = page.write(log_dir, log_dir / "out")
    assert n_left_out == 5
    for name in ("Digits_auprc.svg", "Digits_other_scores.svg"):
        assert log_dir / "out" / name in paths
        root = ElementTree.parse(log_dir / "out" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in root[0].text
        assert "GANomaly" in "".join(root.itertext())


def test_a_log_folder_without_runs(tmp_path):
    with pytest.raises(InputError, match="there are no runs in it"):
        page.write(tmp_path, tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        page.write(tmp_path / "none", tmp_path)
    write_run(tmp_path / "logs" / "a", "KNN", 2, epochs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        page.write(tmp_path / "logs", tmp_path / "file")


def test_only_unfinished_runs(tmp_path):
    folder = write_run(tmp_path / "a", "KNN", 2, epochs=0)
    (folder / "results.json").unlink()
    page.write(tmp_path, tmp_path)
    assert "unfinished" in (tmp_path / "report.html").read_text()


@pytest.fixture
def browser():
    """Headless Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromium-driver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_in_a_browser(log_dir, browser):
    """Nothing is complained of, sorting sorts, a phone shows no wider page, and dark is dark."""
    page.write(log_dir, log_dir)
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get((log_dir / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390

    def column(number):
        script = (
            "return [...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[arguments[0]].innerText)"
        )
        return browser.execute_script(script, number)

    def click(number):
        browser.execute_script("document.querySelectorAll('table.sortable th button')[arguments[0]].click()", number)
        script = "return document.querySelectorAll('table.sortable th')[arguments[0]].getAttribute('aria-sort')"
        return browser.execute_script(script, number)

    auprc = [float(value) for value in column(2)]
    assert auprc != sorted(auprc)
    assert click(2) == "ascending"
    assert [float(value) for value in column(2)] == sorted(auprc)
    assert click(2) == "descending"
    assert [float(value) for value in column(2)] == sorted(auprc, reverse=True)
    assert click(1) == "ascending"
    assert column(1) == sorted(column(1), key=int)  # numbers, not texts
    click(0)
    assert column(0) == sorted(column(0))

    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(background)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert light == "rgb(255, 255, 255)"
    assert browser.execute_script(background) == "rgb(20, 23, 27)"
    assert browser.get_log("browser") == []
