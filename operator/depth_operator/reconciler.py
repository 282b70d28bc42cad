"""One level-triggered, idempotent reconcile: gather, decide, render, apply, prune, one status write, Events.

It keeps nothing that it needs after a restart: the memory of the scaling law and the record of what was applied only
save work or smooth decisions. It never waits for the cluster to change; it observes, writes what it sees, and is woken
again by the next event, the next scaling interval or the resync.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from depth_operator.api.v1alpha1 import Autoscaling, DepthService, MetricType
from depth_operator.children import ChildWriter
from depth_operator.errors import ApiError, InvalidSpecError, NotFoundError
from depth_operator.events import transition_events
from depth_operator.manifests import Manifest, is_controlled_by, is_terminating
from depth_operator.observe import Action, ChildOutcome, Observed, Pod, deployment_replicas
from depth_operator.render import render_autoscaler, render_deployment, render_service
from depth_operator.render.deployment import template_hash
from depth_operator.replicas import step_before_omitting
from depth_operator.scaling.policy import DEFAULT_PARAMETERS, decide
from depth_operator.scaling.types import Decision, Memory, Observation, Signals, Targets
from depth_operator.status import (
    Inputs,
    Status,
    compute_status,
    invalid_spec_status,
    is_rolled_out,
    published_replicas,
    without_readings,
)

if TYPE_CHECKING:
    from depth_operator.api.naming import Key
    from depth_operator.ports import Cluster, MetricsSource, MonotonicClock, WallClock
    from depth_operator.scaling.parameters import PolicyParameters

DEPLOYMENT: Final = "Deployment"
SERVICE: Final = "Service"
AUTOSCALER: Final = "HorizontalPodAutoscaler"

MAX_DEPLOYMENT_STEPS: Final = 4
"""Applies of the Deployment in one reconcile: create, hand over, omit, and one to spare."""

_RETRIED: Final = frozenset({Action.FAILED, Action.PENDING, Action.CONFLICT, Action.REFUSED})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """What the reconciler has to know from the settings."""

    server_image: str
    scaling_interval_seconds: float
    signals_refresh_seconds: float
    policy: PolicyParameters = DEFAULT_PARAMETERS


@dataclass(frozen=True, slots=True)
class Result:
    """How a reconcile ended.

    Attributes:
        retry: Something is not as it should be: come back with back-off.
        retry_after_seconds: The API server's wish for the time of the retry.
        requeue_after_seconds: Come back then if there is nothing to retry; None waits for an event or the resync.
    """

    retry: bool = False
    retry_after_seconds: float | None = None
    requeue_after_seconds: float | None = None


@dataclass(slots=True)
class _Recollection:
    """What is kept about one DepthService between two reconciles; losing it costs nothing but smoothness.

    It belongs to one object: a successor of the same name has another load, and starts with nothing.
    """

    uid: str
    memory: Memory = field(default_factory=Memory.initial)
    status_written_at: float | None = None


class Reconciler:
    """Brings the cluster to what DepthServices declare. One call per key at a time; keys are independent."""

    def __init__(
        self, cluster: Cluster, metrics: MetricsSource, config: Config, *, monotonic: MonotonicClock, wall: WallClock
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._config = config
        self._monotonic = monotonic
        self._wall = wall
        self._children = ChildWriter(cluster)
        self._recollections: dict[Key, _Recollection] = {}

    async def reconcile(self, key: Key, *, full: bool = False) -> Result:
        """Reconcile one DepthService.

        Args:
            key: Which one.
            full: Apply every child, also one that looks as it should.

        Raises:
            ApiError: the state could not be read or the status not be written; to be retried.
        """
        manifest = await self._cluster.get_depth_service(key)
        if manifest is None:
            self._recollections.pop(key, None)
            self._children.forget(key)
            return Result()
        if is_terminating(manifest):
            return Result()
        try:
            service = DepthService.parse(manifest)
        except InvalidSpecError as error:
            previous: Status = manifest.get("status") or {}
            generation = manifest["metadata"]["generation"]
            status = invalid_spec_status(previous, generation=generation, message=str(error), now=self._wall())
            await self._publish(key, manifest, previous, status)
            return Result()
        return await self._reconcile_valid(service, manifest, full=full)

    async def _reconcile_valid(self, service: DepthService, manifest: Manifest, *, full: bool) -> Result:
        previous: Status = manifest.get("status") or {}
        autoscaling = service.spec.autoscaling
        signals: Signals | None = None
        if autoscaling is not None and autoscaling.follows_operator_law:
            live, signals = await asyncio.gather(self._gather(service), self._metrics.signals(service.key))
        else:
            live = await self._gather(service)
        observed, outcomes, rendered = await self._converge(service, live, full=full)
        decision = None
        if autoscaling is not None and signals is not None:
            decision = self._decide(service, autoscaling, observed, signals, previous, template_hash(rendered))
        inputs = Inputs(service, observed, outcomes, decision, template_hash(rendered), previous, self._wall())
        await self._publish(service.key, manifest, previous, compute_status(inputs))
        return _result(outcomes, self._config.scaling_interval_seconds if decision is not None else None)

    async def _gather(self, service: DepthService) -> Observed:
        deployment, exposure, autoscaler, pods = await asyncio.gather(
            self._cluster.get_child(DEPLOYMENT, service.key),
            self._cluster.get_child(SERVICE, service.key),
            self._cluster.get_child(AUTOSCALER, service.key),
            self._cluster.list_pods(service.key),
        )
        return Observed(deployment, exposure, autoscaler, tuple(Pod.parse(pod) for pod in pods))

    def _decide(
        self,
        service: DepthService,
        autoscaling: Autoscaling,
        observed: Observed,
        signals: Signals,
        previous: Status,
        current_template: str,
    ) -> Decision:
        gpu = autoscaling.metric(MetricType.GPU_UTILIZATION)
        latency = autoscaling.metric(MetricType.LATENCY_P95)
        targets = Targets(
            min_replicas=autoscaling.min_replicas,
            max_replicas=autoscaling.max_replicas,
            gpu_utilization_percent=gpu.target_percent if gpu is not None else None,
            latency_p95_milliseconds=latency.target_milliseconds if latency is not None else None,
        )
        ready = sum(pod.ready for pod in observed.present_pods)
        observation = Observation(
            current_replicas=deployment_replicas(observed.deployment),
            ready_replicas=ready,
            pending_replicas=len(observed.present_pods) - ready,
            terminating_replicas=sum(pod.terminating and not pod.finished for pod in observed.pods),
            rollout_in_progress=not is_rolled_out(observed.pods, current_template),
            published_replicas=published_replicas(previous),
        )
        recollection = self._recollect(service.key, service.uid)
        decision = decide(targets, observation, signals, recollection.memory, self._monotonic(), self._config.policy)
        recollection.memory = decision.memory
        return decision

    def _recollect(self, key: Key, uid: str) -> _Recollection:
        recollection = self._recollections.get(key)
        if recollection is None or recollection.uid != uid:
            recollection = self._recollections[key] = _Recollection(uid)
        return recollection

    async def _converge(
        self, service: DepthService, live: Observed, *, full: bool
    ) -> tuple[Observed, tuple[ChildOutcome, ...], Manifest]:
        """Apply what is declared and prune what is not.

        The order matters where replicas change hands: the autoscaler goes before the operator writes the number again,
        and comes after the operator has let go of it.
        """
        exposure, exposure_outcome = await self._children.apply(
            render_service(service), live.service, service, full=full
        )
        autoscaler, autoscaler_outcome = live.autoscaler, None
        if service.spec.autoscaling is None:
            autoscaler, autoscaler_outcome = await self._children.prune(live.autoscaler, service)
        autoscaled = service.spec.autoscaling is not None or autoscaler is not None
        deployment, deployment_outcome, rendered = await self._converge_deployment(
            service, live.deployment, autoscaled=autoscaled, full=full
        )
        if service.spec.autoscaling is not None:
            autoscaler, autoscaler_outcome = await self._children.apply(
                render_autoscaler(service, service.spec.autoscaling), live.autoscaler, service, full=full
            )
        outcomes = (exposure_outcome, deployment_outcome, *((autoscaler_outcome,) if autoscaler_outcome else ()))
        return Observed(deployment, exposure, autoscaler, live.pods), outcomes, rendered

    async def _converge_deployment(
        self, service: DepthService, live: Manifest | None, *, autoscaled: bool, full: bool
    ) -> tuple[Manifest | None, ChildOutcome, Manifest]:
        image = self._config.server_image
        if not autoscaled:
            rendered = render_deployment(service, server_image=image, replicas=service.spec.fixed_replicas)
            return *(await self._children.apply(rendered, live, service, full=full)), rendered
        autoscaling = service.spec.autoscaling
        min_replicas = autoscaling.min_replicas if autoscaling is not None else 0
        initial_replicas = max(1, min_replicas)
        initial = render_deployment(service, server_image=image, replicas=initial_replicas)
        rendered = render_deployment(service, server_image=image, replicas=None)
        for _ in range(MAX_DEPLOYMENT_STEPS):
            if live is not None and not is_controlled_by(live, service.uid):
                break
            step = step_before_omitting(
                live, initial=initial, initial_replicas=initial_replicas, min_replicas=min_replicas
            )
            if step is None:
                break
            live, outcome = await self._children.apply_step(step, live, service)
            if outcome.action is not Action.APPLIED:
                return live, outcome, rendered
        return *(await self._children.apply(rendered, live, service, full=full)), rendered

    async def _publish(self, key: Key, manifest: Manifest, previous: Status, status: Status) -> None:
        """Write the status if it changed, and only then the Events that it gives rise to."""
        if status == previous:
            return
        now = self._monotonic()
        recollection = self._recollect(key, manifest["metadata"]["uid"])
        only_readings = without_readings(status) == without_readings(previous)
        written_at = recollection.status_written_at
        if only_readings and written_at is not None and now - written_at < self._config.signals_refresh_seconds:
            return
        try:
            await self._cluster.apply_status(manifest, status)
        except NotFoundError:
            return
        recollection.status_written_at = now
        for event in transition_events(previous, status):
            logger.info(
                "%s: %s", key, event.message, extra={"key": str(key), "action": event.action, "reason": event.reason}
            )
            try:
                await self._cluster.create_event(
                    manifest, event_type=event.type, reason=event.reason, action=event.action, message=event.message
                )
            except ApiError as error:
                logger.warning("Event not recorded: %s", error, extra={"key": str(key), "reason": event.reason})


def _result(outcomes: tuple[ChildOutcome, ...], requeue_after_seconds: float | None) -> Result:
    troubled = [outcome for outcome in outcomes if outcome.action in _RETRIED]
    waits = [outcome.retry_after_seconds for outcome in troubled if outcome.retry_after_seconds is not None]
    return Result(
        retry=bool(troubled),
        retry_after_seconds=max(waits, default=None),
        requeue_after_seconds=requeue_after_seconds,
    )
