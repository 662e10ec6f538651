"""A service of a real detector, asked within this process."""

import pytest
from fastapi.testclient import TestClient

from anomaly_toolbox import load
from anomaly_toolbox.service.app import make_app
from anomaly_toolbox.service.guard import LOOPBACK, Rules
from anomaly_toolbox.service.limits import Limits
from anomaly_toolbox.service.scorer import Scorer
from tests.inference.test_parts import images, run  # noqa: F401  (fixtures)

ON_THIS_MACHINE = Rules(None, LOOPBACK)


@pytest.fixture(scope="module")
def detector(run):  # noqa: F811
    """A PCA, whose scoring takes milliseconds."""
    return load(run)


@pytest.fixture(scope="module")
def service(detector):
    """A client of a service that begins for the first test and ends after the last one."""
    with client_of(detector) as client:
        yield client


def client_of(detector, rules=ON_THIS_MACHINE, limits=Limits()):  # noqa: B008  (immutable)
    """A client of a service with rules and limits of its own."""
    app = make_app(Scorer(detector, limits), "pca", rules, limits)
    return TestClient(app, "http://localhost", raise_server_exceptions=False)
