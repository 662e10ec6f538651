"""What all processes that a command starts have in common."""

import os

import pytest

from anomaly_toolbox.processes import THREAD_VARIABLES, environment, n_threads, share_of_threads


@pytest.fixture(autouse=True)
def without_variables(monkeypatch):
    """No number of threads is set, and the process may use eight cores."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def test_processes_share_the_cores(monkeypatch):
    assert n_threads() == 8
    with environment(share_of_threads(3)):
        assert n_threads() == 2
    with environment(share_of_threads(20)):
        assert n_threads() == 1
    assert n_threads() == 8
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    with environment(share_of_threads(8)):
        assert n_threads() == 5  # the user's own choice


@pytest.mark.parametrize("nonsense", ["", "0", "-1", "many"])
def test_a_number_of_threads_that_is_none_is_ignored(monkeypatch, nonsense):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", nonsense)
    assert n_threads() == 8
