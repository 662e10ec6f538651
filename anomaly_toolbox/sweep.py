"""All trials of one command, one after the other, and the table at the end."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
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
    grid = [
        (method, hyperparameters)
        for method in methods
        for hyperparameters in hps.trials(
            detector_class(method).Hyperparameters, method, hps_path, overrides, every_combination
        )
    ]
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
    table = Table(title="on the test images", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("method")
    table.add_column("anomaly")
    for figure in ("AUPRC", "95% interval", "prevalence", "AUROC", "train/s", "score/s"):
        table.add_column(figure, justify="right", no_wrap=True)
    for _, results in finished:
        test = results["test"]
        chosen = [results[name] for name in ("anomalous_label", "class_label") if results[name] is not None]
        trained = results["train_images_per_second"]
        table.add_row(
            results["experiment"],
            str(chosen[0]) if chosen else "-",
            f"{test['auprc']:.3f}",
            "{:.3f}-{:.3f}".format(*test["auprc_interval"]),
            f"{test['prevalence']:.3f}",
            f"{test['auroc']:.3f}",
            "-" if trained is None else f"{trained:,.0f}",
            f"{results['score_images_per_second']:,.0f}",
        )
    console.print()
    console.print(table, width=max(console.width, TABLE_WIDTH), crop=False)
    console.print("prevalence: the AUPRC of a guess. train/s, score/s: images per second.", soft_wrap=True)
    for folder, _ in finished:
        console.print(f"run: {folder}", soft_wrap=True)
