"""All trials of one command, one after the other, and the table at the end."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from anomaly_toolbox import hps
from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.experiment import Trial, run_trial
from anomaly_toolbox.models import detector_class

TABLE_WIDTH = 80  # a narrower terminal wraps lines, but no figure is cut off


def run(
    methods: Sequence[str],
    dataset: str,
    dataset_name: str,
    *,
    data_dir: Path | None,
    hps_path: Path | None,
    every_combination: bool,
    overrides: Sequence[str],
    log_dir: Path,
    seed: int,
    overwrite: bool,
    require_gpu: bool,
) -> None:
    """Runs every trial of every method and prints the table; the arguments are the options of the command.

    A trial that fails does not lose the others.

    Raises:
        ToolboxError: the first failure, after everything else was run and shown.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"device: {_device(require_gpu)}", soft_wrap=True)
    if len(methods) > 1 and hps_path is not None:
        methods = _those_with_a_section(console, methods, hps_path)
    grid = _grid(methods, hps_path, overrides, every_combination)
    loaded = load_dataset(dataset, data_dir)
    source = str(Path(dataset).resolve()) if dataset.endswith(".py") else dataset_name
    if data_dir is not None:
        source += f" in {data_dir.resolve()}"

    finished, failures = [], []
    for number, (method, hyperparameters) in enumerate(grid, 1):
        of_how_many = f" (trial {number} of {len(grid)})" if len(grid) > 1 else ""
        console.print(f"\n{method} on {dataset_name}{of_how_many}", style="bold", soft_wrap=True)
        trial = Trial(method, hyperparameters, dataset_name, source, loaded, seed)
        try:
            finished.append(run_trial(trial, log_dir, console, overwrite))
        except (ToolboxError, OSError) as failure:
            if len(grid) == 1:
                raise
            failures.append(failure)
            console.print(f"failed: {failure}", style="red", soft_wrap=True)
    if finished:
        _show(console, finished)
    if failures:
        raise ToolboxError(f"{len(failures)} of {len(grid)} trials failed; the first: {failures[0]}")


def _those_with_a_section(console: Console, methods: Sequence[str], hps_path: Path) -> list[str]:
    """A file that says nothing of a method is no reason to run it with other settings than the rest, or not at all."""
    named = hps.sections(hps_path)
    present = [method for method in methods if method.lower() in named]
    absent = [method for method in methods if method not in present]
    if present and absent:
        console.print(f"left out, {hps_path} has no section for: {', '.join(absent)}", soft_wrap=True)
    return present or list(methods)


def _grid(
    methods: Sequence[str], hps_path: Path | None, overrides: Sequence[str], every_combination: bool
) -> list[tuple[str, BaseModel]]:
    """Every trial of every method; an override goes to the methods that know it, and to all if none does."""
    schemas = {method: detector_class(method).Hyperparameters for method in methods}
    everything = {name for schema in schemas.values() for name in schema.model_fields}
    grid = []
    for method, schema in schemas.items():
        of_others = everything - set(schema.model_fields)
        own = [override for override in overrides if override.partition("=")[0] not in of_others]
        grid += [(method, trial) for trial in hps.trials(schema, method, hps_path, own, every_combination)]
    return grid


def _device(require_gpu: bool) -> str:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        return f"GPU ({', '.join(names)})"
    if require_gpu:
        raise ToolboxError(
            "--require-gpu: TensorFlow finds no GPU; install with pip install '.[gpu]', in Docker start with "
            "--gpus all, and see --debug for TensorFlow's own messages"
        )
    return f"CPU ({os.cpu_count()} cores), no GPU found"


def _show(console: Console, finished: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    table = _table("on the test images", ["AUPRC", "95% interval", "prevalence", "AUROC", "train/s", "score/s"])
    for _, results in finished:
        test, speeds = results["test"], [results[f"{work}_images_per_second"] for work in ("train", "score")]
        table.add_row(
            _method(results),
            _anomaly(results),
            f"{test['auprc']:.3f}",
            "{:.3f}-{:.3f}".format(*test["auprc_interval"]),
            f"{test['prevalence']:.3f}",
            f"{test['auroc']:.3f}",
            *("-" if speed is None else f"{speed:,.0f}" for speed in speeds),
        )
    _print(console, table)
    console.print("prevalence: the AUPRC of a guess. train/s, score/s: images per second.", soft_wrap=True)
    for line in _losing_to_a_baseline([results for _, results in finished]):
        console.print(line, style="yellow", soft_wrap=True)

    names = list(dict.fromkeys(name for _, results in finished for name in results["test"]["scores"]))
    if len(names) > 2:
        by_score = _table("AUPRC of every score", [name.replace("_", "\n") for name in names])
        for _, results in finished:
            scores = results["test"]["scores"]
            figures = [f"{scores[name]['auprc']:.3f}" if name in scores else "-" for name in names]
            by_score.add_row(_method(results), _anomaly(results), *figures)
        _print(console, by_score)
        console.print(
            "The score that decides is chosen before, by --set score=...; the best of these is no fair figure.",
            soft_wrap=True,
        )
    for folder, _ in finished:
        console.print(f"run: {folder}", soft_wrap=True)


def _table(title: str, figures: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("method")
    table.add_column("anomaly")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    console.print()
    console.print(table, width=max(console.width, TABLE_WIDTH), crop=False)


def _method(results: dict[str, Any]) -> str:
    """The method, and its score where it is not the paper's."""
    return results["experiment"] + ("" if results["score"] == "paper" else f" ({results['score']})")


def _anomaly(results: dict[str, Any]) -> str:
    chosen = [results[name] for name in ("anomalous_label", "class_label") if results[name] is not None]
    return str(chosen[0]) if chosen else "-"


def _losing_to_a_baseline(finished: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each trained detector whose figure a baseline of the same command surpasses."""
    lines = []
    for results in finished:
        rivals = [
            other
            for other in finished
            if not other["epochs"] and _anomaly(other) == _anomaly(results) and results["epochs"]
        ]
        best = max(rivals, key=lambda other: other["test"]["auprc"], default=results)
        if best["test"]["auprc"] > results["test"]["auprc"]:
            lines.append(
                f"{_method(results)} on anomaly {_anomaly(results)} loses to {best['experiment']}, a baseline that "
                f"knows pixels only: {results['test']['auprc']:.3f} against {best['test']['auprc']:.3f}"
            )
    return lines
