"""Methods that use the classes of normal images: which images they get, their runs, and the errors."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

import anomaly_toolbox
from anomaly_toolbox.cli import main
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.labelled import LabelledImages, Split
from anomaly_toolbox.ensembles.command import make_ensemble
from anomaly_toolbox.errors import NoClasses, ToolboxError
from anomaly_toolbox.inference.members import load_detector
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.training import summaries
from anomaly_toolbox.training.data import prepare
from anomaly_toolbox.training.trial import Trial, run_trial
from tests.class_means import TINY_CLASS_MEANS
from tests.datasets.test_folder import fill

pytestmark = pytest.mark.slow

LABELS = (3, 5, 11)  # of the normal images; label 2 is anomalous


def value_of(label):
    """The value in [-1, 1] of the pixels of images with a label, apart from noise of at most 0.03."""
    return 20 * label / 127.5 - 1


def split_of(per_label, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat((2, *LABELS), per_label))
    noise = np.random.default_rng(seed).integers(0, 4, (len(labels), 16, 16, 1))
    return Split((20 * labels[:, None, None, None] + noise).astype(np.uint8), labels)


def labelled(**options):
    """Grey images whose brightness follows from their label; 3 times 15 of them are normal training images."""
    return LabelledImages(split_of(15, 0), split_of(5, 1), split_of(5, 2), **options)


def hyperparameters(**changes):
    return detector_class("ClassMeans").Hyperparameters(**{**TINY_CLASS_MEANS, "anomalous_label": 2, **changes})


def trial(dataset=None, seed=0, **changes):
    return Trial("ClassMeans", hyperparameters(**changes), "Given", "Given", dataset or labelled(), seed)


def run(folder, *arguments, **changes):
    """Runs a trial -> its run folder, its results and its output."""
    output = io.StringIO()
    return *run_trial(trial(*arguments, **changes), folder, plain_console(file=output)), output.getvalue()


def prepared(dataset, **changes):
    tf.keras.utils.set_random_seed(0)
    hp = hyperparameters(**changes)
    return prepare(dataset, detector_class("ClassMeans"), hp, 0, plain_console(file=io.StringIO()))


def pairs_in(batches, count):
    """The mean value and the class of each image in the first batches."""
    images, classes = zip(*batches.take(count).as_numpy_iterator(), strict=True)
    return np.concatenate(images).mean(axis=(1, 2, 3)), np.concatenate(classes)


@pytest.mark.parametrize("split", ["official", "pooled"])
def test_training_batches_have_the_class_of_each_image(class_means, split):
    data = prepared(labelled(split=split))
    assert data.class_names == ["3", "5", "11"]
    batches = data.batches(0)
    assert [spec.shape for spec in batches.element_spec] == [(8, 16, 16, 1), (8,)]
    assert batches.element_spec[1].dtype == tf.int32
    values, classes = pairs_in(batches, 12)
    assert set(classes) == {0, 1, 2}
    np.testing.assert_allclose(values, np.array([value_of(label) for label in LABELS])[classes], atol=0.03)


def test_other_methods_get_images_alone():
    output = io.StringIO()
    schema = detector_class("PCA").Hyperparameters(image_size=16, batch_size=8, anomalous_label=2)
    data = prepare(labelled(), detector_class("PCA"), schema, 0, plain_console(file=output))
    assert data.class_names is None
    assert data.batches(0).element_spec.shape == (8, 16, 16, 1)
    assert "classes" not in output.getvalue()


class Unshuffled(AnomalyDetectionDataset):
    """45 images of three classes, in a fixed order; `change` may spoil them."""

    def __init__(self, names=("a", "b", "c"), change=lambda pairs: pairs):
        super().__init__()
        self._names, self._change = names, change

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        train, test = split_of(15, 0), split_of(5, 1)

        def batches(split, kinds, labels):
            is_chosen = np.isin(split.labels, kinds)
            pairs = tf.data.Dataset.from_tensor_slices((split.images[is_chosen], labels[is_chosen]))
            return self.pipeline(pairs, new_size, batch_size, **options)

        for name, split in (("train", train), ("validation", test), ("test", test)):
            is_anomalous = (split.labels == 2).astype(int)
            self.set_split(
                name,
                normal=batches(split, LABELS, is_anomalous),
                anomalous=batches(split, (2,), is_anomalous),
                all=batches(split, (2, *LABELS), is_anomalous),
            )
        classes = np.searchsorted(LABELS, train.labels)
        self.set_train_classes(self._change(batches(train, LABELS, classes)), self._names)


def test_images_in_a_fixed_order_are_shuffled_with_their_classes(class_means):
    data = prepared(Unshuffled())
    values, classes = pairs_in(data.batches(0), 15)
    assert not np.array_equal(values[:40], values[40:80])
    np.testing.assert_allclose(values, np.array([value_of(label) for label in LABELS])[classes], atol=0.03)


@pytest.mark.parametrize("dataset", [labelled, Unshuffled])
def test_the_order_continues_after_a_break(class_means, dataset):
    values, classes = pairs_in(prepared(dataset()).batches(0), 20)
    later_values, later_classes = pairs_in(prepared(dataset()).batches(2), 5)  # an epoch has five batches
    np.testing.assert_array_equal(later_values, values[80:120])
    np.testing.assert_array_equal(later_classes, classes[80:120])
    assert not np.array_equal(later_values, values[:40])


def test_a_run_learns_each_class_and_can_be_loaded(class_means, tmp_path):
    folder, results, output = run(tmp_path, epochs=4)
    assert "classes of normal images: 3 (15), 5 (15), 11 (15)" in output
    assert json.loads((folder / "hparams.json").read_text())["class_names"] == ["3", "5", "11"]
    detector = load_detector(folder)
    expected = [value_of(label) for label in LABELS]
    np.testing.assert_allclose(detector.mean_images(detector.classes).numpy().mean(axis=(1, 2, 3)), expected, atol=0.1)
    assert results["test"]["auroc"] == 1

    images = [image[..., 0] for image in split_of(5, 2).images]
    rows = (folder / "scores.csv").read_text().splitlines()[1:]
    recorded = [float(row.split(",")[2]) for row in rows]
    np.testing.assert_allclose(anomaly_toolbox.load(folder).score_images(images), recorded, rtol=1e-5)

    other, _, _ = run(tmp_path, seed=1)
    ensemble, _ = make_ensemble([folder, other], tmp_path / "ensemble", overwrite=False)
    assert anomaly_toolbox.load(ensemble).score_images(images).shape == (20,)


def test_an_interrupted_run_continues_with_the_same_weights(class_means, tmp_path, monkeypatch):
    uninterrupted, _, _ = run(tmp_path / "whole", epochs=3)
    on_train_batch_end = summaries.Summaries.on_train_batch_end

    def stop_in_epoch_2(self, batch, logs=None):
        on_train_batch_end(self, batch, logs)
        if self._epoch == 1 and batch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(summaries.Summaries, "on_train_batch_end", stop_in_epoch_2)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", epochs=3)
    continued, _, output = run(tmp_path / "parts", epochs=3)
    assert "continuing after epoch 1 of 3" in output
    for weight, expected in zip(load_detector(continued).weights, load_detector(uninterrupted).weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_checkpoint_with_other_classes_is_refused(class_means, tmp_path):
    def stop(epoch, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(trial(Unshuffled()), tmp_path, plain_console(file=io.StringIO()), watch=stop)
    with pytest.raises(ToolboxError, match="the images have changed since this run was made"):
        run(tmp_path, Unshuffled(names=("a", "b", "c", "d")))


def one_class():
    split = split_of(15, 0)
    is_kept = split.labels < 5
    kept = Split(split.images[is_kept], split.labels[is_kept])
    return LabelledImages(kept, kept, kept)


def without_classes():
    dataset = Unshuffled()
    dataset.set_train_classes = lambda *_: None
    return dataset


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (
            without_classes,
            NoClasses,
            r"^ClassMeans needs the classes of normal images: this dataset has none; in a folder of images, put them "
            r"into train/good/<class>/; a dataset class calls set_train_classes$",
        ),
        (
            one_class,
            NoClasses,
            "^ClassMeans needs at least two classes of normal images, received 1: 3; choose other images, or a method "
            "that uses no classes$",
        ),
        (
            lambda: Unshuffled(names=("a", "b")),
            ToolboxError,
            r"^Unshuffled\.train_classes gives the classes \[0 1 2\], expected whole numbers from 0 to 1, because "
            "class_names has 2 names$",
        ),
        (
            lambda: Unshuffled(change=lambda pairs: pairs.map(lambda x, y: (x, y / 2))),
            ToolboxError,
            r"^Unshuffled\.train_classes gives the classes \[0\.  0\.5 1\. \], expected whole numbers from 0 to 2",
        ),
        (
            lambda: Unshuffled(change=lambda pairs: pairs.take(5)),
            ToolboxError,
            r"^Unshuffled\.train_classes gives 40 images, expected the 45 of train_normal$",
        ),
        (
            lambda: Unshuffled(change=lambda pairs: pairs.map(lambda x, y: x)),
            ToolboxError,
            r"^Unshuffled\.train_classes gives TensorSpec.*, expected pairs \(image, label\)$",
        ),
    ],
)
def test_errors_about_classes(class_means, tmp_path, dataset, error, message):
    with pytest.raises(error, match=message) as raised:
        run(tmp_path, dataset())
    assert type(raised.value) is error
    assert not list(tmp_path.rglob("hparams.json"))


def anomaly_box(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


def test_the_subfolders_of_a_folder_are_classes(class_means, tmp_path):
    parts, logs = tmp_path / "parts", tmp_path / "logs"
    fill(parts, size=(16, 16), train__good__nuts=9, train__good__bolts=8, test__good=6, test__crack=6)
    for path in (parts / "train" / "good" / "nuts").iterdir():
        Image.fromarray(np.array(Image.open(path)) // 8).save(path)  # nuts are dark
    settings = [f"--set={name}={value}" for name, value in TINY_CLASS_MEANS.items()]
    arguments = ["--experiment", "ClassMeans", "--dataset", parts, "--log-dir", logs, *settings, "--set", "epochs=9"]
    code, out, err = anomaly_box(*arguments)
    assert code == 0, err
    assert "classes of normal images: bolts (8), nuts (9)" in out
    (folder,) = (path.parent for path in logs.rglob("results.json"))
    bolts, nuts = load_detector(folder).mean_images(tf.range(2)).numpy().mean(axis=(1, 2, 3))
    assert nuts < bolts - 0.3
    code, out, _ = anomaly_box("predict", folder, parts / "test")
    assert code == 0
    assert len(out.splitlines()) == 13

    fill(parts, seed=5, size=(16, 16), train__good=1)  # an image beside the classes
    shorter = [*arguments, "--set", "batch_size=4"]
    code, _, err = anomaly_box(*shorter)
    assert code == 2
    assert err.endswith(
        "ClassMeans needs the classes of normal images: 1 of 18 training images is in no subfolder, such as "
        f"{parts}/train/good/0.png; put the images of each class into train/good/<class>/\n"
    )
    code, _, err = anomaly_box("--experiment", "PCA", *shorter[2:7], "--set", "image_size=16")
    assert code == 0, err
