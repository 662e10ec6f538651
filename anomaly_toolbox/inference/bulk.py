"""The command `anomaly-box predict --parts`: predictions for any number of images, in the parts of a folder."""

import time
from collections.abc import Sequence

from rich.console import Console

from anomaly_toolbox.console import ProgressBar
from anomaly_toolbox.errors import DamagedFile, InputError, ToolboxError
from anomaly_toolbox.files import parse_json
from anomaly_toolbox.inference import part_processes, ray_tasks
from anomaly_toolbox.inference.folders import folder_at
from anomaly_toolbox.inference.job import SUCCESS, Job, JobRequest, locked, plan
from anomaly_toolbox.inference.parts import Counts, check_part, finish

MOST_NAMED = 5  # failed parts that an error message names


def predict_in_parts(
    request: JobRequest,
    console: Console,
    n_processes: int | None,
    engine: str,
    address: str | None,
    debug: bool = False,
) -> tuple[Job, Counts]:
    """Begins or continues a job, and returns it with its counts when all of its parts are written.

    Args:
        request: what is asked for.
        console: where progress is printed.
        n_processes: how many processes score parts at the same time; None: the engine decides.
        engine: `here` or `ray`.
        address: of the Ray cluster.
        debug: print the traceback of an error in a process of this machine.

    Raises:
        InputError: the request cannot be met; see `job.plan`.
        ToolboxError: parts could not be scored; the same command tries them again.
    """
    if folder_at(request.folder).identity == folder_at(request.run).identity:
        raise InputError(f"--parts {request.folder}: is the run folder; choose another folder")
    if engine == "ray":
        address = ray_tasks.check_address(address)
    with locked(request):
        with console.status("listing the images"):
            job, notes = plan(request)
        for note in notes:
            console.print(note)
        names = set(job.folder.names())
        missing = [number for number in range(job.n_parts) if job.name(number) not in names]
        if not missing and SUCCESS in names and (recorded := _recorded_counts(job)) is not None:
            console.print(f"finished before: {job.folder} (--overwrite scores again, such as replaced images)")
            return job, recorded
        job.folder.remove(SUCCESS)
        return job, _score(job, missing, n_processes, engine, address, console, debug)


def _score(
    job: Job,
    missing: Sequence[int],
    n_processes: int | None,
    engine: str,
    address: str | None,
    console: Console,
    debug: bool,
) -> Counts:
    """Scores the missing parts, and counts the predictions of all parts."""
    written = sorted(set(range(job.n_parts)) - set(missing))
    counts = Counts()
    for number in written:
        counts = counts.plus(check_part(job, number))
    console.print(f"files: {job.n_files:,}; parts: {job.n_parts:,}, {len(written):,} of them written before")
    started_at, n_scored = time.monotonic(), 0
    with ProgressBar(console) as bar:
        task = bar.add_task("scoring", total=job.n_files, completed=counts.n_files)

        def on_progress(n_files: int) -> None:
            nonlocal n_scored
            n_scored += n_files
            speed = n_scored / (time.monotonic() - started_at)
            bar.update(task, description=f"scoring, {speed:,.0f} images/s")
            bar.advance(task, n_files)

        def on_silence() -> None:
            console.print("waiting for the cluster: no part was done in the last minutes; `ray status` shows its load")

        if engine == "ray" and address is not None:
            outcome = ray_tasks.score_parts(job, missing, n_processes, address, on_progress, on_silence)
        else:
            outcome = part_processes.score_parts(job, missing, n_processes or 1, on_progress, debug=debug)
    if outcome.failures:
        named = [f"part {number} ({problem})" for number, problem in sorted(outcome.failures.items())[:MOST_NAMED]]
        n_more = len(outcome.failures) - len(named)
        raise ToolboxError(
            f"{len(outcome.failures)} of {job.n_parts} parts could not be scored: {', '.join(named)}"
            f"{f' and {n_more} more' if n_more else ''}; the other parts are written. The same command tries the "
            "failed parts again"
        )
    counts = counts.plus(outcome.counts)
    finish(job, counts)
    return counts


def _recorded_counts(job: Job) -> Counts | None:
    """The counts in `_SUCCESS`; None if it is damaged."""
    try:
        recorded = parse_json(job.folder.read(SUCCESS), SUCCESS)
        return Counts(recorded["scored"], recorded["anomalous"], recorded["unusable"])
    except (DamagedFile, KeyError):
        return None
