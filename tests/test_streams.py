"""Imports without garbage collection."""

import contextlib
import gc

from anomaly_toolbox import streams


def test_garbage_is_collected_again_even_after_an_import_that_fails():
    try:
        with contextlib.suppress(ImportError), streams.without_garbage_collection():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
