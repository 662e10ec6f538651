"""The command `anomaly-box`. Only click is imported at the top, so that `--help` answers at once."""

import contextlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from anomaly_toolbox import __version__
from anomaly_toolbox.datasets import DATASETS, dataset_name
from anomaly_toolbox.errors import INTERRUPTED, InputError, ToolboxError, reason
from anomaly_toolbox.models import METHODS, method_name
from anomaly_toolbox.objects import ObjectPath, is_object_name, object_path
from anomaly_toolbox.streams import import_tensorflow, open_streams

ENVIRONMENT = "ANOMALY_BOX"  # the prefix of all environment variables
LONGEST_SWEEP_NAME = 150  # bytes; the name is also the name of a folder
BROKEN_PIPE = 141  # the exit code that shells use for a command that wrote to a closed pipe
CONTINUE = "Run the same command again to continue after the last finished epoch."
CONTINUE_PARTS = "Run the same command again to continue after the last finished part."
DEBUG_HELP = "Show the traceback of an error and TensorFlow's own messages."


def cache_option(command: Any) -> Any:
    """Adds the option `--cache/--no-cache`."""
    return click.option(
        "--cache/--no-cache",
        default=True,
        show_default=True,
        help="Whether compiled steps are kept in ~/.cache/anomaly-toolbox for later commands.",
    )(command)


class OneLineErrors(click.Group):
    """A command that reports every usage error in one line, like all other errors."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Runs the command; see `click.Command.main`."""
        open_streams()
        warnings.filterwarnings("ignore", module="PIL")  # unusable image files are reported in our own words
        try:
            return super().main(*arguments, **options | {"standalone_mode": False})
        except click.ClickException as problem:
            _exit(f"Error: {problem.format_message()} (--help explains the options)", problem.exit_code)
        except click.Abort:
            _exit("Interrupted.", INTERRUPTED)


class AddedToEnvironment(click.Option):
    """A repeatable option whose values are added to those of its environment variable."""

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        """See `click.Parameter.consume_value`."""
        value, source = super().consume_value(ctx, opts)
        if source == ParameterSource.COMMANDLINE:
            value = [*(self.value_from_envvar(ctx) or ()), *value]
        return value, source


class NonEmptyPath(click.Path):
    """A path. An empty one, as a variable that is not set gives it, would be the current folder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        if value == "":
            self.fail("is empty; expected a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


class PathOrObject(NonEmptyPath):
    """A path, or the name of an object in a store, such as s3://bucket/folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        if isinstance(value, str) and is_object_name(value):
            try:
                return object_path(value)
            except InputError as problem:
                self.fail(str(problem), param, ctx)
        if isinstance(value, str) and re.match(r"\w+://", value) and not os.path.lexists(value):
            self.fail(f"{value}: expected a file, a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER", param, ctx)
        return super().convert(value, param, ctx)


@click.group(
    cls=OneLineErrors,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": ENVIRONMENT},
)
@click.option("--experiment", metavar="NAME", help=f"The method to train and test: {', '.join(METHODS)}.")
@click.option("--run-all", is_flag=True, help="Train and test every method instead of a single one.")
@click.option(
    "--dataset",
    metavar="NAME|FOLDER|FILE.py",
    help=f"A known dataset ({', '.join(DATASETS)}), a folder of images, or a Python file with a subclass of "
    "AnomalyDetectionDataset of the same name. A folder has train/good, test/good and test/<defect>, or normal and "
    "anomalous.",
)
@click.option(
    "--data-dir",
    type=NonEmptyPath(),
    help="Folder or archive (.zip, .tar.*) with the images, or folder to download them to; required for MVTecAD and "
    "SurfaceCracks. MNIST, FashionMNIST and KMNIST read four IDX files, plain or .gz; EMNIST reads gzip.zip, CIFAR10 "
    "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, and CorruptedMNIST mnist_c.zip.",
)
@click.option(
    "--aspect",
    type=click.Choice(["stretch", "pad", "crop"], case_sensitive=False),
    show_default="stretch",
    help="What happens to images of a folder that are not square: they are stretched, padded with black, or cropped to "
    "their centre.",
)
@click.option(
    "--on-bad-image",
    type=click.Choice(["error", "skip"], case_sensitive=False),
    show_default="error",
    help="Stop if a folder has image files that cannot be used, or leave them out with a note.",
)
@click.option(
    "--all-test-images",
    is_flag=True,
    help="Test on all test images of a folder, as papers do, instead of keeping half of them for validation. Some "
    "normal training images are then held out for validation.",
)
@click.option(
    "--split",
    type=click.Choice(["official", "pooled"], case_sensitive=False),
    show_default="official",
    help="How Digits, MNIST, FashionMNIST, KMNIST, EMNIST and CIFAR10 are divided. official keeps the dataset's own "
    "training and test images. pooled puts all images together, as the papers of EGBAD and GANomaly do: 80% of the "
    "normal images are for training, the other 20% and all anomalous images for testing. A tenth of the training "
    "images is held out for validation.",
)
@click.option(
    "--white-level",
    type=click.IntRange(1, 65535),
    help="The level that is white in a folder's 16-bit greyscale images, such as 4095 for 12-bit data; higher levels "
    "become white as well. By default it is 65535.",
)
@click.option(
    "--hps-path",
    type=NonEmptyPath(),
    help="JSON file of hyperparameters. Without it, each method uses the hyperparameters of its paper.",
)
@click.option(
    "--tuning",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=False,
    metavar="[BOOLEAN]",
    help="Run every combination of the values in the hyperparameter file, or the trials that --sampler chooses, and "
    "not only the first value of each. Several processes can share the trials; see --workers and --storage.",
)
@click.option("--no-tuning", is_flag=True, help="Run only the first value of each hyperparameter; this is the default.")
@click.option(
    "--sampler",
    type=click.Choice(["grid", "random", "tpe"], case_sensitive=False),
    default="grid",
    show_default=True,
    help="How --tuning chooses trials: every combination, at random, or close to good earlier trials (tpe, the "
    "tree-structured Parzen estimator). random and tpe also search intervals and need --trials.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 1_000_000),
    help="Number of trials that --tuning runs for each method and label. Without it, the whole grid is run.",
)
@click.option(
    "--pruner",
    type=click.Choice(["none", "median"], case_sensitive=False),
    default="none",
    show_default=True,
    help="With median, --tuning stops a trial whose validation AUPRC after an epoch is below the median of the earlier "
    "trials.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    show_default="one for each GPU in a sweep, otherwise 1",
    help="Number of processes on this machine that run trials in parallel and share its threads. Each uses one GPU.",
)
@click.option(
    "--storage",
    metavar="URL|FILE",
    help="Database (postgresql://user:password@host/name), or file on a shared disk, in which machines that run the "
    "same command share its trials. By default it is a file in the sweep's folder.",
)
@click.option(
    "--sweep-name",
    metavar="NAME",
    help="Name of the sweep in the storage. By default it follows from the other options.",
)
@click.option(
    "--set",
    "overrides",
    cls=AddedToEnvironment,
    metavar="NAME=VALUE",
    multiple=True,
    envvar=[f"{ENVIRONMENT}_SET", f"{ENVIRONMENT}_OVERRIDES"],
    help="Set a hyperparameter and ignore its values in the file; none stands for no value, true and false are "
    f"Booleans. The option can be repeated, and {ENVIRONMENT}_SET takes several NAME=VALUE separated by spaces.",
)
@click.option(
    "--log-dir",
    type=NonEmptyPath(file_okay=False),
    default=Path("logs"),
    show_default=True,
    help="Folder for all run folders, which TensorBoard can show.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Seed of all random numbers; the same seed gives the same results.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Number of times that each trial is run, with the seeds from --seed upwards. More than one are also combined "
    "into an ensemble.",
)
@click.option(
    "--ensemble",
    is_flag=True,
    help="Combine all runs of this command that have the same label, of all methods and seeds, into one ensemble.",
)
@click.option("--overwrite", is_flag=True, help="Delete earlier results of the same name and start again.")
@cache_option
@click.option("--require-gpu", is_flag=True, help="Stop at once if TensorFlow finds no GPU.")
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
@click.version_option(__version__, prog_name="anomaly-box")
@click.pass_context
def main(
    context: click.Context,
    /,
    experiment: str | None,
    run_all: bool,
    dataset: str | None,
    tuning: bool,
    no_tuning: bool,
    cache: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Train detectors on normal images and measure how well they find anomalous ones.

    An example that needs no download:

    anomaly-box --experiment GANomaly --dataset Digits
    """
    if context.invoked_subcommand:
        return
    with _errors_in_one_line(debug, CONTINUE), _compile_cache(cache):
        if bool(experiment) == run_all:
            raise InputError("give either --experiment NAME or --run-all")
        if dataset is None:
            raise InputError(f"give --dataset: {', '.join(DATASETS)}, or a folder of images or a .py file of your own")
        tuning = tuning and not no_tuning
        if not tuning and (options["trials"] or options["sampler"] != "grid" or options["pruner"] != "none"):
            raise InputError("--sampler, --trials and --pruner have no effect without --tuning; add --tuning")
        _check_sweep_name(options["sweep_name"])
        methods = [method_name(experiment)] if experiment else list(METHODS)
        name = dataset_name(dataset)
        from anomaly_toolbox.sweeps.plan import Options, make_plan

        plan = make_plan(Options(methods, dataset, name, tuning=tuning, debug=debug, **options))
        _note_folder_of_same_name(dataset, name)
        import_tensorflow(debug)

        from anomaly_toolbox.sweeps import command

        command.run(plan)


@main.command()
@click.argument("log_dir", type=NonEmptyPath())
@click.option("--output", type=NonEmptyPath(), help="Folder for the report; by default the log folder.")
@click.option(
    "--score",
    metavar="NAME",
    help="Compare this score of every run, such as paper or combined, instead of the score that each run selected.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def report(log_dir: Path, output: Path | None, score: str | None, debug: bool) -> None:
    """Compare all runs in LOG_DIR: tables of every metric, and one page to read.

    Writes results_table.md, results_table.csv, bar charts (SVG) for each dataset, and report.html, which opens in
    any browser without a network connection.
    """
    with _errors_in_one_line(debug):
        from anomaly_toolbox.report import command

        paths, n_left_out = command.write(log_dir, output or log_dir, score)
        for path in paths:
            click.echo(path)
        if n_left_out:
            click.echo(f"left out: {_counted(n_left_out, 'folder')}; the report lists the reasons", err=True)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=NonEmptyPath(), metavar="RUN RUN...")
@click.option("--output", type=NonEmptyPath(), required=True, help="The run folder to write for the ensemble.")
@click.option("--overwrite", is_flag=True, help="Replace another ensemble in this folder.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def ensemble(runs: tuple[Path, ...], output: Path, overwrite: bool, debug: bool) -> None:
    """Combine finished runs on the same images into one detector.

    Each RUN is a run folder. The runs may be of different methods, sizes, seeds and selected scores. The ensemble gets
    a run folder like any other, for predict, export and report. No image is scored again, and the runs are not needed
    any more afterwards.
    """
    with _errors_in_one_line(debug):
        from anomaly_toolbox.ensembles.command import make_ensemble

        folder, results = make_ensemble(runs, output, overwrite)
        test = results["test"]
        if test["auprc"] is not None:
            click.echo(f"on the test images: AUPRC {test['auprc']:.3f}, AUROC {test['auroc']:.3f}")
            for member in results["members"]:
                name = f"{member['experiment']} ({member['score']}, seed {member['seed']})"
                click.echo(f"member {name}: AUPRC {member['auprc']:.3f}, AUROC {member['auroc']:.3f}")
        click.echo(folder)


@main.command()
@click.argument("run", type=NonEmptyPath())
@click.argument("paths", nargs=-1, required=True, type=PathOrObject(), metavar="PATH...")
@click.option(
    "--format",
    "output_format",
    envvar=f"{ENVIRONMENT}_PREDICT_FORMAT",
    type=click.Choice(["csv", "jsonl", "parquet"], case_sensitive=False),
    default="csv",
    show_default=True,
    help="Format of the predictions: comma-separated values, a JSON object for each image, or Parquet with --parts.",
)
@click.option("--output", type=NonEmptyPath(), help="File for the predictions, which are printed by default.")
@click.option(
    "--parts",
    type=PathOrObject(),
    help="Folder for the predictions, in a file for each part of the images. After an interruption, the same command "
    "continues. The file _SUCCESS is written last.",
)
@click.option(
    "--images-per-part",
    type=click.IntRange(1, 1_000_000),
    default=4096,
    show_default=True,
    help="Number of images in each part, with --parts.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    show_default="1; with Ray, one for each GPU or processor of the cluster",
    help="Number of processes that score parts at the same time, with --parts. They share the threads, and each uses "
    "one GPU.",
)
@click.option(
    "--engine",
    type=click.Choice(["here", "ray"], case_sensitive=False),
    default="here",
    show_default=True,
    help="Where parts are scored, with --parts: on this machine, or on a Ray cluster that you have started.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Address of the Ray cluster; by default that of the environment variable RAY_ADDRESS.",
)
@click.option(
    "--heatmaps",
    type=PathOrObject(),
    help="Folder for an anomaly heatmap of each image, <image>.heat.png.",
)
@click.option(
    "--heatmaps-of",
    type=click.Choice(["all", "anomalous"], case_sensitive=False),
    default="all",
    show_default=True,
    help="Which images get a heatmap.",
)
@click.option(
    "--false-alarm-rate",
    type=float,
    metavar="RATE",
    help="Call at most this share of normal images anomalous, such as 0.01, instead of using the threshold of the run. "
    "The run needs enough normal validation images: 99 for 0.01, 999 for 0.001.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing predictions and existing heatmaps.")
@cache_option
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
@click.pass_context
def predict(
    context: click.Context,
    /,
    run: Path,
    paths: tuple[Path | ObjectPath, ...],
    output_format: str,
    output: Path | None,
    parts: Path | ObjectPath | None,
    images_per_part: int,
    processes: int | None,
    engine: str,
    address: str | None,
    heatmaps: Path | ObjectPath | None,
    heatmaps_of: str,
    false_alarm_rate: float | None,
    overwrite: bool,
    cache: bool,
    debug: bool,
) -> None:
    """Score new images with the detector of a finished RUN.

    RUN is a run folder, PATH an image or a folder of images. A prediction has the name of the file, its score, the
    calibrated score, whether the score reaches the threshold, and the p-value: how often a normal image has a score at
    least as high. If a file cannot be used, its prediction has the reason instead, and the exit code is 1; with
    --parts, it is 0 as soon as every file has a prediction.

    With --parts, images, predictions and heatmaps may be in an object store, with names such as s3://bucket/folder or
    gs://bucket/folder.
    """
    with _errors_in_one_line(debug, CONTINUE_PARTS if parts else ""), _compile_cache(cache):
        only_anomalous = heatmaps_of == "anomalous"
        given = {name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
        if "heatmaps_of" in given and only_anomalous and heatmaps is None:
            raise InputError("--heatmaps-of anomalous has no effect without --heatmaps FOLDER")
        if parts is not None:
            if "address" in given and engine != "ray":
                raise InputError("--address has no effect without --engine ray")
            if output is not None:
                raise InputError("--output and --parts are both given; expected one of them")
            from anomaly_toolbox.console import plain_console
            from anomaly_toolbox.inference.bulk import predict_in_parts
            from anomaly_toolbox.inference.job import JobRequest

            job_request = JobRequest(
                run,
                paths,
                parts,
                output_format,
                images_per_part,
                heatmaps,
                only_anomalous,
                false_alarm_rate,
                overwrite,
            )
            job, counts = predict_in_parts(job_request, plain_console(stderr=True), processes, engine, address, debug)
            unusable = f", {_counted(counts.unusable, 'file')} could not be used" if counts.unusable else ""
            scored = f"{_counted(counts.scored, 'image')} scored, {counts.anomalous:,} of them anomalous{unusable}"
            click.echo(f"{scored}; {_counted(job.n_parts, 'part')} in {parts}", err=True)
            return
        for name in ("images_per_part", "processes", "engine", "address"):
            if name in given:
                raise InputError(f"--{name.replace('_', '-')} has no effect without --parts FOLDER")
        files = [_on_disk(path) for path in paths]
        heatmap_folder = None if heatmaps is None else _on_disk(heatmaps)
        if output_format == "parquet":
            raise InputError("--format parquet needs --parts FOLDER; expected csv or jsonl")
        from anomaly_toolbox.console import plain_console
        from anomaly_toolbox.files import atomic_write
        from anomaly_toolbox.inference import predict as predicting

        request = predicting.prepare(run, files, output, heatmap_folder, overwrite, false_alarm_rate, only_anomalous)
        import_tensorflow(debug)
        with contextlib.ExitStack() as stack:
            lines = sys.stdout
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(atomic_write(output))
                lines = open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
                stack.enter_context(lines)
            n_scored, n_bad = predicting.predict(request, lines, output_format == "jsonl", plain_console(stderr=True))
        unusable = f", {_counted(n_bad, 'file')} could not be used" if n_bad else ""
        click.echo(f"{_counted(n_scored, 'image')} scored{unusable}", err=True)
        if n_bad:
            sys.exit(1)


@main.command()
@click.argument("run", type=NonEmptyPath())
@click.option(
    "--format",
    "file_format",
    envvar=f"{ENVIRONMENT}_EXPORT_FORMAT",
    type=click.Choice(["savedmodel", "onnx", "tflite"], case_sensitive=False),
    default="savedmodel",
    show_default=True,
    help="savedmodel for TensorFlow and TensorFlow Serving, onnx for other runtimes, tflite for small devices.",
)
@click.option("--output", type=NonEmptyPath(), help="File or folder to write; by default in the run folder.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@cache_option
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
def export(run: Path, file_format: str, output: Path | None, overwrite: bool, cache: bool, debug: bool) -> None:
    """Write the detector of a finished RUN to a file for programs without this toolbox.

    The export takes images as bytes, or as floats from 0 to 1 if they have more than 8 bits. It returns the score, the
    calibrated score, whether the image is anomalous, the anomaly map and the reconstruction. It includes all processing
    of images and scores; its metadata has the threshold and other facts.
    """
    with _errors_in_one_line(debug), _compile_cache(cache):
        from anomaly_toolbox.inference import formats

        finished_run, output = formats.check(run, file_format, output, overwrite)
        import_tensorflow(debug)

        from anomaly_toolbox.inference import export as exporting

        exporting.write(finished_run, file_format, output)
        click.echo(output)
        note = formats.note_on_input(finished_run, file_format)
        if note is not None:
            click.echo(note, err=True)


@main.command()
@click.argument("run", type=NonEmptyPath())
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen at. At 127.0.0.1, only programs on this machine can connect; at 0.0.0.0, other "
    "machines can, too.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen at; 0 takes one that is free.",
)
@click.option(
    "--token",
    help="A password for the service, at least 8 characters. Programs send it as 'Authorization: Bearer TOKEN'; "
    f"browsers ask for it, with any user name. Better set {ENVIRONMENT}_SERVE_TOKEN: other users can see options in "
    "the list of processes.",
)
@click.option(
    "--no-token",
    is_flag=True,
    help="Start without a token at an address that other machines reach; everybody who can connect may ask.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="A name that addresses of the service may have besides localhost, such as that of a proxy; can be repeated. "
    "Other names are refused, unless --host lets other machines connect and no name is given.",
)
@click.option("--name", help="The name of the model for programs; by default that of its method, in small letters.")
@cache_option
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
def serve(
    run: Path,
    host: str,
    port: int,
    token: str | None,
    no_token: bool,
    allow_host: tuple[str, ...],
    name: str | None,
    cache: bool,
    debug: bool,
) -> None:
    """Serve a page and an HTTP interface that score images with a finished RUN.

    The page is at http://127.0.0.1:8000 unless --host or --port says otherwise. Programs send images to /score or by
    KServe's protocol; /docs describes both.
    """
    with _errors_in_one_line(debug), _compile_cache(cache):
        from anomaly_toolbox.service import command

        command.serve(command.ServiceRequest(run, host, port, token, no_token, allow_host, name), debug)


def _compile_cache(cache: bool) -> contextlib.AbstractContextManager[None]:
    """Keeps compiled steps for later commands, unless `--no-cache` is given."""
    if not cache or "tensorflow" in sys.modules:  # a program that calls this command: TensorFlow reads settings once
        return contextlib.nullcontext()
    from anomaly_toolbox.compile_cache import compile_cache

    return compile_cache()


@contextlib.contextmanager
def _errors_in_one_line(debug: bool, advice_if_interrupted: str = "") -> Iterator[None]:
    """Turns every exception into one line and an exit code; with `debug`, the traceback is printed as well."""
    _note_unknown_variables()
    try:
        yield
    except KeyboardInterrupt:
        _exit(f"Interrupted. {advice_if_interrupted}".rstrip(), INTERRUPTED)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout when it exits
        _exit("Stopped: the program that reads the output, such as head, closed it.", BROKEN_PIPE)
    except Exception as problem:
        if debug:
            traceback.print_exc()
        if isinstance(problem, ToolboxError):
            _exit(f"Error: {problem}", problem.exit_code)
        if isinstance(problem, OSError) and problem.strerror:
            path = f"{problem.filename}: " if problem.filename else ""
            _exit(f"Error: {path}{problem.strerror}", 1)
        _exit(f"Error: {reason(problem)} (--debug shows where)", 1)


def _on_disk(path: Path | ObjectPath) -> Path:
    """The path of a file or folder on a disk; InputError if it is in an object store."""
    if isinstance(path, ObjectPath):
        raise InputError(f"{path}: files in object stores need --parts FOLDER")
    return path


def _check_sweep_name(name: str | None) -> None:
    """Raises InputError for a name that cannot be the name of a folder."""
    if name is None:
        return
    if not re.fullmatch(r"[\w.,=+-]*\w", name):
        raise InputError(f"--sweep-name {name}: expected letters, digits and . , = + - _")
    length = len(os.fsencode(name))
    if length > LONGEST_SWEEP_NAME:
        raise InputError(f"--sweep-name: has {length} bytes, expected at most {LONGEST_SWEEP_NAME}")


def _note_folder_of_same_name(dataset: str, name: str) -> None:
    """Prints a note if a folder has the name of a known dataset, because the known dataset is used."""
    if name in DATASETS and Path(dataset).is_dir():
        line = f"note: {name} is a known dataset; --dataset ./{dataset} would read the folder {dataset} instead"
        click.echo(line, err=True)


def _note_unknown_variables() -> None:
    """Prints a note for each environment variable that has the prefix of the options but matches none of them."""
    commands: dict[str, click.Command] = {ENVIRONMENT: main}
    for name, command in main.commands.items():
        commands[f"{ENVIRONMENT}_{name.upper()}"] = command
    valid_names = set()
    for prefix, command in commands.items():
        for option in command.params:
            valid_names.add(f"{prefix}_{(option.name or '').upper()}")
            if isinstance(option.envvar, str):
                valid_names.add(option.envvar)
            elif option.envvar:
                valid_names.update(option.envvar)
    for name in sorted(os.environ):
        if name.startswith(f"{ENVIRONMENT}_") and name not in valid_names:
            click.echo(f"note: the environment variable {name} matches no option and is ignored", err=True)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _exit(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
