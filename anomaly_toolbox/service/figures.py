"""What a service counts for Prometheus: requests, images, refusals, seconds, and how many images wait."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Figures:
    """The figures of one service.

    Args:
        n_waiting: gives the number of images that wait to be scored.
    """

    def __init__(self, n_waiting: Callable[[], int]):
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "anomaly_box_requests", "Answered requests.", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "anomaly_box_request_seconds", "Seconds until a request was answered.", ["path"], registry=self._registry
        )
        self.images = Counter(
            "anomaly_box_images", "Images: normal, anomalous or unusable.", ["verdict"], registry=self._registry
        )
        self.refusals = Counter(
            "anomaly_box_refusals",
            "Requests that were refused because too much was under way.",
            registry=self._registry,
        )
        Gauge("anomaly_box_waiting_images", "Images that wait to be scored.", registry=self._registry).set_function(
            n_waiting
        )

    def text(self) -> bytes:
        """All figures in the text format of Prometheus."""
        return generate_latest(self._registry)
