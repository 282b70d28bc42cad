"""The PromQL text behind the signals of one DepthService.

One instant query holds all of them, told apart by the label `signal`: one round trip, one evaluation time. Every
selector is filtered by namespace **and** service, or two services of one namespace would scale each other. The metric
names are those of `docs/reference/contract.md` section 2; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

REQUESTS = "depth_server_requests_total"
IMAGES = "depth_server_images_total"
QUEUE_DEPTH = "depth_server_queue_depth"
WORKER_BUSY = "depth_server_worker_busy_seconds_total"
GPU_BUSY = "depth_server_gpu_busy_seconds_total"
REQUEST_DURATION = "depth_server_request_duration_seconds"
QUEUE_DURATION = "depth_server_queue_duration_seconds"

METRICS = (REQUESTS, IMAGES, QUEUE_DEPTH, WORKER_BUSY, GPU_BUSY, REQUEST_DURATION, QUEUE_DURATION)
"""Every metric of the server that a query reads; histograms by their base name."""

SIGNAL_LABEL = "signal"
"""Label of the results of `signals_query`: the name of a field of `Signals`, or `SAMPLE_AGE`."""

SAMPLE_AGE = "sample_age_seconds"
"""Name of the result that holds the age of the youngest scrape."""

DEMAND = 'outcome!="invalid"'
"""Matcher of the requests that are demand; invalid ones are the client's fault."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose series are meant and how far back rates reach.

    Attributes:
        namespace: Namespace of the DepthService.
        service: Its name.
        window_seconds: Range of `rate()`; at least four scrapes, so that one lost scrape leaves no hole.
        stale_after_seconds: Age from which on a pod does not count as reporting.
    """

    namespace: str
    service: str
    window_seconds: int
    stale_after_seconds: float

    def selector(self, metric: str, *matchers: str) -> str:
        """`metric{namespace="…",service="…",…}`."""
        own = [f'namespace="{escape_label_value(self.namespace)}"', f'service="{escape_label_value(self.service)}"']
        return f"{metric}{{{','.join([*own, *matchers])}}}"

    def rate(self, metric: str, *matchers: str) -> str:
        """Per-second increase over the window."""
        return f"rate({self.selector(metric, *matchers)}[{self.window_seconds}s])"


def escape_label_value(value: str) -> str:
    r"""Escape a value for a PromQL string in double quotes.

    Kubernetes names hold none of these characters; the query must stay whole even if one ever comes from elsewhere.

    >>> escape_label_value('a"b')
    'a\\"b'
    """
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def offered_rate(scope: Scope) -> str:
    """Requests per second, whatever became of them, but the invalid ones."""
    return f"sum({scope.rate(REQUESTS, DEMAND)})"


def finished_rate(scope: Scope) -> str:
    """Images per second that the engines finished."""
    return f"sum({scope.rate(IMAGES)})"


def busy_rate(scope: Scope) -> str:
    """Busy seconds per second, from CUDA events where a pod has them, else from its worker."""
    return f"sum({_busy_by_pod(scope)})"


def queue_depth(scope: Scope) -> str:
    """Images that wait."""
    return f"sum({scope.selector(QUEUE_DEPTH)})"


def quantile(scope: Scope, share: float, histogram: str) -> str:
    """A quantile over all pods, in seconds; NaN while nothing was observed in the window."""
    return f"histogram_quantile({share:g}, sum by (le) ({scope.rate(f'{histogram}_bucket')}))"


def reporting_pods(scope: Scope) -> str:
    """Pods whose youngest sample is fresh and that have a rate.

    A pod that was just scraped for the first time has no rate yet: it is ready, and its load is unknown. A pod that is
    being deleted counts for as long as it is scraped.
    """
    age = f"max by (pod) (timestamp({scope.selector(QUEUE_DEPTH)}))"
    fresh = f"(time() - {age} <= {scope.stale_after_seconds:g})"
    return f"count({fresh} and on (pod) ({_busy_by_pod(scope)}))"


def sample_age_seconds(scope: Scope) -> str:
    """Age of the youngest scrape."""
    return f"time() - max(timestamp({scope.selector(QUEUE_DEPTH)}))"


def signals_query(scope: Scope) -> str:
    """All signals in one instant query; at most one result for each value of the label `signal`."""
    expressions = {
        "offered_rate": offered_rate(scope),
        "finished_rate": finished_rate(scope),
        "busy_rate": busy_rate(scope),
        "queue_depth": queue_depth(scope),
        "latency_p95_seconds": quantile(scope, 0.95, REQUEST_DURATION),
        "queue_wait_p95_seconds": quantile(scope, 0.95, QUEUE_DURATION),
        "reporting_pods": reporting_pods(scope),
        SAMPLE_AGE: sample_age_seconds(scope),
    }
    return "\nor\n".join(
        f'label_replace({expression}, "{SIGNAL_LABEL}", "{name}", "", "")' for name, expression in expressions.items()
    )


def _busy_by_pod(scope: Scope) -> str:
    return f"sum by (pod) ({scope.rate(GPU_BUSY)}) or sum by (pod) ({scope.rate(WORKER_BUSY)})"
