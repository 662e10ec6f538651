"""Exports: every format gives the outputs of the toolbox, for every method and every score, or is refused."""

import json
import sys
import typing
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import anomaly_toolbox
from anomaly_toolbox import evaluation, false_alarms
from anomaly_toolbox.datasets.images import Reading, read_image
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.inference import export, formats, serving
from anomaly_toolbox.inference.members import Member
from anomaly_toolbox.models import METHODS, detector_class
from anomaly_toolbox.models.derived_scores import is_derived
from anomaly_toolbox.runs import Run
from anomaly_toolbox.training.results import write_scores
from tests.conftest import N_CLASSES, eagerly, tiny_detector

DERIVED = ("paper_excess", "combined")
#: Every score of GANomaly is exported in one format. Other formats and other methods make their scores from the same
#: operations; these scores have all kinds of them.
SOME_SCORES = ("paper", "pathway", "combined")


def exported_scores(method, file_format):
    scores = typing.get_args(detector_class(method).Hyperparameters.model_fields["score"].annotation)
    if (method, file_format) != ("GANomaly", "savedmodel"):
        return [score for score in scores if score in SOME_SCORES]
    return [score for score in scores if score in DERIVED or not is_derived(score)]


SUPPORTED = [
    (method, file_format, score)
    for method in METHODS
    for file_format in formats.FORMATS
    if formats.is_supported(method, file_format)
    for score in exported_scores(method, file_format)
]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")]


@pytest.fixture(scope="module")
def trained():
    """Every method as if it were trained; EGBAD and KNN on coloured images."""
    return {method: as_if_trained(method, 3 if method in ("EGBAD", "KNN") else 1) for method in METHODS}


@pytest.fixture(scope="module")
def expected_outputs(trained):
    """Scores, anomaly map and reconstruction of each method's `example_images`."""
    outputs = {}
    for method, detector in trained.items():
        x = as_input(example_images(detector))
        scores, anomaly_map = detector.score_and_map(x)
        score_arrays = {name: values.numpy() for name, values in scores.items()}
        outputs[method] = score_arrays, anomaly_map, detector.reconstruct(x)
    return outputs


@pytest.fixture
def run(trained, tmp_path):
    """A finished run of PCA."""
    return finished_run(tmp_path / "run", trained["PCA"])


def as_if_trained(method, channels):
    """A detector with weights and batch statistics as after a training, and with filled memory banks."""
    tf.keras.utils.set_random_seed(0)
    detector, generator = tiny_detector(method, channels), np.random.default_rng(1)
    for weight in detector.variables:
        if weight.path.endswith("kernel"):
            weight.assign(generator.normal(0, 0.2, weight.shape))
        elif weight.path.endswith(("moving_mean", "moving_variance")):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    if method == "AnoGAN":
        detector.is_fitted.assign(1.0)
    with eagerly():
        detector.fit_scores(generator.uniform(-1, 1, (104, 16, 16, channels)).astype(np.float32))
    return detector


def finished_run(
    folder, detector, aspect=None, score_min=0.0, score_max=1.0, threshold=0.5, levels=255, normal_scores=(), **recorded
):
    """The folder of a finished run with the files that an export reads.

    `normal_scores` are those of normal validation images; None: the run is one of an earlier version, without them.
    """
    method = type(detector).__name__
    run = Run(folder, {"experiment": method, "hyperparameters": detector.hyperparameters.model_dump()})
    folder.mkdir()
    if detector.uses_classes:
        recorded["class_names"] = [f"class {number}" for number in range(N_CLASSES)]
    run.record(channels=detector.image_shape[-1], aspect=aspect, levels=levels, **recorded)
    detector.save_networks(run.weights_path)
    run.scores_path.write_text("index,label,score\n")
    score = detector.hyperparameters.score
    if normal_scores is not None:
        labels = np.append(np.zeros(len(normal_scores), int), 1)
        columns = {"another": np.zeros(len(labels)), score: np.append(normal_scores, 1e9)}
        write_scores(run.validation_scores_path, None, labels, columns)
    run.finish(
        {
            "experiment": method,
            "dataset": "Made up",
            "score": score,
            "validation": {"score_min": score_min, "score_max": score_max},
            "test": {"threshold": threshold},
            "heat_range": [0.0, 1.0],
        }
    )
    return folder


def example_images(detector):
    """Five noisy squares from dark to bright, (5, 16, 16, channels), uint8."""
    noise = np.random.default_rng(2).integers(0, 128, (5, *detector.image_shape))
    return (noise + 30 * np.arange(5).reshape(-1, 1, 1, 1)).astype(np.uint8)


def as_input(images):
    return tf.constant(2 * (images.astype(np.float32) / 255) - 1)


def load_export(path, file_format, signature="serving_default"):
    """The exported function, from an array to arrays by name."""
    match file_format:
        case "savedmodel":
            loaded = tf.saved_model.load(str(path))
            function = loaded.signatures[signature]
            return lambda images: {name: value.numpy() for name, value in function(images=tf.constant(images)).items()}
        case "onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))
        case "tflite":
            interpreter = tf.lite.Interpreter(str(path), num_threads=1)
            return lambda images: interpreter.get_signature_runner(signature)(images=images)


def run_export(folder, file_format, **options):
    if file_format == "onnx":
        pytest.importorskip("tf2onnx")
    return export.export(folder, file_format, **options)


@pytest.mark.parametrize(("method", "file_format", "score"), SUPPORTED)
def test_outputs_are_those_of_the_toolbox(trained, expected_outputs, tmp_path, monkeypatch, method, file_format, score):
    detector, (scores, anomaly_map, reconstruction) = trained[method], expected_outputs[method]
    images, scores = example_images(detector), scores[score]
    low, high = np.percentile(scores, [25, 75]).tolist()
    monkeypatch.setattr(detector, "hyperparameters", detector.hyperparameters.model_copy(update={"score": score}))
    threshold = float(np.sort(scores)[2:4].mean())
    normal_scores = np.repeat((np.sort(scores)[1:] + np.sort(scores)[:-1]) / 2, [1, 4, 2, 3])  # between the five scores
    folder = finished_run(
        tmp_path / "run", detector, score_min=low, score_max=high, threshold=threshold, normal_scores=normal_scores
    )
    if score != "paper":  # loading does not depend on it, and takes a second
        member = Member(detector, Reading(16, detector.image_shape[-1], levels=255), None)
        monkeypatch.setattr(export, "load_members", lambda _: [member])
    function = load_export(run_export(folder, file_format), file_format)
    outputs = function(images)
    assert {name: (values.dtype, values.shape) for name, values in outputs.items()} == {
        "score": (np.float32, (5,)),
        "anomalous": (np.bool_, (5,)),
        "calibrated": (np.float32, (5,)),
        "map": (np.float32, (5, 16, 16)),
        "reconstruction": (np.float32, images.shape),
        "p_value": (np.float32, (5,)),
    }
    small = 1e-4 * np.ptp(scores)
    np.testing.assert_allclose(outputs["score"], scores, rtol=0, atol=small)
    np.testing.assert_allclose(outputs["calibrated"], evaluation.rescale(scores, low, high), atol=small / (high - low))
    np.testing.assert_array_equal(outputs["anomalous"], scores >= threshold)
    assert outputs["anomalous"].sum() == 2
    assert (outputs["calibrated"].min(), outputs["calibrated"].max()) == (0, 1)
    np.testing.assert_allclose(np.sort(outputs["p_value"]), np.array([1, 4, 6, 10, 11]) / 11, rtol=1e-6)
    np.testing.assert_allclose(outputs["p_value"], false_alarms.p_values(normal_scores, scores), rtol=1e-6)
    np.testing.assert_allclose(outputs["map"], anomaly_map, atol=1e-4)
    np.testing.assert_allclose(outputs["reconstruction"], (reconstruction + 1) / 2, atol=1e-4)
    alone = np.concatenate([function(images[i : i + 1])["score"] for i in (3, 1)])
    np.testing.assert_allclose(alone, scores[[3, 1]], rtol=0, atol=small)


@pytest.mark.parametrize("method", formats.SEARCHING_METHODS)
@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_methods_that_a_format_does_not_support_are_refused_by_name(trained, tmp_path, method, file_format):
    folder = finished_run(tmp_path / "run", trained[method])
    with pytest.raises(InputError, match=f"^{method} cannot be exported to {file_format}, .* savedmodel can"):
        export.export(folder, file_format)
    assert not (folder / formats.FORMATS[file_format]).exists()


@pytest.mark.parametrize("file_format", ["savedmodel", "tflite"])
def test_float_images_get_the_same_outputs(run, trained, file_format):
    images = example_images(trained["PCA"])
    path = run_export(run, file_format)
    from_bytes = load_export(path, file_format)(images)
    from_floats = load_export(path, file_format, "float_images")(images.astype(np.float32) / 255)
    for name, values in from_bytes.items():
        np.testing.assert_allclose(from_floats[name], values, rtol=1e-4, atol=1e-5)


def metadata_of(path, file_format):
    """The metadata of an export."""
    match file_format:
        case "savedmodel":
            return json.loads((path / "assets.extra" / "metadata.json").read_text())
        case "tflite":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("metadata.json"))
        case "onnx":
            return pytest.importorskip("onnxruntime").InferenceSession(path).get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("file_format", sorted(formats.FORMATS))
def test_the_threshold_and_other_facts_are_in_the_metadata(trained, tmp_path, file_format):
    run = finished_run(tmp_path / "run", trained["PCA"], "pad", score_max=2.0, threshold=0.7, white_level=None)
    metadata = metadata_of(run_export(run, file_format), file_format)
    expected = {
        "threshold": "0.7",
        "score_min": "0.0",
        "score_max": "2.0",
        "aspect": "pad",
        "classes": "normal, anomalous",
    }
    assert expected.items() <= metadata.items()
    assert metadata["producer"] == f"anomaly-toolbox {anomaly_toolbox.__version__}"
    both = "uint8, black to white: 0 to 255, or float32, black to white: 0 to 1"
    assert metadata["input"] == (both if file_format != "onnx" else "uint8, black to white: 0 to 255")


@pytest.mark.parametrize("white_level", [None, 4095])
@pytest.mark.parametrize("file_format", sorted(formats.FORMATS))
def test_images_with_more_than_8_bits_are_given_as_floats(trained, tmp_path, file_format, white_level):
    """The export of a 16-bit run gives the scores of the toolbox, also if only 12 bits are used."""
    folder = finished_run(tmp_path / "run", trained["PCA"], levels=65535, white_level=white_level)
    path = run_export(folder, file_format)
    function = load_export(path, file_format, "serving_default" if file_format == "onnx" else "float_images")
    images = np.random.default_rng(6).integers(0, 4096, (4, 23, 31)).astype(np.uint16)
    scores = anomaly_toolbox.load(folder).score_images(list(images))
    outputs = function((images / np.float32(white_level or 65535))[..., np.newaxis].astype(np.float32))["score"]
    np.testing.assert_allclose(outputs, scores, rtol=2e-5)
    assert "float32" in metadata_of(path, file_format)["input"]
    assert metadata_of(path, file_format)["white_level"] == str(white_level or "")


@pytest.mark.parametrize("file_format", sorted(formats.FORMATS))
@pytest.mark.parametrize("aspect", ["pad", "crop", None])
def test_images_are_resized_as_by_the_toolbox(trained, tmp_path, file_format, aspect):
    """A photograph that is not square, and one that is too small."""
    function = load_export(
        run_export(finished_run(tmp_path / "run", trained["KNN"], aspect=aspect), file_format), file_format
    )
    for shape in ((61, 40, 3), (9, 13, 3)):
        photograph = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(photograph).save(tmp_path / "photograph.png")
        x = 2 * read_image(tmp_path / "photograph.png", 16, 3, aspect or "stretch")[np.newaxis] - 1
        np.testing.assert_allclose(
            function(photograph[np.newaxis])["score"], trained["KNN"].scores(x)["paper"], rtol=1e-4
        )


@pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (61, 40), (17, 90), (9, 13), (1, 2), (101, 37), (200, 3)])
def test_resizing_equals_pillows(tmp_path, aspect, shape):
    photograph = np.random.default_rng(4).integers(0, 256, (*shape, 1), dtype=np.uint8)
    Image.fromarray(photograph[..., 0]).save(tmp_path / "photograph.png")
    expected = 255 * read_image(tmp_path / "photograph.png", 16, 1, aspect)
    reading = Reading(16, 1, aspect, levels=255)
    resized = 255 * serving.resize(tf.constant(photograph[np.newaxis], tf.float32), reading, 255, 255)[0]
    np.testing.assert_allclose(resized, expected, atol=1.01)
    assert np.mean(np.abs(resized - expected)) < 0.005  # one pixel may be just between two levels


@pytest.mark.parametrize("shape", [(16, 16), (61, 40), (9, 13)])
def test_resizing_without_rounding_equals_tensorflows(shape):
    images = np.random.default_rng(5).uniform(0, 1, (2, *shape, 3)).astype(np.float32)
    expected = tf.image.resize(images, (16, 16), antialias=True)
    np.testing.assert_allclose(serving.resize(images, Reading(16, 3, levels=None), 1, None), expected, atol=1e-5)


def test_equal_validation_scores_calibrate_to_0(trained):
    function = serving.serving_functions([Member(trained["PCA"], Reading(16, 1), None)], (1e3, 1e3), 1e3)[
        "serving_default"
    ]
    assert function(example_images(trained["PCA"]))["calibrated"].numpy().tolist() == [0] * 5


def test_p_values_with_ties_and_of_scores_that_are_not_numbers():
    """The same as those of the toolbox, also where a normal score is equal."""
    normal_scores = np.array([0.5, 0.1, 0.5, 2.0], np.float32)
    scores = np.array([0.5, 0.1, 3.0, 0.0, np.inf, np.nan], np.float32)
    expected = np.array([4, 5, 1, 5, 1, 5]) / 5
    np.testing.assert_allclose(serving.p_values(tf.constant(scores), normal_scores), expected)
    np.testing.assert_allclose(false_alarms.p_values(normal_scores, scores), expected)


def test_a_run_of_an_earlier_version_is_exported_without_p_values(trained, tmp_path):
    run = finished_run(tmp_path / "run", trained["PCA"], normal_scores=None)
    outputs = load_export(run_export(run, "savedmodel"), "savedmodel")(example_images(trained["PCA"]))
    assert sorted(outputs) == ["anomalous", "calibrated", "map", "reconstruction", "score"]


@pytest.mark.parametrize("file_format", sorted(formats.FORMATS))
def test_an_existing_output_is_replaced_only_with_overwrite(run, tmp_path, file_format):
    output = tmp_path / "new" / "folder" / "exported"
    assert run_export(run, file_format, output=output) == output
    assert load_export(output, file_format)(np.zeros((1, 16, 16, 1), np.uint8))
    with pytest.raises(InputError, match="exported: already exists; --overwrite replaces it"):
        export.export(run, file_format, output)
    assert run_export(run, file_format, output=output, overwrite=True) == output
    assert [path.name for path in output.parent.iterdir()] == ["exported"]


@pytest.mark.parametrize("file_format", sorted(formats.FORMATS))
def test_only_exports_are_replaced(run, tmp_path, file_format):
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "holiday.png").touch()
    output = folder / "holiday.png" if file_format == "savedmodel" else folder
    with pytest.raises(InputError, match=f"{output.name} was not written by an export"):
        export.export(run, file_format, output, overwrite=True)
    assert (folder / "holiday.png").exists()
    if file_format != "savedmodel":
        with pytest.raises(InputError, match=r"results\.json was not written by an export"):
            export.export(run, file_format, run / "results.json", overwrite=True)


@pytest.mark.parametrize("file_format", sorted(formats.FORMATS))
def test_a_failure_keeps_the_earlier_export(run, file_format, monkeypatch):
    def fail(*_, **__):
        raise OSError("no room")

    output = run_export(run, file_format)
    monkeypatch.setattr(export, "_save" if file_format == "savedmodel" else "atomic_write", fail)
    before = sorted(run.rglob("*"))
    with pytest.raises(ToolboxError, match=f"the conversion to {file_format} failed: OSError: no room"):
        export.export(run, file_format, overwrite=True)
    assert sorted(run.rglob("*")) == before
    assert load_export(output, file_format)(np.zeros((1, 16, 16, 1), np.uint8))


def test_missing_runs_formats_and_packages_are_reported(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no format is called 'onx': did you mean onnx"):
        export.export(run, "onx")
    with pytest.raises(InputError, match="elsewhere: is not the folder of a run: there is no hparams"):
        export.export(tmp_path / "elsewhere", "onnx")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(InputError, match=r"onnx needs tf2onnx: pip install 'anomaly-toolbox\[export\]'"):
        export.export(run, "onnx")


def test_a_damaged_run_is_refused(run):
    Run(run, {}).finish({"experiment": "PCA"})
    with pytest.raises(ToolboxError, match=r"run: its files are damaged or of another version.*restore the folder"):
        export.export(run, "savedmodel")
    (run / "hparams.json").write_text("{}")
    with pytest.raises(ToolboxError, match=r"hparams\.json is damaged or missing"):
        export.export(run, "savedmodel")
    (run / "model.weights.h5").write_bytes(b"")
    with pytest.raises(ToolboxError, match=r"model\.weights\.h5 is damaged"):
        export.export(run, "savedmodel")
