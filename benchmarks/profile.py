"""Profiles a training step: the time of the operations of its XLA program, by kind, from TensorFlow's profiler.

    python -m benchmarks.profile --experiment EGBAD

The times of all threads are added, so with several threads their sum is more than the duration of a step.
"""

import collections
import os
import re
import tempfile
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from rich.table import Table
from tensorflow.compiler.xla.service import hlo_pb2
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.models import METHODS, build_detector, detector_class, method_name
from anomaly_toolbox.sweeps import hps
from benchmarks.random_batches import N_CLASSES, random_batch

RANDOM = "random numbers"
SUMS = "sums (batch normalisation, gradients of biases)"
COPIES = "copies and transpositions"
OTHER = "other"

#: The kind of an operation is that of the first pattern found in its name.
PATTERNS = {
    RANDOM: r"random",
    "batch normalisation": r"batch_normalization|moments",
    "dropout, without its random numbers": r"dropout",
    "matrix products": r"MatMul|^dot",
    "convolutions": r"[Cc]onv",
    "activations": r"[Rr]elu|[Tt]anh|Softplus|Sigmoid",
    "Adam and averaged weights": r"adam|Assign|^add_|^mul_|^sub_",
}
#: Instructions that only move values.
COPYING_OPCODES = {
    "bitcast",
    "broadcast",
    "concatenate",
    "constant",
    "copy",
    "pad",
    "parameter",
    "reshape",
    "slice",
    "transpose",
}


def kind_of_name(name: str) -> str | None:
    """The kind of an operation with this name; None if no pattern is found."""
    for kind, pattern in PATTERNS.items():
        if re.search(pattern, name):
            return kind
    return None


def kind_of_opcodes(opcodes: set[str]) -> str:
    """The kind of an instruction without a name, by the instructions that it consists of."""
    if "xor" in opcodes:  # only generators of random numbers use it
        return RANDOM
    if opcodes & {"reduce", "reduce-window"}:
        return SUMS
    return COPIES if opcodes - {"fusion", "call"} <= COPYING_OPCODES else OTHER


def kinds_of_instructions(module: hlo_pb2.HloModuleProto) -> dict[str, str]:
    """The kind of each instruction of a program; a fusion has the most frequent kind of the instructions inside it."""
    computations = {computation.id: computation.instructions for computation in module.computations}
    kinds = {}
    for instructions in computations.values():
        for instruction in instructions:
            parts = [instruction]
            for computation_id in instruction.called_computation_ids:
                parts += computations[computation_id]
            named_kinds = [kind_of_name(part.metadata.op_name) for part in parts if part.metadata.op_name]
            counts = collections.Counter(kind for kind in named_kinds if kind is not None)
            if counts:
                kind = counts.most_common(1)[0][0]
            else:
                kind = kind_of_name(instruction.opcode) or kind_of_opcodes({part.opcode for part in parts})
            kinds[instruction.name] = kind
    return kinds


def seconds_by_kind(profile: Path) -> collections.Counter[str]:
    """The time of all threads in seconds, by the kind of the operation.

    Args:
        profile: a file of TensorFlow's profiler, `*.xplane.pb`.
    """
    space = xplane_pb2.XSpace()
    space.ParseFromString(profile.read_bytes())
    kinds = {}
    for plane in space.planes:
        if plane.name == "/host:metadata":  # holds the compiled programs
            for metadata in plane.event_metadata.values():
                for stat in metadata.stats:
                    program = hlo_pb2.HloProto.FromString(stat.bytes_value)
                    kinds |= kinds_of_instructions(program.hlo_module)
    seconds = collections.Counter[str]()
    for plane in space.planes:
        operation_ids = {stat_id for stat_id, stat in plane.stat_metadata.items() if stat.name == "hlo_op"}
        for line in plane.lines:
            for event in line.events:
                if any(stat.metadata_id in operation_ids for stat in event.stats):
                    name = plane.event_metadata[event.metadata_id].name
                    seconds[kinds.get(name, OTHER)] += event.duration_ps / 1e12
    return seconds


@click.command()
@click.option("--experiment", default="EGBAD", show_default=True, help=f"The method: {', '.join(METHODS)}.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Hyperparameter, as in anomaly-box.")
@click.option("--channels", default=1, show_default=True, help="Number of channels of the images.")
@click.option("--steps", default=20, show_default=True, help="Number of training steps.")
def main(experiment: str, overrides: tuple[str, ...], channels: int, steps: int) -> None:
    """Show which operations the training steps of a method spend their time on."""
    experiment = method_name(experiment)
    cls = detector_class(experiment)
    domains = hps.read_domains(cls.Hyperparameters, experiment, overrides=overrides)
    hp = hps.first_trial(cls.Hyperparameters, domains)
    detector = build_detector(cls, hp, channels, N_CLASSES)
    detector.compile()
    endless = tf.data.Dataset.from_tensors(random_batch(detector)).repeat()
    detector.fit(endless, steps_per_epoch=3, verbose=0, shuffle=False)  # compiles
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            detector.fit(endless, steps_per_epoch=steps, verbose=0, shuffle=False)
        (profile,) = Path(folder).rglob("*.xplane.pb")
        seconds = seconds_by_kind(profile)
    table = Table(title=f"{experiment}, batch {hp.batch_size} {' '.join(overrides)}", box=None, pad_edge=False)
    table.add_column("operations")
    table.add_column("ms per step", justify="right")
    table.add_column("share", justify="right")
    for kind, duration in seconds.most_common():
        table.add_row(kind, f"{1000 * duration / steps:.1f}", f"{duration / seconds.total():.0%}")
    plain_console().print(table)


if __name__ == "__main__":
    main()
