"""`anomaly-box report`: every run of a log folder, compared in tables and on one page."""

import importlib.resources
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.progress import track

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.files import atomic_write, short_name
from anomaly_toolbox.report import charts, comparison, texts
from anomaly_toolbox.report.comparison import ONE_SETTING, Finished, Row
from anomaly_toolbox.report.gather import gather, picture, read_scores

ROWS = "images, then their reconstructions, the residuals, and heat where they are odd"
#: Captions, and what is seen, of the pictures of a run.
PICTURES = {
    "where.png": (
        "The highest scores of each folder, on the originals",
        "images, and below them the same with heat where they are odd",
    ),
    "most_anomalous.png": ("The highest scores", ROWS),
    "most_wrong.png": ("The most wrongly judged", ROWS),
}
ONLY_OF_FILES = "where.png"  # which runs on images that come from no files do not have


def write(log_dir: Path, output: Path) -> tuple[list[Path], int]:
    """Writes `results_table.md`, `results_table.csv`, `report.html` and its bar charts as files.

    Args:
        log_dir: the log folder of earlier commands; its runs may lie at any depth.
        output: the folder to write to, made if it is not there.

    Returns:
        Their paths, and how many folders had to be left out of the comparison.

    Raises:
        InputError: there is no such log folder or it holds no run, or `output` is a file.
    """
    gathered = gather(log_dir)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; expected a folder")
    output.mkdir(parents=True, exist_ok=True)
    of_datasets = comparison.datasets_of(gathered.finished)
    left_out = [(folder.relative_to(log_dir), reason) for folder, reason in gathered.left_out]
    datasets = _datasets(of_datasets)
    contents = {
        "results_table.md": texts.as_markdown(of_datasets, left_out),
        "results_table.csv": texts.as_csv(of_datasets),
        "report.html": page(datasets, left_out),
        **{f"{dataset['file']}_auprc.svg": charts.alone(dataset["deciding"]) for dataset in datasets},
        **{f"{dataset['file']}_other_scores.svg": charts.alone(dataset["others"]) for dataset in datasets},
    }
    for name, content in contents.items():
        with atomic_write(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [output / name for name in contents], len(left_out)


def page(datasets: Sequence[dict[str, Any]], left_out: Sequence[tuple[Path, str]]) -> str:
    """The page: HTML with everything in it, nothing is loaded."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(importlib.resources.files(__package__))),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        datasets=datasets,
        left_out=left_out,
        legend=texts.LEGEND,
        light=charts.palette(charts.LIGHT),
        dark=charts.palette(charts.DARK),
        n_finished=sum(dataset["n_runs"] for dataset in datasets),
    )


def _datasets(of_datasets: dict[str, list[Finished]]) -> list[dict[str, Any]]:
    """What the page says of each dataset; a method has one colour on all of them."""
    methods = comparison.methods_of([run for runs in of_datasets.values() for run in runs])
    colours = {method: charts.SERIES[number % len(charts.SERIES)] for number, method in enumerate(methods)}
    return [_dataset(name, runs, colours) for name, runs in of_datasets.items()]


def _dataset(name: str, runs: Sequence[Finished], colours: dict[str, str]) -> dict[str, Any]:
    labels, rows = comparison.labels_of(runs), comparison.compare(runs)
    shown = [row for row in rows if row.choice != ONE_SETTING]
    others = comparison.compare_other_scores(runs)
    console = plain_console(stderr=True)
    every_row = texts.all_rows(runs)
    figures = texts.known_figures(every_row)
    progress = track(labels, f"{name}: a part for each label", console=console, transient=True)
    return {
        "name": name,
        "file": short_name(re.sub(r"[^\w.+-]", "-", name)),
        "n_runs": len(runs),
        "labels": labels,
        "deciding": charts.bars(shown, labels, colours, f"{name}: AUPRC by the scores that decide"),
        "others": charts.bars(others, labels, colours, f"{name}: AUPRC by each method's best other score"),
        "matrix": _matrix(rows, labels),
        "chosen": texts.chosen(runs, rows),
        "remarks": comparison.remarks(rows),
        "heads": [texts.HEADS.get(name, name) for name in figures],
        "cells": [_cell(runs, row, label, figures) for row in every_row for label in labels if label in row.cells],
        "parts": [_part(name, label, [row for row in shown if label in row.cells], colours) for label in progress],
    }


def _matrix(rows: Sequence[Row], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The main table; the best AUPRC of each column is marked."""
    best = {label: max(row.cells[label].auprc for row in rows if label in row.cells) for label in labels}
    table = []
    for row in rows:
        cells = [row.cells.get(label) for label in labels]
        table.append(
            {
                "name": row.name,
                "figures": [
                    {"text": "-", "interval": "", "is_best": False}
                    if cell is None
                    else {
                        "text": f"{cell.auprc:.3f}",
                        "interval": "{:.3f}-{:.3f}".format(*cell.interval),
                        "is_best": cell.auprc == best[label],
                    }
                    for label, cell in zip(labels, cells, strict=True)
                ],
                "mean": texts.mean_text(row, labels, "auprc"),
            }
        )
    guess = texts.prevalences(rows, labels)
    figures = [{"text": texts.number(value), "interval": "", "is_best": False} for value in guess]
    return [*table, {"name": "prevalence", "figures": figures, "mean": texts.number(statistics.fmean(guess))}]


def _cell(runs: Sequence[Finished], row: Row, label: str, names_of_figures: Sequence[str]) -> dict[str, Any]:
    """A line of the sortable table."""
    cell = row.cells[label]
    names = comparison.settings_that_vary([run for run in runs if run.method == row.method])
    figures = {name: texts.FIGURES[name](cell) for name in names_of_figures}
    return {
        "method": row.name,
        "label": label,
        "figures": figures,
        "texts": {name: texts.number(value) for name, value in figures.items()},
        "setting": comparison.describe(cell, names),
    }


def _part(dataset: str, label: str, rows: Sequence[Row], colours: dict[str, str]) -> dict[str, Any]:
    """Curves, histograms and pictures of one label, from the first run of each cell."""
    runs = {row.name: row.cells[label].runs[0] for row in rows}
    scores, thresholds = {}, {}
    for row in rows:
        labels, by_name = read_scores(runs[row.name])
        scores[row.name] = labels, by_name[row.score]
        thresholds[row.name] = runs[row.name].results["test"]["scores"][row.score]["threshold"]
    title = f"{dataset}, anomalous label {label}"
    told = ", ".join(f"{row.name} {row.cells[label].auprc:.3f}" for row in rows)
    return {
        "label": label,
        "curves": charts.curves(
            scores,
            {row.name: colours[row.method] for row in rows},
            f"{title}: precision against recall",
            f"Areas under the curves: {told}.",
        ),
        "histograms": charts.histograms(scores, thresholds, f"{title}: scores"),
        "pictures": [
            {"method": name, "caption": caption, "seen": seen, "data": data, "folder": str(run.folder)}
            for name, run in runs.items()
            for file, (caption, seen) in PICTURES.items()
            if (data := picture(run, file)) or file != ONLY_OF_FILES
        ],
    }
