"""Imports without garbage collection."""

import contextlib
import gc

import keras  # noqa: F401  (the last test needs that it was imported before)

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


def test_nothing_is_frozen_where_keras_was_imported_before():
    frozen = gc.get_freeze_count()
    streams.import_tensorflow()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
