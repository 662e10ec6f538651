"""Imports without Python's search for unused objects."""

import contextlib
import gc

from anomaly_toolbox import streams


def test_python_looks_for_unused_objects_again_even_after_an_import_that_fails():
    try:
        with contextlib.suppress(ImportError), streams._without_garbage_collection():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
