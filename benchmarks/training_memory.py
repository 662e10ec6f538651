"""Measures the memory of a training step, which the toolbox estimates before the training.

    python -m benchmarks.training_memory --set image_size=64 --set width=32

For each method, a new process builds the detector and trains for two steps. The output is the peak memory beyond that
of the finished detector, and the estimate of `bytes_of_step`.
"""

import multiprocessing
import os

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.models import METHODS, detector_class, method_name
from anomaly_toolbox.models.hyperparameters import Hyperparameters
from benchmarks.process_memory import NOW, PEAK, memory

MIB = 2**20
METHODS_WITH_STEPS = [name for name in METHODS if issubclass(detector_class(name).Hyperparameters, Hyperparameters)]


def measure(experiment: str, overrides: tuple[str, ...], channels: int, results: multiprocessing.Queue) -> None:
    """Puts the estimated and the measured memory of a step into `results`, in bytes."""
    import tensorflow as tf

    from anomaly_toolbox.models import build_detector
    from anomaly_toolbox.sweeps import hps
    from anomaly_toolbox.tf_data import without_autotuning
    from anomaly_toolbox.training.required_memory import bytes_of_step
    from benchmarks.random_batches import N_CLASSES, random_batch

    cls = detector_class(experiment)
    domains = hps.read_domains(cls.Hyperparameters, experiment, overrides=overrides)
    detector = build_detector(cls, hps.first_trial(cls.Hyperparameters, domains), channels, N_CLASSES)
    detector.compile()
    memory_before = memory(NOW)
    batches = without_autotuning(tf.data.Dataset.from_tensors(random_batch(detector)).repeat())
    detector.fit(batches, steps_per_epoch=2, verbose=0, shuffle=False)
    results.put((bytes_of_step(detector), memory(PEAK) - memory_before))


@click.command()
@click.option("--experiment", "experiments", multiple=True, help="A method; repeatable. By default all with epochs.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Hyperparameter, as in anomaly-box.")
@click.option("--channels", default=3, show_default=True, help="Number of channels of the images.")
def main(experiments: tuple[str, ...], overrides: tuple[str, ...], channels: int) -> None:
    """Measure the memory of training steps and compare it with its estimate."""
    console = plain_console()
    spawn = multiprocessing.get_context("spawn")
    for experiment in map(method_name, experiments or METHODS_WITH_STEPS):
        results = spawn.Queue()
        process = spawn.Process(target=measure, args=(experiment, overrides, channels, results))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise click.ClickException(f"{experiment}: the process ended with {process.exitcode}, maybe without memory")
        estimate, measured = results.get()
        console.print(
            f"{experiment:18} estimated {estimate / MIB:7,.0f} MiB, measured {measured / MIB:7,.0f} MiB, "
            f"{measured / estimate:.2f} times the estimate"
        )


if __name__ == "__main__":
    main()
