"""Standard streams that can always be written to. At the top, only the standard library is imported."""

import contextlib
import gc
import io
import logging
import os
import sys
from collections.abc import Iterator


def open_streams() -> None:
    """Makes the standard streams usable however the process was started.

    A closed stream, as after `2>&-` or in a daemon, is connected to the null device. Characters that a terminal cannot
    show, such as those of a file name, are printed as escape sequences instead of raising UnicodeEncodeError.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            null_device = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, usually the right one
            if null_device != descriptor:
                os.dup2(null_device, descriptor)
                os.close(null_device)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115  (stays open until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # notebooks replace the streams by other objects
            with contextlib.suppress(ValueError):  # the stream is closed
                stream.reconfigure(errors="backslashreplace")


def import_tensorflow(debug: bool = False) -> None:
    """Imports TensorFlow and Keras, without what TensorFlow writes to stderr while it searches for devices."""
    if debug:
        import tensorflow

        return
    open_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as null_device:
            os.dup2(null_device.fileno(), 2)
        is_first_import = "keras" not in sys.modules  # what a program has created since then must not be frozen
        with without_garbage_collection() if is_first_import else contextlib.nullcontext():
            import keras  # noqa: F401  (every command imports it anyway)
            import tensorflow

        tensorflow.config.list_physical_devices()
        for logger in ("absl", "tensorflow"):
            logging.getLogger(logger).setLevel(logging.ERROR)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """A context in which Python's garbage collection is off, for imports, which create many objects and no garbage.

    At the end all objects are frozen, so that later collections skip them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
