"""The tables that `anomaly-box` prints when all trials are done."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from anomaly_toolbox.report.comparison import Comparison, compare_datasets
from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.members import BEST_MEMBER, HINDSIGHT
from anomaly_toolbox.report.metrics import AUROC_CHANCE_LEVEL, FOUND_AT_1_PERCENT, METRICS, format_metric
from anomaly_toolbox.report.remarks import remarks
from anomaly_toolbox.report.rows import Cell, ComparedRun
from anomaly_toolbox.report.text_table import TextTable, print_in_parts, print_what_fits

#: The columns of the table of metrics; the most important ones come first.
COLUMNS = ("AUPRC", "95% interval", "AUROC", "prevalence", "found at 1%", "train/s", "score/s")
#: What some columns mean.
EXPLANATIONS = {
    "prevalence": "prevalence: the chance level of AUPRC.",
    "found at 1%": "found at 1%: the share of anomalies that is found at a false-alarm rate of 1%.",
    "score/s": "train/s, score/s: images per second.",
}
BEST_MEMBER_NOTE = f"{BEST_MEMBER}: the one with the highest AUPRC, {HINDSIGHT}."
SELECTED_SCORE = (
    "--set score=... selects a score before training. Do not pick one by this table: its numbers come from test images."
)
PRO_CHANCE_LEVEL = 0.15
MOST_RUNS_LISTED = 12


def show(console: Console, runs: Sequence[ComparedRun], failures: Sequence[tuple[str, str]]) -> None:
    """Prints the metrics of all finished runs, remarks on them, and the failures.

    Args:
        console: from `plain_console`.
        runs: finished runs on any datasets.
        failures: pairs of the name of a trial and the reason why it failed.
    """
    for run in runs:
        if not run.is_measured:
            console.print(
                f"{run.method}: there are no anomalous test images, so nothing is measured. The run folder contains "
                "the scores and a threshold, which is the highest score of a normal validation image."
            )
    for comparison in compare_datasets(run for run in runs if run.is_measured):
        _show_comparison(console, comparison)
    if failures:
        _show_failures(console, failures)
    folders = [run.folder for run in runs if run.folder is not None]
    if len(folders) <= MOST_RUNS_LISTED:
        for folder in folders:
            console.print(f"run: {folder}")


def _show_comparison(console: Console, comparison: Comparison) -> None:
    rows = comparison.rows
    if len(comparison.labels) > 1 or any(row.choice for row in rows):
        for metric in ("auprc", "auroc"):
            print_in_parts(console, _matrix_table(comparison, metric))
        console.print(EXPLANATIONS["prevalence"])
        for line in comparison.chosen_settings:
            console.print(line)
    else:
        _print_metrics(console, comparison)
        _print_pixel_metrics(console, comparison.runs)
    if any(line.is_of_members for line in Matrix.build(rows, comparison.labels).lines):
        console.print(BEST_MEMBER_NOTE)
    for line in remarks(rows):
        console.print(line, style="yellow")
    if len(comparison.score_names) > 2:
        print_in_parts(console, _score_table(comparison))
        if comparison.chosen_settings:
            console.print("In this table, each score has the settings with its own highest validation AUPRC.")
        console.print(SELECTED_SCORE)


def _show_failures(console: Console, failures: Sequence[tuple[str, str]]) -> None:
    table = Table(title="failed", title_justify="left", title_style="bold red", box=None, pad_edge=False)
    table.add_column("trial", overflow="fold")
    table.add_column("reason", overflow="fold")
    for trial, reason in failures:
        table.add_row(trial, reason)
    console.print()
    console.print(table, soft_wrap=False)


def _matrix_table(comparison: Comparison, metric: str) -> TextTable:
    """AUPRC or AUROC by method and label."""
    matrix = Matrix.build(comparison.rows, comparison.labels, metric)
    lines = []
    for line in matrix.lines:
        values = [_three_decimals(value) for value in [*line.values, line.mean]]
        lines.append([_indented(line.name, line.is_of_members), *values])
    title = f"{metric.upper()} on the test images of {comparison.dataset}"
    if metric == "auprc":
        prevalences = [*matrix.prevalences, matrix.mean_prevalence]
        lines.append(["prevalence", *(_three_decimals(value) for value in prevalences)])
    else:
        title += f", chance level {AUROC_CHANCE_LEVEL}"
    return TextTable(title, ["method"], [*matrix.labels, "mean"], lines, is_last_dim=metric == "auprc")


def _score_table(comparison: Comparison) -> TextTable:
    """AUPRC and AUROC by score and method."""
    columns: dict[tuple[str, str], dict[str, str]] = {}  # by method and choice, then by score
    for row in comparison.every_score_rows:
        fields = columns.setdefault((row.method, row.choice), {})
        fields[row.score] = f"{row.mean_auprc:.3f}  {row.mean_auroc:.3f}"
    headings = []
    for method, choice in columns:
        name = f"{method},\n{choice}" if choice else method
        headings.append(f"{name}\nAUPRC  AUROC")
    lines = []
    for score in comparison.score_names:
        lines.append([score, *(fields.get(score, f"{'-':>5}  {'-':>5}") for fields in columns.values())])
    title = "AUPRC and AUROC of every score" + (", mean over labels" if len(comparison.labels) > 1 else "")
    return TextTable(title, ["score"], headings, lines, leaves_out_empty=True)


def _print_metrics(console: Console, comparison: Comparison) -> None:
    """Prints the metrics on the only label, as many as fit the terminal, and the names of the others."""
    (label,) = comparison.labels
    auprc_lines = Matrix.build(comparison.rows, [label]).lines
    auroc_lines = Matrix.build(comparison.rows, [label], "auroc").lines
    lines: list[tuple[str, dict[str, str]]] = []  # names, and texts by their column
    for auprc_line, auroc_line in zip(auprc_lines, auroc_lines, strict=True):
        texts = {"AUPRC": _three_decimals(auprc_line.values[0]), "AUROC": _three_decimals(auroc_line.values[0])}
        if not auprc_line.is_of_members:
            texts.update(_other_texts(auprc_line.row.cells[label]))
        lines.append((_indented(auprc_line.name, auprc_line.is_of_members), texts))
    columns = [column for column in COLUMNS if any(column in texts for _, texts in lines)]
    fields = [[name, label, *(texts.get(column, "") for column in columns)] for name, texts in lines]
    n_shown = print_what_fits(console, TextTable("on the test images", ["method", "label"], columns, fields))

    for column in columns[:n_shown]:
        if column in EXPLANATIONS:
            console.print(EXPLANATIONS[column])
    if columns[n_shown:]:
        console.print(f"A wider terminal also shows {', '.join(columns[n_shown:])}.")


def _other_texts(cell: Cell) -> dict[str, str]:
    """The texts of a cell for the table of metrics, besides AUPRC and AUROC; without those of unknown metrics."""
    low, high = cell.interval
    results = cell.runs[0].results
    texts = {
        "95% interval": f"{low:.3f}-{high:.3f}",
        "prevalence": _three_decimals(cell.prevalence),
        "train/s": _whole_number(results.get("train_images_per_second")),
        "score/s": _whole_number(results.get("score_images_per_second")),
    }
    found = METRICS[FOUND_AT_1_PERCENT](cell)
    if found is not None:
        texts["found at 1%"] = format_metric(FOUND_AT_1_PERCENT, found)
    return texts


def _print_pixel_metrics(console: Console, runs: Sequence[ComparedRun]) -> None:
    """Prints how well anomaly maps show the defects, for datasets with masks."""
    for run in runs:
        test = run.results["test"]
        if "pro" in test:
            console.print(
                f"anomaly maps of {run.method}: pixel AUROC {test['pixel_auroc']:.3f}, "
                f"pixel AUPRC {test['pixel_auprc']:.3f} (chance level {test['pixel_prevalence']:.3f}), "
                f"PRO {test['pro']:.3f} (chance level {PRO_CHANCE_LEVEL:.3f})"
            )


def _indented(name: str, is_of_members: bool) -> str:
    return f"  {name}" if is_of_members else name


def _three_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _whole_number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
