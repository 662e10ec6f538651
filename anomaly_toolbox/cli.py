"""The command `anomaly-box`. Only click is imported here; TensorFlow waits until there is work for it."""

import contextlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from anomaly_toolbox import __version__
from anomaly_toolbox.datasets import DATASETS, dataset_name
from anomaly_toolbox.errors import INTERRUPTED, InputError, ToolboxError, reason
from anomaly_toolbox.models import METHODS, method_name
from anomaly_toolbox.streams import open_streams

ENVIRONMENT = "ANOMALY_BOX"  # what the names of environment variables begin with
LONGEST_SWEEP_NAME = 150  # bytes; it is the name of a folder
READER_GONE = 141  # what a shell reports of a command that wrote to a closed pipe


class OneLineErrors(click.Group):
    """A command whose usage errors are one line, like all others."""

    def main(self, *arguments, **options):
        """Runs the command; see `click.Command.main`."""
        open_streams()
        warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a file is told in a line of our own
        try:
            return super().main(*arguments, **options | {"standalone_mode": False})
        except click.ClickException as problem:
            _leave(f"Error: {problem.format_message()} (--help explains the options)", problem.exit_code)
        except click.Abort:
            _leave("Interrupted.", INTERRUPTED)


class AddedToEnvironment(click.Option):
    """An option that may be given several times, and adds to what the environment gives."""

    def consume_value(self, ctx, opts):
        """See `click.Parameter.consume_value`."""
        value, source = super().consume_value(ctx, opts)
        if source == ParameterSource.COMMANDLINE:
            value = [*(self.value_from_envvar(ctx) or ()), *value]
        return value, source


@click.group(
    cls=OneLineErrors,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": ENVIRONMENT},
)
@click.option("--experiment", metavar="NAME", help=f"The method to train and test: {', '.join(METHODS)}.")
@click.option("--run-all", is_flag=True, help="Run every method instead of one.")
@click.option(
    "--dataset",
    metavar="NAME|FOLDER|FILE.py",
    help=f"The images: {', '.join(DATASETS)}; or a folder with train/good, test/good and test/<defect>, or with normal "
    "and anomalous; or a Python file with a class of the file's name that implements AnomalyDetectionDataset.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder or archive (.zip, .tar.*) where the images are, or folder where they are downloaded to. MNIST and "
    "FashionMNIST take the four IDX files, plain or .gz, CorruptedMNIST its mnist_c.zip; MVTecAD and SurfaceCracks "
    "need it.",
)
@click.option(
    "--aspect",
    type=click.Choice(["stretch", "pad", "crop"], case_sensitive=False),
    show_default="stretch",
    help="What becomes of images in a folder that are no squares: stretched, padded with black, or cut to the middle.",
)
@click.option(
    "--on-bad-image",
    type=click.Choice(["error", "skip"], case_sensitive=False),
    show_default="error",
    help="Stop if image files in a folder cannot be used, or leave them out and say so.",
)
@click.option(
    "--all-test-images",
    is_flag=True,
    help="Test on every test image of a folder, as papers do, where otherwise half of them choose epoch and threshold; "
    "the lowest loss on some normal training images chooses instead.",
)
@click.option(
    "--white-level",
    type=click.IntRange(1, 65535),
    help="The value that is white in a folder's grey images of 16 bits, such as 4095 if they have 12 bits; brighter "
    "pixels become white, too. Without it, 65535 is white.",
)
@click.option(
    "--hps-path",
    type=click.Path(path_type=Path),
    help="JSON file of hyperparameters; without it, each method uses its paper's.",
)
@click.option(
    "--tuning",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=False,
    metavar="[BOOLEAN]",
    help="Run every combination of the values in the hyperparameter file, not only the first of each; or those that "
    "--sampler chooses. Several processes may share the work, see --workers and --storage.",
)
@click.option("--no-tuning", is_flag=True, help="Run only the first value of each hyperparameter; this is the default.")
@click.option(
    "--sampler",
    type=click.Choice(["grid", "random", "tpe"], case_sensitive=False),
    default="grid",
    show_default=True,
    help="How --tuning chooses trials: every combination, at random, or where earlier trials were good (tpe, the "
    "tree-structured Parzen estimator). The last two also search intervals, and need --trials.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 1_000_000),
    help="How many trials --tuning runs for each method and label; without it, the whole grid.",
)
@click.option(
    "--pruner",
    type=click.Choice(["none", "median"], case_sensitive=False),
    default="none",
    show_default=True,
    help="median: --tuning stops a trial whose validation AUPRC after an epoch is below that of most trials before it.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Processes on this machine that run trials side by side and share its threads.",
)
@click.option(
    "--storage",
    metavar="URL|FILE",
    help="Where several machines meet to share trials: a database (postgresql://user:password@host/name), or a file on "
    "a disk that all of them see. Give each machine the same command. Without it, a file in the sweep's folder.",
)
@click.option(
    "--sweep-name",
    metavar="NAME",
    help="Name of the sweep in the storage; without it, one that follows from what is asked.",
)
@click.option(
    "--set",
    "overrides",
    cls=AddedToEnvironment,
    metavar="NAME=VALUE",
    multiple=True,
    envvar=[f"{ENVIRONMENT}_SET", f"{ENVIRONMENT}_OVERRIDES"],
    help="Use this value for a hyperparameter, whatever the file says; may be given several times, or several, "
    f"separated by spaces, in {ENVIRONMENT}_SET. none means no value; true and false are Booleans.",
)
@click.option(
    "--log-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("logs"),
    show_default=True,
    help="Folder for the runs and for TensorBoard.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Start of all random numbers: the same seed gives the same figures.",
)
@click.option("--overwrite", is_flag=True, help="Start anew, and delete what an earlier run of the same name left.")
@click.option("--require-gpu", is_flag=True, help="Stop at once if TensorFlow finds no GPU.")
@click.option("--debug", is_flag=True, help="Show where in the program an error arose, and TensorFlow's own messages.")
@click.version_option(__version__, prog_name="anomaly-box")
@click.pass_context
def main(
    context: click.Context,
    experiment: str | None,
    run_all: bool,
    dataset: str | None,
    tuning: bool,
    no_tuning: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Train detectors on normal images and measure how well they find anomalous ones.

    A first try, without any download:

    anomaly-box --experiment GANomaly --dataset Digits
    """
    if context.invoked_subcommand:
        return
    with _errors_in_one_line(debug, "The same command goes on after the last finished epoch, if there was one."):
        if bool(experiment) == run_all:
            raise InputError("give either --experiment NAME or --run-all")
        if dataset is None:
            raise InputError(f"give --dataset: {', '.join(DATASETS)}, or a folder of images or a .py file of your own")
        tuning = tuning and not no_tuning
        if not tuning and (options["trials"] or options["sampler"] != "grid" or options["pruner"] != "none"):
            raise InputError("--sampler, --trials and --pruner say how --tuning searches; add --tuning")
        name = options["sweep_name"]
        if name is not None and not re.fullmatch(r"[\w.,=+-]*\w", name):
            raise InputError(f"--sweep-name {name}: expected letters, digits and . , = + - _")
        if name is not None and len(os.fsencode(name)) > LONGEST_SWEEP_NAME:
            raise InputError(f"--sweep-name: has {len(os.fsencode(name))} bytes, expected at most {LONGEST_SWEEP_NAME}")
        methods = list(METHODS) if run_all else [method_name(experiment)]
        kept_as = dataset_name(dataset)
        from anomaly_toolbox.sweeps import plan

        planned = plan.make(plan.Options(methods, dataset, kept_as, tuning=tuning, debug=debug, **options))
        _note_folder(dataset, kept_as)
        _import_tensorflow(debug)

        from anomaly_toolbox.sweeps import command

        command.run(planned)


@main.command()
@click.argument("log_dir", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for the report; without it, the log folder itself."
)
@click.option("--debug", is_flag=True, help="Show where in the program an error arose.")
def report(log_dir: Path, output: Path | None, debug: bool) -> None:
    """Compare all runs in LOG_DIR: tables of every figure and one page to look at.

    Writes results_table.md, results_table.csv, two bar charts (SVG) for each dataset, and report.html, which opens in
    any browser, without a network.
    """
    with _errors_in_one_line(debug):
        from anomaly_toolbox.report import page

        paths, n_left_out = page.write(log_dir, output or log_dir)
        for path in paths:
            click.echo(path)
        if n_left_out:
            click.echo(f"left out: {_counted(n_left_out, 'folder')}; the report says why", err=True)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "--format",
    "output_format",
    envvar=f"{ENVIRONMENT}_PREDICT_FORMAT",
    type=click.Choice(["csv", "jsonl"], case_sensitive=False),
    default="csv",
    show_default=True,
    help="A line for each image: comma-separated values, or a JSON object.",
)
@click.option("--output", type=click.Path(path_type=Path), help="File for the lines; without it they are printed.")
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path),
    help="Folder for a picture of each image, <image>.heat.png, glowing where it is odd.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file and heatmaps if they are there.")
@click.option("--debug", is_flag=True, help="Show where in the program an error arose, and TensorFlow's own messages.")
def predict(
    run: Path,
    paths: tuple[Path, ...],
    output_format: str,
    output: Path | None,
    heatmaps: Path | None,
    overwrite: bool,
    debug: bool,
) -> None:
    """Score new images with the detector of a finished RUN.

    RUN is the run's folder, PATH an image or a folder of images. A line has the file, its score, the same calibrated to
    0 to 1 by the validation images, and whether it reaches the threshold. Files that cannot be used have the reason
    instead; then the exit code is 1.
    """
    with _errors_in_one_line(debug):
        from anomaly_toolbox.console import plain_console
        from anomaly_toolbox.files import atomic_write
        from anomaly_toolbox.inference import predict as predicting

        request = predicting.prepare(run, paths, output, heatmaps, overwrite)
        _import_tensorflow(debug)
        with contextlib.ExitStack() as stack:
            lines = sys.stdout
            if output is not None:
                temporary = stack.enter_context(atomic_write(output))
                lines = open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
                stack.enter_context(lines)
            n_scored, n_bad = predicting.predict(request, lines, output_format == "jsonl", plain_console(stderr=True))
        unusable = f", {_counted(n_bad, 'file')} could not be used" if n_bad else ""
        click.echo(f"{_counted(n_scored, 'image')} scored{unusable}", err=True)
        if n_bad:
            sys.exit(1)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    envvar=f"{ENVIRONMENT}_EXPORT_FORMAT",
    type=click.Choice(["savedmodel", "onnx", "tflite"], case_sensitive=False),
    default="savedmodel",
    show_default=True,
    help="savedmodel: for TensorFlow and its servers; onnx: for other runtimes; tflite: for small devices.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="File or folder to write; by default in the run's folder."
)
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export wrote there.")
@click.option("--debug", is_flag=True, help="Show where in the program an error arose, and TensorFlow's own messages.")
def export(run: Path, file_format: str, output: Path | None, overwrite: bool, debug: bool) -> None:
    """Write the detector of a finished RUN for programs that do not have this toolbox.

    Images go in, as bytes, or as floats from 0 to 1 where they have more than 8 bits; score, calibrated score, whether
    the image is anomalous, anomaly map and reconstruction come out. All that has to be done to an image before and to a
    score after is inside, and the threshold and other facts are in the file's metadata.
    """
    with _errors_in_one_line(debug):
        from anomaly_toolbox.inference import formats

        opened, output = formats.check(run, file_format, output, overwrite)
        _import_tensorflow(debug)

        from anomaly_toolbox.inference import export as exporting

        exporting.write(opened, file_format, output)
        click.echo(output)
        note = formats.note_on_input(opened, file_format)
        if note is not None:
            click.echo(note, err=True)


@contextlib.contextmanager
def _errors_in_one_line(debug: bool, when_interrupted: str = "") -> Iterator[None]:
    """Turns whatever is raised into one line and an exit code; the traceback is shown with `debug` only."""
    _note_unknown_variables()
    try:
        yield
    except KeyboardInterrupt:
        _leave(f"Interrupted. {when_interrupted}".rstrip(), INTERRUPTED)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _leave("Stopped: whatever reads the output, such as head, has closed it.", READER_GONE)
    except Exception as problem:
        if debug:
            traceback.print_exc()
        if isinstance(problem, ToolboxError):
            _leave(f"Error: {problem}", problem.exit_code)
        if isinstance(problem, OSError) and problem.strerror:
            place = f"{problem.filename}: " if problem.filename else ""
            _leave(f"Error: {place}{problem.strerror}", 1)
        _leave(f"Error: {reason(problem)} (--debug shows where)", 1)


def _note_folder(dataset: str, kept_as: str) -> None:
    """Tells of a folder that is called like a known dataset."""
    if kept_as in DATASETS and Path(dataset).is_dir():
        line = f"note: {kept_as} is a known dataset; --dataset ./{dataset} would read the folder {dataset} instead"
        click.echo(line, err=True)


def _note_unknown_variables() -> None:
    """Tells of environment variables that look like options and are none."""
    valid = set()
    commands = {ENVIRONMENT: main, **{f"{ENVIRONMENT}_{name.upper()}": each for name, each in main.commands.items()}}
    for prefix, command in commands.items():
        for option in command.params:
            given = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
            valid |= {f"{prefix}_{option.name.upper()}", *given}
    for name in sorted(os.environ):
        if name.startswith(f"{ENVIRONMENT}_") and name not in valid:
            click.echo(f"note: the environment variable {name} matches no option and is ignored", err=True)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _leave(line: str, code: int) -> None:
    click.echo(line, err=True)
    sys.exit(code)


def _import_tensorflow(debug: bool) -> None:
    """Imports TensorFlow without the notes that it writes to stderr while it looks for devices."""
    if debug:
        import tensorflow

        return
    open_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        import tensorflow

        tensorflow.config.list_physical_devices()
        logging.getLogger("absl").setLevel(logging.ERROR)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
