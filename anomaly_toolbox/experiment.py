"""One trial: data, detector, training, test, and the run's folder."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress

from anomaly_toolbox import callbacks, evaluation, gallery, pictures, progress, summaries
from anomaly_toolbox.datasets.batches import (
    ScoringSplit,
    check_batch_size,
    same_order,
    sample_images,
    scoring_split,
    training_batches,
)
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.survey import Survey, count_images, digest_of, notes, surveys
from anomaly_toolbox.errors import DamagedFile, ToolboxError, problems_of
from anomaly_toolbox.files import read_json, sha256, whole, write_json
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.base import MAP, AnomalyDetector, Hyperparameters
from anomaly_toolbox.runs import Run, run_name

MOST_REMEMBERED = 2**30  # bytes of normal images that scores by comparison may take while they are fitted
NEED_ANOMALIES = ("auprc", "auroc")  # values of select_by
RECORDED_PACKAGES = ("anomaly-toolbox", "tensorflow", "keras", "numpy", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one run is to be.

    Attributes:
        experiment: registered name of the method.
        hyperparameters: an instance of the method's `Hyperparameters`.
        dataset_name: name under which the run is kept.
        source: where the dataset comes from: `--dataset` and `--data-dir` as absolute paths.
        dataset: not yet configured; the trial configures it.
        seed: of the weights, the shuffling and every random number of a method.
        reading: options of how images are read that were given: `aspect`, `all_test_images`, `white_level`.
    """

    experiment: str
    hyperparameters: BaseModel
    dataset_name: str
    source: str
    dataset: AnomalyDetectionDataset
    seed: int
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Watch = Callable[[int, dict[str, float]], None]  # called with an epoch's number, from 1, and its figures


def run_trial(
    trial: Trial, log_dir: Path, console: Console, overwrite: bool = False, watch: Watch | None = None
) -> tuple[Path, dict[str, Any]]:
    """Runs a trial to its end, going on where an earlier attempt stopped; a finished one is not run again.

    Args:
        trial: what to run.
        log_dir: the folder of all runs; this one goes to `<log_dir>/<Experiment>/<Dataset>/<run name>`.
        console: where progress is shown.
        overwrite: begin anew whatever is there.
        watch: called after each epoch; what it raises ends the trial, which may go on later.

    Returns:
        The run's folder and the content of its `results.json`.

    Raises:
        InputError: the hyperparameters do not fit the dataset.
        ToolboxError: the folder is damaged, another run's or in use; or training diverged.
    """
    trial = _with_default_label(trial)
    schema = type(trial.hyperparameters)
    name = run_name({**trial.hyperparameters.model_dump(), **trial.reading}, schema().model_dump(), trial.seed)
    run = Run(log_dir / trial.experiment / trial.dataset_name / name, _hparams(trial))
    with run.locked(), _advice_on_damage():
        if not overwrite:
            run.begin()
            results = run.finished_results()
            if results is not None:
                _say(console, f"finished before, skipped: {run.folder} (--overwrite runs it again)")
                return run.folder, results
        try:
            with same_order():
                results = _train_and_test(trial, run, console, overwrite, watch)
        except ToolboxError:
            run.discard_unbegun()
            raise
    return run.folder, results


@contextlib.contextmanager
def _advice_on_damage() -> Iterator[None]:
    try:
        yield
    except DamagedFile as problem:
        raise ToolboxError(f"{problem}; train again, with --overwrite") from problem


def load_detector(folder: Path) -> AnomalyDetector:
    """The detector of a finished run: rebuilt from the validated `hparams.json`, then its weights. No code in files."""
    hparams = read_json(folder / "hparams.json")
    cls = detector_class(hparams["experiment"])
    detector = cls(cls.Hyperparameters.model_validate(hparams["hyperparameters"]), hparams["channels"])
    detector.compile()
    detector.load_networks(folder / "model.weights.h5")
    return detector


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The images of a trial, looked at and ready for the compiled steps.

    Attributes:
        n_train: normal training images.
        batches: called with the number of finished epochs, gives batches of them without end.
        remembered: a sample of them, for scores by comparison.
        validation, test: the other two splits.
        digest: a checksum of the validation and test images.
    """

    n_train: int
    batches: Callable[[int], tf.data.Dataset]
    remembered: np.ndarray
    validation: ScoringSplit
    test: ScoringSplit
    digest: str


def _train_and_test(trial: Trial, run: Run, console: Console, overwrite: bool, watch: Watch | None) -> dict[str, Any]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(trial.seed)
    images = _prepare(trial, console)
    if overwrite:  # only now that the images are known to be of use
        run.clear()
        run.begin()
    if run.checkpoint.exists():
        known = read_json(run.hparams_path).get("digest_of_images")
        if known not in (None, images.digest):
            raise run.images_have_changed()
    hp, dataset = trial.hyperparameters, trial.dataset
    run.record(  # a dataset may know these only once it is configured
        channels=dataset.channels,
        aspect=dataset.aspect,
        levels=dataset.levels,
        white_level=dataset.white_level,
        digest_of_images=images.digest,
    )
    summaries.summarise_hyperparameters(
        run.folder, {**hp.model_dump(), "seed": trial.seed, "dataset": trial.dataset_name, "method": trial.experiment}
    )
    detector = detector_class(trial.experiment)(trial.hyperparameters, trial.dataset.channels)
    detector.compile()
    of_training = {
        "epochs": 0,
        "steps": 0,
        "selected_epoch": None,
        "train_images_per_second": None,
        "train_seconds": 0.0,
    }
    if isinstance(trial.hyperparameters, Hyperparameters):
        of_training = _train(trial, run, console, detector, images, watch)
    of_training["train_seconds"] += _conclude(run, console, detector, images.remembered)
    results = _test(trial, run, console, detector, images, of_training)
    run.finish(results)
    return results


def _prepare(trial: Trial, console: Console) -> Prepared:
    """Configures the dataset, looks at all of its images once, and tells what was found."""
    hp, dataset = trial.hyperparameters, trial.dataset
    with problems_of(f"{type(dataset).__name__}.configure"):
        dataset.configure(
            batch_size=hp.batch_size,
            new_size=(hp.image_size, hp.image_size),
            anomalous_label=hp.anomalous_label,
            class_label=hp.class_label,
            shuffle_buffer_size=hp.shuffle_buffer_size,
            drop_remainder=False,  # what has to be dropped is dropped here, and never from the test images
        )
    for note in dataset.notes:
        _say(console, note)
    with progress.Bar(console) as bar:
        seen = surveys(dataset, progress.SurveyProgress(bar))
    counts, learnt_from = count_images(seen), seen["train_normal"]
    for line in _findings(dataset, seen, counts, getattr(hp, "select_by", None)):
        _say(console, line)
    n_train, shape = counts["train"]["normal"], (hp.image_size, hp.image_size, dataset.channels)
    if isinstance(hp, Hyperparameters):
        check_batch_size(hp.batch_size, n_train)
    validation = scoring_split(dataset.validation, seen["validation"], hp.batch_size, shape, hp.validation_size)
    test = scoring_split(dataset.test, seen["test"], hp.batch_size, shape)
    memory_size = min(hp.memory_size, n_train, MOST_REMEMBERED // (4 * math.prod(shape)))
    if memory_size < min(hp.memory_size, n_train):
        _say(
            console, f"{memory_size:,} normal images are remembered, not {hp.memory_size:,}: more do not fit into 1 GiB"
        )
    remembered, is_shuffled = sample_images(dataset.train_normal, learnt_from, shape, memory_size, trial.seed)
    if not is_shuffled and isinstance(hp, Hyperparameters):
        _say(console, "the training images come in the same order each time; they are shuffled here")

    def batches(epochs_done: int) -> tf.data.Dataset:
        buffer_size = None if is_shuffled else hp.shuffle_buffer_size
        return training_batches(dataset.train_normal, hp.batch_size, shape, n_train, epochs_done, buffer_size)

    return Prepared(n_train, batches, remembered, validation, test, digest_of(seen))


def _train(
    trial: Trial, run: Run, console: Console, detector: AnomalyDetector, images: Prepared, watch: Watch | None
) -> dict[str, Any]:
    """Fits the detector, from its checkpoint if there is one, and leaves it with the networks of the best epoch."""
    hp = trial.hyperparameters
    needs_anomalies = hp.select_by in NEED_ANOMALIES and not images.validation.labels.any()
    keep_best = callbacks.KeepBest(run.checkpoint, "loss" if needs_anomalies else hp.select_by, hp.patience)
    timing = callbacks.Timing(hp.batch_size)
    checkpoint = callbacks.Checkpoint(run.checkpoint, keep_best, timing)
    epochs_done = checkpoint.restore(detector)
    steps = images.n_train // hp.batch_size
    summaries.forget_after(run.folder, epochs_done * steps)
    if epochs_done:
        _say(console, f"going on after epoch {epochs_done} of {hp.epochs}")
    if epochs_done < hp.epochs and not keep_best.is_exhausted(epochs_done):
        validate = callbacks.Validation(images.validation, images.remembered)
        with progress.Bar(console) as bar:
            around_the_loop = [
                timing,
                callbacks.Divergence(hp.step_log_frequency),
                validate,
                keep_best,
                summaries.Summaries(run.folder, validate, hp.step_log_frequency, steps),
                checkpoint,
                progress.EpochProgress(bar, hp.epochs, keep_best),
            ]
            if watch:
                told = lambda epoch, logs: watch(epoch + 1, logs)  # noqa: E731
                around_the_loop.append(keras.callbacks.LambdaCallback(on_epoch_end=told))
            history = detector.fit(
                images.batches(epochs_done),
                steps_per_epoch=steps,
                epochs=hp.epochs,
                initial_epoch=epochs_done,
                shuffle=False,  # the dataset shuffles
                verbose=0,
                callbacks=around_the_loop,
            )
        epochs_done += len(history.epoch)
        if epochs_done < hp.epochs:
            _say(console, f"stopped after epoch {epochs_done}: none was better for {hp.patience} epochs (patience)")
    keep_best.restore(detector)
    return {
        "epochs": epochs_done,
        "steps": epochs_done * steps,
        "selected_epoch": keep_best.best_epoch,
        "train_images_per_second": timing.images_per_second,
        "train_seconds": timing.seconds,
    }


def _conclude(run: Run, console: Console, detector: AnomalyDetector, remembered: np.ndarray) -> float:
    """Fits what follows the epochs, and returns its duration in seconds; `model.weights.h5` is the sign of its end."""
    duration = run.checkpoint / "conclusion.json"
    if run.weights_path.exists():
        with callbacks.damage_is_told(run.weights_path):
            detector.load_networks(run.weights_path)
            return float(read_json(duration)["seconds"])
    began = time.perf_counter()
    with progress.Bar(console) as bar:
        detector.conclude(remembered, [progress.ConclusionProgress(bar)])
    detector.remember(remembered)
    seconds = time.perf_counter() - began
    run.checkpoint.mkdir(exist_ok=True)
    write_json(duration, {"seconds": seconds})
    with whole(run.weights_path, callbacks.bytes_of(detector.stored)) as beside:
        detector.save_networks(beside)
    return seconds


def _test(
    trial: Trial,
    run: Run,
    console: Console,
    detector: AnomalyDetector,
    images: Prepared,
    of_training: dict[str, Any],
) -> dict[str, Any]:
    """Scores validation and test images, writes `scores.csv` and the pictures, and returns all results."""
    validation, test = images.validation, images.test
    with progress.Bar(console) as bar:
        on_validation, _ = _score(run, bar, detector, validation, "validation")
        masks = trial.dataset.test_masks
        masks = masks if masks is not None and masks.any() else None
        on_test, images_per_second = _score(run, bar, detector, test, "test", with_maps=masks is not None)
    maps = on_test.pop(MAP, None)
    _say(console, f"{len(test.labels):,} test images scored; figures and pictures follow")

    for name, values in on_test.items():
        if np.ptp(values) == 0:
            _say(console, f"warning: every test image has the same score ({name}): it tells nothing")
    of_validation, of_test = {}, {}
    for name, values in on_test.items():
        threshold = evaluation.best_threshold(validation.labels, on_validation[name])
        of_validation[name] = evaluation.figures(validation.labels, on_validation[name], threshold)
        of_test[name] = evaluation.figures(test.labels, values, threshold)
        of_test[name]["auprc_interval"] = evaluation.auprc_interval(test.labels, values)
    hp = trial.hyperparameters
    low, high = float(on_validation[hp.score].min()), float(on_validation[hp.score].max())
    decisive = on_test[hp.score]
    calibrated = evaluation.rescale(decisive, low, high)
    columns = {"score": decisive, "calibrated": calibrated, **on_test}
    _write_scores(run.scores_path, trial.dataset.test_files, test.labels, columns)
    of_pixels = evaluation.pixel_figures(masks, maps, trial.dataset.test_padding) if masks is not None else {}
    heat_range = pictures.usual_heat(detector.anomaly_map(validation.normal_examples).numpy())
    gallery.draw(run.folder, detector, trial.dataset, test, decisive, of_test[hp.score], heat_range, masks)
    summaries.summarise_test(run.folder, of_validation, of_test, hp.score, of_training["steps"])
    return {
        "experiment": trial.experiment,
        "dataset": trial.dataset_name,
        "anomalous_label": hp.anomalous_label,
        "class_label": hp.class_label,
        "seed": trial.seed,
        "score": hp.score,
        "validation": {**of_validation[hp.score], "score_min": low, "score_max": high, "scores": of_validation},
        "test": {**of_test[hp.score], **of_pixels, "scores": of_test},
        "heat_range": list(heat_range),
        **of_training,
        "score_images_per_second": images_per_second,
        "score_seconds": images_per_second and len(test.labels) / images_per_second,
    }


def _score(
    run: Run, bar: Progress, detector: AnomalyDetector, split: ScoringSplit, name: str, with_maps: bool = False
) -> tuple[dict[str, np.ndarray], float]:
    """Scores of a split, from where an earlier attempt was interrupted, and images per second of what was left.

    The latter is None if nothing was left.
    """
    run.checkpoint.mkdir(exist_ok=True)
    key = f"{sha256(run.weights_path)} {split.fingerprint}"
    keep = callbacks.KeepScores(run.checkpoint / f"{name}-scores.npz", key)
    scores, batches = keep.restore()
    n, n_before = len(split.labels), batches * detector.hyperparameters.batch_size
    speed = None
    if n_before < n:
        if batches:
            _say(bar.console, f"scoring goes on after {n_before:,} of {n:,} {name} images")
        shown = progress.ScoringProgress(bar, f"scoring {name} images", batches)
        began = time.perf_counter()
        rest = detector.score_batches(split.batches.skip(batches), n - n_before, [shown, keep], with_maps)
        speed = (n - n_before) / (time.perf_counter() - began)
        scores = {name: np.concatenate([scores.get(name, values[:0]), values]) for name, values in rest.items()}
    first = ("paper", "residual")
    return {name: scores[name][:n] for name in (*first, *sorted(scores.keys() - set(first)))}, speed


def _findings(
    dataset: AnomalyDetectionDataset, seen: dict[str, Survey], counts: dict[str, dict[str, int]], select_by: str | None
) -> Iterator[str]:
    """What is in the splits, and what cannot be measured; ToolboxError if that is everything."""
    for split, kinds in counts.items():
        untouched = " (not trained on)" if split == "train" and kinds["anomalous"] else ""
        yield f"{split}: {kinds['normal']:,} normal, {kinds['anomalous']:,} anomalous images{untouched}"
    for split, consequence in (("train", "learnt"), ("validation", "measured"), ("test", "measured")):
        if not counts[split]["normal"]:
            raise ToolboxError(f"{split}: there are no normal images, so nothing could be {consequence}")
    if select_by in NEED_ANOMALIES and not counts["validation"]["anomalous"]:
        yield f"no anomalous validation images: the lowest loss, not {select_by}, decides which epoch is kept"
    if not counts["test"]["anomalous"]:
        yield "no anomalous test images: test images are scored, but how well cannot be measured"
    n_test = len(seen["test"].labels)
    if dataset.test_files is not None and len(dataset.test_files) != n_test:
        raise ToolboxError(
            f"{type(dataset).__name__}.test_files has {len(dataset.test_files)} names, expected one for each of the "
            f"{n_test} test images"
        )
    if dataset.levels is None:  # folders look at their files themselves
        yield from notes(seen)


def _write_scores(path: Path, files: Sequence[str] | None, labels: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """One row a test image; nine digits are enough to get a float32 back exactly."""
    with whole(path) as beside, open(beside, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["index" if files is None else "file", "label", *columns])
        names = range(len(labels)) if files is None else files
        for name, label, *values in zip(names, labels, *columns.values(), strict=True):
            writer.writerow([name, label, *(f"{value:.9g}" for value in values)])


def _with_default_label(trial: Trial) -> Trial:
    """The dataset's own choice of an anomalous label, where nobody made one."""
    hp = trial.hyperparameters
    if hp.anomalous_label is not None or hp.class_label is not None:
        return trial
    chosen = hp.model_copy(update={"anomalous_label": trial.dataset.default_anomalous_label})
    return dataclasses.replace(trial, hyperparameters=chosen)


def _hparams(trial: Trial) -> dict[str, Any]:
    return {
        "experiment": trial.experiment,
        "dataset": trial.dataset_name,
        "source": trial.source,
        "reading": dict(trial.reading),
        "fingerprint_of_images": trial.dataset.fingerprint(trial.hyperparameters.class_label),
        "hyperparameters": trial.hyperparameters.model_dump(),
        "seed": trial.seed,
        "versions": {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES},
    }


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)
