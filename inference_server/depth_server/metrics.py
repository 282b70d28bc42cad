"""Metrics of the server, in a registry of their own; names and meanings are `docs/reference/contract.md`'s.

Load series appear only when `expose_load` was called: a pod that warms up must not look busy to the autoscaler.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from depth_server.admission import Admission
from depth_server.engine import Engine
from depth_server.errors import Outcome

DURATION_BUCKETS: Final = (
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.5,
    5.0,
    10.0,
    20.0,
    30.0,
    60.0,
)
"""Upper bounds in seconds, from a GPU that is idle to a CPU that is overloaded."""


class EngineCollector(Collector):
    """Reads engine and admission at the time of the scrape, so that a long forward pass is seen while it runs."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield GaugeMetricFamily(
            "depth_server_inflight_requests",
            "Requests accepted and not yet answered.",
            value=self._admission.inflight,
        )
        yield GaugeMetricFamily(
            "depth_server_queue_depth",
            "Images that wait for the engine.",
            value=self._engine.waiting,
        )
        yield GaugeMetricFamily(
            "depth_server_work_units_in_flight",
            "Load weighted by pixels; 1 is one 518x518 image.",
            value=self._admission.work_units,
        )
        yield CounterMetricFamily(
            "depth_server_images",
            "Images that the engine finished.",
            value=self._engine.images_finished,
        )
        yield CounterMetricFamily(
            "depth_server_worker_busy_seconds",
            "Wall time with a forward pass running.",
            value=self._engine.busy_seconds(),
        )
        gpu_seconds = self._engine.gpu_busy_seconds()
        if gpu_seconds is not None:
            yield CounterMetricFamily(
                "depth_server_gpu_busy_seconds",
                "Time of forward passes on the GPU, by CUDA events.",
                value=gpu_seconds,
            )


class ServerMetrics:
    """The server's metrics.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._info = Gauge(
            "depth_server_info",
            "What runs; always 1.",
            ("version", "model", "device", "precision"),
            registry=registry,
        )
        self._requests = Counter(
            "depth_server_requests_total", "Offered requests by outcome.", ("outcome",), registry=None
        )
        for outcome in Outcome:
            self._requests.labels(outcome.value)
        self._request_duration = _histogram("request", "Successful requests, from complete upload to answer.")
        self._stages = {
            "queue": _histogram("queue", "Wait for the engine."),
            "preprocess": _histogram("preprocess", "Decode, resize and normalise."),
            "forward": _histogram("forward", "Forward pass."),
            "postprocess": _histogram("postprocess", "Resize to the source, quantise and encode."),
        }

        self._face_duration = _histogram("face_detection", "Find and blur the faces of one image.")
        self._faces = Counter("depth_server_faces_blurred_total", "Faces that were made unrecognisable.", registry=None)
        self._refused = Counter(
            "depth_server_access_refused_total",
            "Requests refused before anything was read of them, by reason.",
            ("reason",),
            registry=registry,
        )
        self._slow_clients = Counter(
            "depth_server_slow_clients_total",
            "Connections closed because their client was too slow, by what it was slow at.",
            ("phase",),
            registry=registry,
        )

    def set_info(self, *, version: str, model: str, device: str, precision: str) -> None:
        """Tell what runs, in place of what was told before."""
        self._info.clear()
        self._info.labels(version, model, device, precision).set(1)

    def expose_load(self, engine: Engine, admission: Admission, *, with_faces: bool = False) -> None:
        """Let scrapes see the load, and the face detection where it is on; called once, when the warm-up is over."""
        self.registry.register(EngineCollector(engine, admission))
        for metric in (self._requests, self._request_duration, *self._stages.values()):
            self.registry.register(metric)
        if with_faces:
            self.registry.register(self._face_duration)
            self.registry.register(self._faces)

    def observe_faces(self, seconds: float, faces: int) -> None:
        """Record an image that was looked at for faces."""
        self._face_duration.observe(seconds)
        self._faces.inc(faces)

    def count_refused(self, reason: str) -> None:
        """Count a request that was refused for its credentials."""
        self._refused.labels(reason).inc()

    def count_slow_client(self, phase: str) -> None:
        """Count a connection that was closed for its slowness."""
        self._slow_clients.labels(phase).inc()

    def count_request(self, outcome: Outcome) -> None:
        """Count one offered request."""
        self._requests.labels(outcome.value).inc()

    def observe_request(self, seconds: float) -> None:
        """Record a successful request."""
        self._request_duration.observe(seconds)

    def observe_stages(self, *, queue: float, preprocess: float, forward: float, postprocess: float) -> None:
        """Record the stages of a successful request, in seconds."""
        self._stages["queue"].observe(queue)
        self._stages["preprocess"].observe(preprocess)
        self._stages["forward"].observe(forward)
        self._stages["postprocess"].observe(postprocess)


def _histogram(stage: str, documentation: str) -> Histogram:
    return Histogram(f"depth_server_{stage}_duration_seconds", documentation, buckets=DURATION_BUCKETS, registry=None)
