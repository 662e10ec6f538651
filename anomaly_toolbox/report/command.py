"""`anomaly-box report`: compares every run of a log folder, in tables and on one page."""

from pathlib import Path

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.report import page, svg, texts
from anomaly_toolbox.report.comparison import compare_datasets
from anomaly_toolbox.report.gather import gather


def write(log_dir: Path, output: Path) -> tuple[list[Path], int]:
    """Writes `results_table.md`, `results_table.csv`, `report.html` and the bar charts as SVG files.

    Args:
        log_dir: the log folder of earlier commands; its runs may lie at any depth.
        output: the folder to write to. It is created if it does not exist.

    Returns:
        The paths of the files, and the number of run folders that were left out of the comparison.

    Raises:
        InputError: the log folder does not exist or contains no run, or `output` is a file.
    """
    gathered = gather(log_dir)
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
