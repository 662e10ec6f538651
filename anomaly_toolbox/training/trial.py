"""One trial: a method is trained with one set of hyperparameters and tested, and its run folder is filled."""

import contextlib
import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from anomaly_toolbox import evaluation, pictures
from anomaly_toolbox.console import ProgressBar
from anomaly_toolbox.datasets.batches import ScoringSplit, reraise_other_order
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import DamagedFile, ToolboxError
from anomaly_toolbox.files import atomic_write, read_json, sha256, write_json
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.adversarial import Divergence
from anomaly_toolbox.models.base import COMPLEXITY, MAP, AnomalyDetector
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters
from anomaly_toolbox.runs import LABELS, Run, run_name
from anomaly_toolbox.training import callbacks, gallery, progress, summaries
from anomaly_toolbox.training.data import NEED_ANOMALIES, PreparedData, prepare
from anomaly_toolbox.training.outputs import describe_derived_scores, scores_and_complexity
from anomaly_toolbox.training.required_memory import describe_memory
from anomaly_toolbox.training.results import Scores, constant_scores, measure, write_scores
from anomaly_toolbox.training.steps import CompiledSteps

RECORDED_PACKAGES = ("anomaly-toolbox", "tensorflow", "keras", "numpy", "scikit-learn")

#: The defaults of earlier versions that have changed since.
EARLIER_DEFAULTS = {"memory_size": 5_000, "select_by": "auprc"}

Watch = Callable[[int, dict[str, float]], None]  # called with an epoch's number, from 1, and its metrics


@dataclasses.dataclass(frozen=True)
class Trial:
    """A method with its hyperparameters, and the dataset that it is trained and tested on.

    Attributes:
        experiment: registered name of the method.
        hyperparameters: an instance of the method's `Hyperparameters`.
        dataset_name: the name of the dataset in the path of the run folder.
        source: where the images come from: `--dataset` and `--data-dir` as absolute paths.
        dataset: the dataset, which the trial configures.
        seed: sets the initial weights, the order of the images and all random numbers of the method.
        reading_options: those of `aspect`, `all_test_images`, `split`, `white_level` that differ from their defaults.
    """

    experiment: str
    hyperparameters: ScoringHyperparameters
    dataset_name: str
    source: str
    dataset: AnomalyDetectionDataset
    seed: int
    reading_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def run_trial(
    trial: Trial,
    log_dir: Path,
    console: Console,
    overwrite: bool = False,
    watch: Watch | None = None,
    steps: CompiledSteps | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Runs a trial to its end; an interrupted trial continues where it stopped, and a finished one is not run again.

    Args:
        trial: what to run.
        log_dir: the folder of all runs; this one goes to `<log_dir>/<Experiment>/<Dataset>/<run name>`.
        console: where progress is printed.
        overwrite: start anew, whatever the folder holds.
        watch: called after each epoch; if it raises, the trial stops and may be continued later.
        steps: those of the trials before; None compiles all steps anew.

    Returns:
        The run folder and the content of its `results.json`.

    Raises:
        InputError: the hyperparameters do not fit the dataset.
        ToolboxError: the folder is damaged, belongs to another run or is in use; or training diverged.
    """
    trial = _with_default_label(trial)
    values = {**trial.hyperparameters.model_dump(), **trial.reading_options}
    defaults = type(trial.hyperparameters).model_validate({}).model_dump()
    name = run_name(values, defaults, trial.seed)
    folder = log_dir / trial.experiment / trial.dataset_name / name
    if not overwrite:
        trial = _with_earlier_defaults(trial, folder)
    run = Run(folder, _hparams(trial), defaults)
    with run.locked(), _advise_on_damage():
        if not overwrite:
            run.begin()
            results = run.finished_results()
            if results is not None:
                console.print(f"finished before, skipped: {run.folder} (--overwrite runs it again)")
                return run.folder, results
        try:
            with reraise_other_order():
                results = Attempt(trial, run, console, watch, steps or CompiledSteps()).run_to_end(overwrite)
        except ToolboxError:
            run.remove_unless_trained()
            raise
    return run.folder, results


@contextlib.contextmanager
def _advise_on_damage() -> Iterator[None]:
    try:
        yield
    except DamagedFile as problem:
        raise ToolboxError(f"{problem}; train again, with --overwrite") from problem


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt at a trial; the next attempt continues an interrupted one."""

    trial: Trial
    run: Run
    console: Console
    watch: Watch | None
    steps: CompiledSteps

    def run_to_end(self, overwrite: bool) -> dict[str, Any]:
        """Prepares the images, trains and tests, and returns the content of `results.json`."""
        trial = self.trial
        hp, dataset = trial.hyperparameters, trial.dataset
        keras.backend.clear_session()
        keras.utils.set_random_seed(trial.seed)
        method = detector_class(trial.experiment)
        data = prepare(dataset, method, hp, trial.seed, self.console)
        self._claim_folder(data, overwrite)
        values = {**hp.model_dump(), "seed": trial.seed, "dataset": trial.dataset_name, "method": trial.experiment}
        summaries.summarise_hyperparameters(self.run.folder, values)

        n_classes = None if data.class_names is None else len(data.class_names)
        decay_steps = 0
        if isinstance(hp, Hyperparameters) and hp.learning_rate_decay:
            decay_steps = data.n_train // hp.batch_size * hp.epochs
        detector = self.steps.detector(method, hp, dataset.channels, n_classes, decay_steps)
        if isinstance(hp, Hyperparameters):
            training_summary = self._train(detector, hp, data)
        else:
            training_summary = _summary_without_epochs()
        training_summary["train_seconds"] += self._fit_after_epochs(detector, data.memory_images)
        results = self._test(detector, data, training_summary)
        self.run.finish(results)
        self.steps.keep(detector, n_classes)
        return results

    def _claim_folder(self, data: PreparedData, overwrite: bool) -> None:
        """Adds properties of the images to `hparams.json`; raises ToolboxError if a checkpoint has other images."""
        run = self.run
        if overwrite:  # not before: an error in the images must not cost the earlier run
            run.clear()
            run.begin()
        if run.checkpoint.exists():
            recorded = read_json(run.hparams_path)
            has_other_images = recorded.get("digest_of_images") not in (None, data.digest)
            if has_other_images or recorded.get("class_names") != data.class_names:
                raise run.images_have_changed()
        only_if_used = {} if data.class_names is None else {"class_names": data.class_names}
        run.record(  # some datasets set these only in `configure`
            channels=data.dataset.channels,
            aspect=data.dataset.aspect,
            levels=data.dataset.levels,
            white_level=data.dataset.white_level,
            digest_of_images=data.digest,
            **only_if_used,
        )

    def _train(self, detector: AnomalyDetector, hp: Hyperparameters, data: PreparedData) -> dict[str, Any]:
        """Trains from the checkpoint, if there is one, and loads the networks of the best epoch."""
        run = self.run
        lacks_anomalies = hp.select_by in NEED_ANOMALIES and not data.validation.labels.any()
        keep_best = callbacks.KeepBest(run.checkpoint, "loss" if lacks_anomalies else hp.select_by, hp.patience)
        timing = callbacks.Timing(hp.batch_size)
        checkpoint = callbacks.Checkpoint(run.checkpoint, keep_best, timing)
        epochs_done = checkpoint.restore(detector)
        steps = data.n_train // hp.batch_size
        summaries.remove_points_after(run.folder, epochs_done * steps)
        if epochs_done:
            self.console.print(f"continuing after epoch {epochs_done} of {hp.epochs}")
        if epochs_done < hp.epochs and not keep_best.is_exhausted(epochs_done):
            validate = callbacks.Validation(data.validation, data.memory_images)
            memory = describe_memory(detector)
            if memory is not None:
                self.console.print(memory)
            with ProgressBar(self.console) as bar:
                callbacks_in_order = [
                    timing,
                    Divergence(hp.step_log_frequency),
                    validate,
                    keep_best,
                    summaries.Summaries(run.folder, validate, hp.step_log_frequency, steps),
                    checkpoint,
                    progress.EpochProgress(bar, hp.epochs, keep_best),
                ]
                if self.watch:
                    callbacks_in_order.append(callbacks.WatchEpochs(self.watch))
                history = detector.fit(
                    data.batches(epochs_done),
                    steps_per_epoch=steps,
                    epochs=hp.epochs,
                    initial_epoch=epochs_done,
                    shuffle=False,  # the dataset shuffles
                    verbose=0,
                    callbacks=callbacks_in_order,
                )
            epochs_done += len(history.epoch)
            if epochs_done < hp.epochs:
                self.console.print(
                    f"stopped after epoch {epochs_done}: no epoch was better for {hp.patience} epochs (patience)"
                )
        keep_best.restore(detector)
        return {
            "epochs": epochs_done,
            "steps": epochs_done * steps,
            "selected_epoch": keep_best.best_epoch,
            "train_images_per_second": timing.images_per_second,
            "train_seconds": timing.seconds,
        }

    def _fit_after_epochs(self, detector: AnomalyDetector, memory_images: np.ndarray) -> float:
        """Fits the scores and whatever the method needs after its epochs; returns the duration in seconds.

        The duration is written before `model.weights.h5`, so both show that this step is done. Weights alone are left
        over from a finished run whose `results.json` was removed; they are fitted anew.
        """
        run = self.run
        duration_path = run.checkpoint / "conclusion.json"
        if run.weights_path.exists() and duration_path.exists():
            with callbacks.reraise_as_damage(run.weights_path):
                detector.load_networks(run.weights_path)
                return float(read_json(duration_path)["seconds"])
        started = time.perf_counter()
        with ProgressBar(self.console) as bar:
            detector.after_fit(memory_images, [progress.AfterFitProgress(bar)])
            detector.fit_scores(memory_images, progress.MemoryProgress(bar))
        seconds = time.perf_counter() - started
        run.checkpoint.mkdir(exist_ok=True)
        write_json(duration_path, {"seconds": seconds})
        with atomic_write(run.weights_path, callbacks.size_in_file(detector.stored)) as temporary:
            detector.save_networks(temporary)
        return seconds

    def _test(self, detector: AnomalyDetector, data: PreparedData, training_summary: dict[str, Any]) -> dict[str, Any]:
        """Scores and measures, writes the scores, pictures and summaries, and returns the results."""
        trial, run = self.trial, self.run
        hp, test, dataset = trial.hyperparameters, data.test, data.dataset
        masks = dataset.test_masks if dataset.test_masks is not None and dataset.test_masks.any() else None
        with ProgressBar(self.console) as bar:
            validation, _ = self._score(bar, detector, data.validation, "validation")
            tested, images_per_second = self._score(bar, detector, test, "test", with_maps=masks is not None)
        maps = tested.pop(MAP, None)
        validation_scores, validation_complexity = scores_and_complexity(detector, validation)
        test_scores, test_complexity = scores_and_complexity(detector, tested)
        self.console.print(f"{len(test.labels):,} test images scored; metrics and pictures follow")
        for name in constant_scores(test_scores):
            self.console.print(f"warning: every test image has the same score ({name}), which separates nothing")

        measured = measure(hp.score, data.validation.labels, validation_scores, test.labels, test_scores)
        selected_scores = test_scores[hp.score]
        columns = {"score": selected_scores, "calibrated": measured.calibrated, "p_value": measured.p_values}
        write_scores(run.scores_path, dataset.test_files, test.labels, columns | test_scores | test_complexity)
        write_scores(
            run.validation_scores_path,
            None,
            data.validation.labels,
            validation_scores | validation_complexity,
            data.validation.positions,
        )
        pixel_metrics = {}
        if masks is not None and maps is not None:
            pixel_metrics = evaluation.pixel_metrics(masks, maps, dataset.test_padding)

        normal_maps = detector.anomaly_map(data.validation.normal_examples).numpy()
        heatmap_range = pictures.heatmap_range_of(normal_maps)
        gallery.draw(
            run.folder, detector, dataset, test, selected_scores, measured.test[hp.score], heatmap_range, masks
        )
        summaries.summarise_test(run.folder, measured.validation, measured.test, hp.score, training_summary["steps"])
        low, high = measured.score_range
        return {
            "experiment": trial.experiment,
            "dataset": trial.dataset_name,
            "anomalous_label": hp.anomalous_label,
            "normal_label": hp.normal_label,
            "class_label": hp.class_label,
            "seed": trial.seed,
            "score": hp.score,
            "validation": {
                **measured.validation[hp.score],
                "score_min": low,
                "score_max": high,
                "scores": measured.validation,
            },
            "test": {**measured.test[hp.score], **pixel_metrics, "scores": measured.test},
            "derived_scores": describe_derived_scores(detector),
            "heat_range": list(heatmap_range),
            **training_summary,
            "score_images_per_second": images_per_second,
            "score_seconds": images_per_second and len(test.labels) / images_per_second,
        }

    def _score(
        self, bar: ProgressBar, detector: AnomalyDetector, split: ScoringSplit, name: str, with_maps: bool = False
    ) -> tuple[Scores, float | None]:
        """Scores a split, and continues where an earlier attempt was interrupted.

        Returns:
            What `basic_outputs` gives for all images, and the speed in images per second; the speed is None if the
            earlier attempt had scored all images.
        """
        checkpoint, batch_size = self.run.checkpoint, detector.hyperparameters.batch_size
        checkpoint.mkdir(exist_ok=True)
        # Earlier versions saved no complexity: the key has its name, so that their scores are not continued.
        key = f"{sha256(self.run.weights_path)} {split.digest} {COMPLEXITY}"
        keep_scores = callbacks.KeepScores(checkpoint / f"{name}-scores.npz", key)
        outputs, n_batches_before = keep_scores.restore()
        n_images, n_before = len(split.labels), n_batches_before * batch_size
        speed = None
        if n_before < n_images:
            if n_batches_before:
                self.console.print(f"scoring continues after {n_before:,} of {n_images:,} {name} images")
            scoring_progress = progress.ScoringProgress(bar, f"scoring {name} images", n_batches_before)
            started = time.perf_counter()
            remaining_batches = split.batches.skip(n_batches_before)
            remaining = detector.basic_outputs(
                remaining_batches, n_images - n_before, [scoring_progress, keep_scores], with_maps
            )
            speed = (n_images - n_before) / (time.perf_counter() - started)
            for name_of_output, values in remaining.items():
                earlier_values = outputs.get(name_of_output, values[:0])
                outputs[name_of_output] = np.concatenate([earlier_values, values])
        return {name_of_output: values[:n_images] for name_of_output, values in outputs.items()}, speed


def _summary_without_epochs() -> dict[str, Any]:
    """The training summary of a method that is not trained in epochs."""
    return {
        "epochs": 0,
        "steps": 0,
        "selected_epoch": None,
        "train_images_per_second": None,
        "train_seconds": 0.0,
    }


def _with_default_label(trial: Trial) -> Trial:
    """The trial with the dataset's default anomalous label if no label was given, else the same trial."""
    hp = trial.hyperparameters
    if any(getattr(hp, name) is not None for name in LABELS):
        return trial
    with_label = hp.model_copy(update={"anomalous_label": trial.dataset.default_anomalous_label})
    return dataclasses.replace(trial, hyperparameters=with_label)


def _with_earlier_defaults(trial: Trial, folder: Path) -> Trial:
    """The trial as an earlier version began it in the same folder, with the defaults of that version.

    The folder's name has the values that are not defaults. A value that is a default now, where an earlier default is
    recorded, is therefore none that the user set.
    """
    try:
        recorded = read_json(folder / "hparams.json")["hyperparameters"]
    except (OSError, DamagedFile, KeyError):
        return trial  # there is no earlier attempt, or `Run.begin` reports the damage
    hp = trial.hyperparameters
    if not isinstance(recorded, dict) or not isinstance(hp, Hyperparameters):
        return trial
    earlier = {}
    for name, value in EARLIER_DEFAULTS.items():
        if recorded.get(name) == value and getattr(hp, name) == type(hp).model_fields[name].default:
            earlier[name] = value
    return dataclasses.replace(trial, hyperparameters=hp.model_copy(update=earlier))


def _hparams(trial: Trial) -> dict[str, Any]:
    return {
        "experiment": trial.experiment,
        "dataset": trial.dataset_name,
        "source": trial.source,
        "reading": dict(trial.reading_options),
        "fingerprint_of_images": trial.dataset.fingerprint(trial.hyperparameters.class_label),
        "hyperparameters": trial.hyperparameters.model_dump(),
        "seed": trial.seed,
        "versions": {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES},
    }
