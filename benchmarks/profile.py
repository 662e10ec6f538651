"""What a training step spends its time on: the operations of the XLA program, by kind, from TensorFlow's profiler.

    python -m benchmarks.profile --experiment EGBAD

Times are those of the threads together, so they add up to more than the step where two threads work.
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
from anomaly_toolbox.models import METHODS, detector_class, method_name
from anomaly_toolbox.sweeps import hps

#: For what the compiler left without a name: the kind by what its instructions do.
RANDOM, SUMS, MOVES = "random numbers", "sums (batch normalisation, gradients of biases)", "copies and transpositions"
MOVING = {
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
#: The first pattern that is found in the name of an operation tells its kind.
KINDS = {
    RANDOM: r"random",
    "batch normalisation": r"batch_normalization|moments",
    "dropout, without its random numbers": r"dropout",
    "matrix products": r"MatMul|^dot",
    "convolutions": r"[Cc]onv",
    "activations": r"[Rr]elu|[Tt]anh|Softplus|Sigmoid",
    "Adam and averaged weights": r"adam|Assign|^add_|^mul_|^sub_",
}


def kinds_of_operations(module: hlo_pb2.HloModuleProto) -> dict[str, str]:
    """The kind of each instruction of a program; a fusion's is that of most of what was fused."""
    inside = {computation.id: computation.instructions for computation in module.computations}
    kinds = {}
    for instructions in inside.values():
        for instruction in instructions:
            parts = [part for called in instruction.called_computation_ids for part in inside[called]]
            named = [name for part in [instruction, *parts] if (name := part.metadata.op_name)]
            found = collections.Counter(kind for name in named if (kind := kind_of(name)))
            nameless = kind_of(instruction.opcode) or kind_of_nameless({part.opcode for part in [instruction, *parts]})
            kinds[instruction.name] = found.most_common(1)[0][0] if found else nameless
    return kinds


def kind_of_nameless(opcodes: set[str]) -> str:
    """The kind of an instruction that is made of these operations; generators of random numbers shift and xor."""
    if "xor" in opcodes:
        return RANDOM
    if opcodes & {"reduce", "reduce-window"}:
        return SUMS
    return MOVES if opcodes - {"fusion", "call"} <= MOVING else "other"


def kind_of(name: str) -> str | None:
    """The kind that a name of an operation tells of."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)


def seconds_by_kind(profile: Path) -> collections.Counter:
    """Seconds of all threads, by the kind of the operation."""
    space = xplane_pb2.XSpace()
    space.ParseFromString(profile.read_bytes())
    kinds, seconds = {}, collections.Counter()
    for plane in space.planes:
        for metadata in plane.event_metadata.values() if plane.name == "/host:metadata" else ():
            for stat in metadata.stats:
                kinds |= kinds_of_operations(hlo_pb2.HloProto.FromString(stat.bytes_value).hlo_module)
    for plane in space.planes:
        operation = {number for number, stat in plane.stat_metadata.items() if stat.name == "hlo_op"}
        for line in plane.lines:
            for event in line.events:
                if any(stat.metadata_id in operation for stat in event.stats):
                    name = plane.event_metadata[event.metadata_id].name
                    seconds[kinds.get(name, "other")] += event.duration_ps / 1e12
    return seconds


@click.command()
@click.option("--experiment", default="EGBAD", show_default=True, help=f"One of {', '.join(METHODS)}.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="A hyperparameter, as for anomaly-box.")
@click.option("--channels", default=1, show_default=True, help="Channels of the images.")
@click.option("--steps", default=20, show_default=True, help="Training steps.")
def main(experiment: str, overrides: tuple[str, ...], channels: int, steps: int) -> None:
    """Shows what the training steps of a method spend their time on."""
    experiment = method_name(experiment)
    cls = detector_class(experiment)
    hp = hps.first_trial(cls.Hyperparameters, hps.domains(cls.Hyperparameters, experiment, overrides=overrides))
    detector = cls(hp, channels)
    detector.compile()
    images = tf.random.uniform((hp.batch_size, *detector.image_shape), -1, 1, seed=0)
    endless = tf.data.Dataset.from_tensors(images).repeat()
    detector.fit(endless, steps_per_epoch=3, verbose=0, shuffle=False)  # compiles
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            detector.fit(endless, steps_per_epoch=steps, verbose=0, shuffle=False)
        (profile,) = Path(folder).rglob("*.xplane.pb")
        seconds = seconds_by_kind(profile)
    table = Table(title=f"{experiment}, batch {hp.batch_size} {' '.join(overrides)}", box=None, pad_edge=False)
    table.add_column("operations")
    for column in ("ms a step", "share"):
        table.add_column(column, justify="right")
    for kind, of_kind in seconds.most_common():
        table.add_row(kind, f"{1000 * of_kind / steps:.1f}", f"{of_kind / seconds.total():.0%}")
    plain_console().print(table)


if __name__ == "__main__":
    main()
