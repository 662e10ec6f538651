"""`anomaly-box report`: compares every run of a log folder, in tables and on one page."""

import dataclasses
from pathlib import Path

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.report import page, svg, texts
from anomaly_toolbox.report.comparison import compare_datasets
from anomaly_toolbox.report.gather import Gathered, gather


def write(log_dir: Path, output: Path, score: str | None = None) -> tuple[list[Path], int]:
    """Writes `results_table.md`, `results_table.csv`, `report.html` and the bar charts as SVG files.

    Args:
        log_dir: the log folder of earlier commands; its runs may lie at any depth.
        output: the folder to write to. It is created if it does not exist.
        score: the score to compare instead of the selected score of each run. Runs without it are left out.

    Returns:
        The paths of the files, and the number of run folders that were left out of the comparison.

    Raises:
        InputError: the log folder does not exist or contains no run, no run has `score`, or `output` is a file.
    """
    gathered = gather(log_dir)
    if score is not None:
        gathered = _select(score, gathered)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; expected a folder")
    output.mkdir(parents=True, exist_ok=True)
    comparisons = compare_datasets(gathered.finished)
    left_out = [(folder.relative_to(log_dir), reason) for folder, reason in gathered.left_out]
    sections = page.make_sections(comparisons)
    contents = {
        "results_table.md": texts.as_markdown(comparisons, left_out),
        "results_table.csv": texts.as_csv(comparisons),
        "report.html": page.render(sections, left_out),
    }
    for section in sections:
        contents |= {name: svg.standalone(chart) for name, chart in section.chart_files.items()}
    for name, content in contents.items():
        with atomic_write(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [output / name for name in contents], len(left_out)


def _select(score: str, gathered: Gathered) -> Gathered:
    """The same runs as if each had been trained with this score as the selected one.

    Raises:
        InputError: there are runs, and none has the score.
    """
    selection = Gathered(left_out=list(gathered.left_out))
    for run in gathered.finished:
        if score in run.results["test"]["scores"]:
            selection.finished.append(dataclasses.replace(run, results={**run.results, "score": score}))
        elif run.folder is not None:
            selection.left_out.append((run.folder, f"it has no score {score}"))
    if gathered.finished and not selection.finished:
        names = sorted({name for run in gathered.finished for name in run.results["test"]["scores"]})
        raise InputError(f"--score {score}: no run has this score; expected one of: {', '.join(names)}")
    return selection
