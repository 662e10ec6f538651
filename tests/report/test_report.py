"""The files of a report: tables that can be recomputed from the runs, and a page that works in a browser."""

import csv
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.report import command
from anomaly_toolbox.report.gather import gather
from tests.report.conftest import write_run


def auprc_of(run_folder):
    """AUPRC, recomputed from `scores.csv`."""
    table = np.genfromtxt(run_folder / "scores.csv", delimiter=",", names=True)
    return average_precision_score(table["label"], table["score"])


def test_every_run_folder_is_compared_or_left_out_with_a_reason(log_dir):
    gathered = gather(log_dir)
    assert len(gathered.finished) == 7
    reasons = {str(folder.relative_to(log_dir)): reason for folder, reason in gathered.left_out}
    assert reasons["GANomaly/Digits/label=5"] == "unfinished: 1 of 2 epochs done"
    assert reasons["GANomaly/Digits/label=3"] == "scores.csv is damaged or missing"
    assert reasons["GANomaly/Digits/label=4"].startswith("hparams.json is damaged: not JSON")
    assert reasons["PCA/lost"] == "damaged: hparams.json is missing"
    assert reasons["copies/label=2"] == "the same run as GANomaly/Digits/label=2"
    assert len(reasons) == 5


def test_a_run_is_no_copy_of_a_run_that_was_left_out(tmp_path):
    """The second run has other images. The third has the images of the first and the setting of the second."""
    write_run(tmp_path / "1", "KNN", 2, width=32, fingerprint_of_images="a")
    write_run(tmp_path / "2", "KNN", 2, width=64, fingerprint_of_images="b")
    write_run(tmp_path / "3", "KNN", 2, width=64, fingerprint_of_images="a")
    gathered = gather(tmp_path)
    assert [run.folder.name for run in gathered.finished] == ["1", "3"]
    reason = "its images are not those of 1, which has the same dataset name"
    assert gathered.left_out == [(tmp_path / "2", reason)]


def test_the_csv_can_be_recomputed(log_dir):
    command.write(log_dir, log_dir)
    lines = list(csv.DictReader((log_dir / "results_table.csv").read_text().splitlines()))
    assert list(lines[0]) == ["dataset", "method", "score", "choice", "figure", "2", "10", "mean"]
    values = {(line["method"], line["score"], line["figure"]): line for line in lines}
    written = values["EGBAD", "paper", "auprc"]
    expected = [auprc_of(log_dir / f"EGBAD/Digits/<{label}>") for label in (2, 10)]
    assert [float(written["2"]), float(written["10"])] == pytest.approx(expected, rel=1e-5)
    assert float(written["mean"]) == pytest.approx(np.mean(expected), rel=1e-5)
    auprc_of_seeds = [auprc_of(log_dir / "GANomaly/Digits" / name) for name in ("label=2", "label=2,seed=1")]
    assert float(values["GANomaly", "paper", "auprc"]["2"]) == pytest.approx(np.mean(auprc_of_seeds), rel=1e-5)
    assert float(values["GANomaly", "paper", "auprc_low"]["2"]) == pytest.approx(min(auprc_of_seeds), rel=1e-5)
    assert values["GANomaly", "paper", "seeds"]["2"] == "2"
    assert values["KNN", "paper", "prevalence"]["mean"] == "0.1"
    assert values["KNN", "paper", "score_seconds"]["10"] == "2"
    assert ("GANomaly", "residual", "auprc") in values
    assert ("GANomaly", "residual", "auroc") in values


def test_one_class_normal_has_tables_and_columns_of_its_own(tmp_path):
    """3 is anomalous in two runs, one of an earlier version, and the only normal label in two others."""
    write_run(tmp_path / "1", "KNN", 3, is_old=True)
    write_run(tmp_path / "2", "PCA", 3)
    write_run(tmp_path / "3", "PCA", None, normal_label=3)
    write_run(tmp_path / "4", "PCA", None, normal_label=3, reading={"split": "pooled"})
    _, n_left_out = command.write(tmp_path, tmp_path)
    assert n_left_out == 0
    lines = list(csv.DictReader((tmp_path / "results_table.csv").read_text().splitlines()))
    assert list(lines[0])[5:] == ["3", "normal 3", "mean"]
    values = {(line["dataset"], line["method"]): line for line in lines if line["figure"] == "auprc"}
    datasets = ["Digits", "Digits, one class normal", "Digits, split=pooled, one class normal"]
    assert sorted({dataset for dataset, _ in values}) == datasets
    for (dataset, _), line in values.items():
        is_normal = "normal" in dataset
        assert bool(line["normal 3"]) == is_normal
        assert bool(line["3"]) != is_normal
        assert line["mean"] == line["normal 3" if is_normal else "3"]
    markdown = (tmp_path / "results_table.md").read_text()
    assert [line for line in markdown.splitlines() if line.startswith("## ")] == [f"## {name}" for name in datasets]
    page = (tmp_path / "report.html").read_text()
    assert "<summary>label 3</summary>" in page
    assert "<summary>label normal 3</summary>" in page


def test_the_csv_has_false_alarms(log_dir):
    """The two highest of 180 normal test images are at or above the 99th percentile."""
    command.write(log_dir, log_dir)
    lines = list(csv.DictReader((log_dir / "results_table.csv").read_text().splitlines()))
    values = {(line["method"], line["score"], line["figure"]): line for line in lines}
    table = np.genfromtxt(log_dir / "KNN/Digits/label=10/scores.csv", delimiter=",", names=True)
    threshold = np.quantile(table["score"][table["label"] == 0], 0.99)
    found = (table["score"][table["label"] == 1] >= threshold).mean()
    assert 0 < found < 1
    assert float(values["KNN", "paper", "detection_rate_at_0.01"]["10"]) == pytest.approx(found)
    assert float(values["KNN", "paper", "false_alarm_rate_at_0.01"]["10"]) == pytest.approx(2 / 180, rel=1e-5)
    auprc = float(values["KNN", "paper", "auprc"]["10"])
    assert float(values["KNN", "paper", "auprc_at_0.357"]["10"]) == pytest.approx(auprc / 2, rel=1e-5)
    assert ("KNN", "paper", "detection_rate_at_0.001") not in values  # no run has it
    assert ("KNN", "paper", "mean_member_auprc") not in values


def test_runs_of_earlier_versions_lack_the_newer_figures(tmp_path):
    write_run(tmp_path / "a", "GANomaly", 2, is_old=True)
    command.write(tmp_path, tmp_path)
    markdown, page = ((tmp_path / name).read_text() for name in ("results_table.md", "report.html"))
    assert "detection_rate" not in (tmp_path / "results_table.csv").read_text()
    for text in (markdown, page):
        assert "false-alarm rates" not in text
        assert "AUROC on the test images" in text


def test_another_score_can_be_compared_instead_of_the_selected_one(log_dir):
    """Runs that lack it are left out, with the reason; a name that no run has is an error that lists the names."""
    command.write(log_dir, log_dir, "residual")
    lines = list(csv.DictReader((log_dir / "results_table.csv").read_text().splitlines()))
    first = {line["figure"]: line for line in lines if line["method"] == "GANomaly"}["auprc"]
    assert first["score"] == "residual"
    table = np.genfromtxt(log_dir / "GANomaly/Digits/label=10/scores.csv", delimiter=",", names=True)
    assert float(first["10"]) == pytest.approx(average_precision_score(table["label"], table["residual"]), rel=1e-5)
    first_table, _, _ = (log_dir / "results_table.md").read_text().partition("AUROC on the test images")
    assert "| GANomaly (residual) |" in first_table
    assert "| GANomaly |" not in first_table
    write_run(log_dir / "another", "Other", 2, scores=("paper",))
    command.write(log_dir, log_dir, "residual")
    markdown = (log_dir / "results_table.md").read_text()
    assert "* `another`: it has no score residual" in markdown
    assert "| Other" not in markdown
    with pytest.raises(InputError, match=r"^--score pathwy: no run has this score; expected one of: paper, residual$"):
        command.write(log_dir, log_dir, "pathwy")


def test_an_ensemble_is_shown_with_its_members(log_dir):
    members = [
        {"experiment": "GANomaly", "score": "paper", "auprc": 0.123, "auroc": 0.7},
        {"experiment": "KNN", "score": "paper", "auprc": 0.321, "auroc": 0.6},
    ]
    write_run(log_dir / "ensemble", "Ensemble", 2, epochs=0, separation=3.0, members=members)
    command.write(log_dir, log_dir)
    auprc_table, auroc_table = (log_dir / "results_table.md").read_text().split("AUROC on the test images")
    names = [line.split("|")[1].strip() for line in auprc_table.splitlines() if line.startswith("|")]
    name, best_member = "Ensemble of GANomaly + KNN", "best member (chosen in hindsight, by test images)"
    assert names[2:] == ["EGBAD", "GANomaly", name, "mean member", best_member, "KNN", "prevalence"]
    assert "| mean member | 0.222 | - | - |" in auprc_table
    assert f"| {best_member} | 0.600 | - | - |" in auroc_table
    page = (log_dir / "report.html").read_text()
    assert page.count(f'<th scope="row">{best_member}</th><td>') == 2
    assert f"{name},paper,,mean_member_auroc,0.65,,0.65" in (log_dir / "results_table.csv").read_text()


def test_the_tables_of_every_score_have_no_ensembles(tmp_path):
    """In Markdown and on the page. A log folder of ensembles alone has no such tables."""
    members = [{"experiment": method, "score": "paper", "auprc": 0.2, "auroc": 0.6} for method in ("GANomaly", "KNN")]
    write_run(tmp_path / "logs" / "ensemble", "Ensemble", 2, epochs=0, members=members)
    command.write(tmp_path / "logs", tmp_path / "ensembles")
    write_run(tmp_path / "logs" / "run", "GANomaly", 2)
    command.write(tmp_path / "logs", tmp_path / "both")
    _, _, markdown = (tmp_path / "both" / "results_table.md").read_text().partition("Every score.")
    table = markdown.split("\n\n")[1]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["GANomaly", "GANomaly (residual)"]
    _, _, page = (tmp_path / "both" / "report.html").read_text().partition("<summary>every score</summary>")
    table, _, _ = page.partition("</details>")
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["GANomaly", "GANomaly (residual)"]
    for name in ("results_table.md", "report.html"):
        text = (tmp_path / "ensembles" / name).read_text()
        assert "Ensemble of GANomaly + KNN" in text
        assert "every score" not in text.lower()


def test_an_ensemble_needs_no_pictures_of_images(tmp_path):
    members = [{"experiment": method, "score": "combined", "auprc": 0.2, "auroc": 0.6} for method in ("KNN", "PCA")]
    folder = write_run(tmp_path / "ensemble", "Ensemble", 2, epochs=0, members=members)
    for name in ("most_anomalous.png", "most_wrong.png"):
        (folder / name).unlink()
    command.write(tmp_path, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Ensemble of KNN + PCA (combined)" in page
    assert "no picture in" not in page


def test_an_unfinished_ensemble_has_no_epochs(tmp_path):
    folder = write_run(tmp_path / "ensemble", "Ensemble", 2, epochs=0, members=[])
    (folder / "results.json").unlink()
    assert gather(tmp_path).left_out == [(folder, "unfinished")]


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_more_methods_than_colours(tmp_path):
    """The colours are used again; names too long for a line of a chart are divided."""
    for number in range(11):
        members = [{"experiment": f"Method{number}", "score": "combined", "auprc": 0.2, "auroc": 0.6}] * 2
        members += [{**members[0], "experiment": name} for name in ("AnoGAN", "EGBAD", "GANomaly", "KNN", "PCA")]
        write_run(tmp_path / str(number), "Ensemble", 2, seed=number, epochs=0, members=members)
    command.write(tmp_path, tmp_path)
    chart = ElementTree.parse(tmp_path / "Digits_auprc.svg").getroot()
    assert {f"var(--series-{number})" for number in range(1, 9)} <= set(
        re.findall(r"var\(--series-\d+\)", ElementTree.tostring(chart, "unicode"))
    )
    lines = [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert "Ensemble of 2 Method10 + AnoGAN + EGBAD + GANomaly + KNN" in lines
    assert "+ PCA (combined)" in lines


def test_the_markdown_has_every_table(log_dir):
    command.write(log_dir, log_dir / "out" / "deep")
    text = (log_dir / "out" / "deep" / "results_table.md").read_text()
    assert "| method | 2 | 10 | mean |" in text
    assert "×2" in text
    titles = [
        "AUROC on the test images.",
        "AUROC of each method's best other score",
        "false-alarm rates",
        "Every score",
    ]
    titles += ["AUPRC at prevalence 0.357:", "Training, seconds:", "Scoring the test images, seconds:", "Seeds:"]
    for title in [*titles, "## Left out"]:
        assert title in text
    assert "`GANomaly/Digits/label=5`: unfinished: 1 of 2 epochs done" in text
    assert "EGBAD has a lower AUPRC than the baseline KNN" in text


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes, and its ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]


def test_the_page_is_complete_and_loads_nothing(log_dir):
    command.write(log_dir, log_dir)
    text = (log_dir / "report.html").read_text()
    tags = Tags(text)
    images = [attributes for tag, attributes in tags.tags if tag == "img"]
    assert len(images) == 2 * 3 * 2
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    charts = [attributes for tag, attributes in tags.tags if tag == "svg"]
    assert len(charts) == 4 + 2 * 2
    assert all(chart["role"] == "img" and set(chart["aria-labelledby"].split()) <= set(tags.ids) for chart in charts)
    assert len(tags.ids) == len(set(tags.ids))
    assert not [tag for tag, attributes in tags.tags if tag == "link" and not attributes["href"].startswith("data:")]
    assert not [tag for tag, attributes in tags.tags if tag == "script" and "src" in attributes]
    assert "#0a0b" not in text  # a placeholder colour that was not replaced
    assert "unfinished: 1 of 2 epochs done" in text
    assert "only AUROC and AUPRC at prevalence 0.357 can be compared with papers" in text


def test_charts_are_also_written_as_files(log_dir):
    paths, n_left_out = command.write(log_dir, log_dir / "out")
    assert n_left_out == 5
    for chart in ("auprc", "auroc", "other_scores", "other_scores_auroc"):
        name = f"Digits_{chart}.svg"
        assert log_dir / "out" / name in paths
        root = ElementTree.parse(log_dir / "out" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in root[0].text
        text = "".join(root.itertext())
        assert "GANomaly" in text
        assert ("chance level (prevalence)" in text) == ("auroc" not in chart)


def test_methods_with_the_papers_score_alone(tmp_path):
    """Such a method has no best other score; neither has a label that only such methods were run on."""
    logs = tmp_path / "logs"
    write_run(logs / "a", "Mine", 2, scores=["paper"])
    paths, _ = command.write(logs, tmp_path / "first")
    assert "Digits_other_scores.svg" not in [path.name for path in paths]
    assert "best other score" not in (tmp_path / "first" / "results_table.md").read_text()
    write_run(logs / "b", "KNN", 10, epochs=0)
    paths, _ = command.write(logs, tmp_path / "second")
    assert "Digits_other_scores.svg" in [path.name for path in paths]
    table = (tmp_path / "second" / "results_table.md").read_text().partition("best other score")[2]
    assert "| prevalence | - | 0.100 | - |" in table


def test_a_log_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="there are no runs in it"):
        command.write(tmp_path, tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        command.write(tmp_path / "none", tmp_path)
    write_run(tmp_path / "logs" / "a", "KNN", 2, epochs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        command.write(tmp_path / "logs", tmp_path / "file")


def test_a_report_of_unfinished_runs_alone(tmp_path):
    folder = write_run(tmp_path / "a", "KNN", 2, epochs=0)
    (folder / "results.json").unlink()
    command.write(tmp_path, tmp_path)
    assert "unfinished" in (tmp_path / "report.html").read_text()


def test_importing_the_report_changes_nothing_in_the_process():
    program = (
        "import importlib, warnings\n"
        "import jinja2, matplotlib, rich.progress, sklearn.metrics\n"
        "settings, filters = dict(matplotlib.rcParams), list(warnings.filters)\n"
        "for name in ('command', 'tables'):\n"
        "    importlib.import_module(f'anomaly_toolbox.report.{name}')\n"
        "assert dict(matplotlib.rcParams) == settings\n"
        "assert warnings.filters == filters\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_page_in_a_browser(log_dir, browser):
    """The browser logs no error, columns can be sorted, the page fits a phone, and the dark theme is applied."""
    command.write(log_dir, log_dir)
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
    assert column(1) == sorted(column(1), key=int)  # sorted as numbers, not as text
    click(0)
    assert column(0) == sorted(column(0))

    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(background)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert light == "rgb(255, 255, 255)"
    assert browser.execute_script(background) == "rgb(20, 23, 27)"
    assert browser.get_log("browser") == []
