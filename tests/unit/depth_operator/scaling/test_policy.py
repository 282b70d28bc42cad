"""The rules of the control law, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from depth_operator.scaling.parameters import PolicyParameters
from depth_operator.scaling.policy import decide
from depth_operator.scaling.types import DataQuality, Memory, MissingReason, Sample, Signals
from depth_operator.scaling.wording import number
from tests.unit.depth_operator.scaling.builders import (
    WINDOW,
    Service,
    make_observation,
    make_signals,
    make_targets,
    missing,
    sample,
    watched,
)

NOW = 10_000.0


def test_offered_load_is_divided_by_what_a_replica_does_at_the_target() -> None:
    decision = decide(make_targets(), make_observation(1), make_signals(4.2), Memory.initial(), NOW)

    assert (decision.desired_replicas, decision.reason) == (2, "OfferedLoad")
    assert decision.message == "2 replicas: 4.2 images/s offered, one replica does 2.1 at 70 % busy"
    assert decision.data_quality is DataQuality.GOOD
    assert decision.data_message == ""
    assert decision.limited_by == ""


def test_rejected_requests_count_as_demand_in_one_step() -> None:
    """A saturated replica finishes 3 images/s of 21 offered: utilisation would ask for 2, the load asks for 10."""
    signals = make_signals(21.0, finished=3.0, busy=1.0)

    decision = decide(make_targets(max_replicas=20), make_observation(1), signals, Memory.initial(), NOW)

    assert decision.desired_replicas == 10


@pytest.mark.parametrize(("offered", "replicas"), [(2.1, 1), (2.25, 1), (2.4, 2), (4.2, 2), (4.5, 3), (0.001, 1)])
def test_a_load_just_above_a_whole_replica_adds_none(offered: float, replicas: int) -> None:
    decision = decide(make_targets(), make_observation(1), make_signals(offered), watched(), NOW)

    assert decision.desired_replicas == replicas


def test_the_manifests_utilisation_target_is_used() -> None:
    signals = make_signals(4.2, reporting=2)

    at_35 = decide(make_targets(utilization=35), make_observation(2), signals, Memory.initial(), NOW)
    at_none = decide(make_targets(utilization=None), make_observation(2), signals, Memory.initial(), NOW)

    assert (at_35.desired_replicas, at_none.desired_replicas) == (4, 2)


def test_the_last_good_capacity_is_remembered_while_idle() -> None:
    busy = decide(make_targets(), make_observation(1), make_signals(2.0), Memory.initial(), NOW)
    idle = decide(make_targets(), make_observation(1), make_signals(0.0), busy.memory, NOW + 60)
    burst = make_signals(12.6, finished=0.01, busy=0.001)

    again = decide(make_targets(), make_observation(1), burst, idle.memory, NOW + 120)

    assert again.desired_replicas == 6


def test_a_backlog_is_to_be_drained_in_time() -> None:
    decision = decide(make_targets(), make_observation(1), make_signals(1.0, queue=300), Memory.initial(), NOW)

    assert (decision.desired_replicas, decision.reason) == (4, "QueueBacklog")
    assert decision.message == (
        "4 replicas: 300 images wait and 1 images/s arrive, one replica does 3; the queue is to be empty in 30 s"
    )


def test_utilisation_steps_in_where_arrivals_are_unknown() -> None:
    signals = make_signals(missing(), finished=6.0, busy=2.0, reporting=2)

    decision = decide(make_targets(), make_observation(2), signals, Memory.initial(), NOW)

    assert (decision.desired_replicas, decision.reason) == (3, "Utilization")
    assert decision.data_quality is DataQuality.PARTIAL
    assert decision.message == "3 replicas: 100 % busy against a target of 70 %"


def test_no_traffic_goes_to_the_minimum_and_says_so() -> None:
    decision = decide(
        make_targets(min_replicas=2), make_observation(3), make_signals(reporting=3), watched(now=NOW), NOW
    )

    assert (decision.desired_replicas, decision.reason, decision.limited_by) == (2, "Idle", "MinReplicas")
    assert decision.message == "2 replicas: no images offered, minReplicas is 2"


def test_more_than_the_maximum_is_limited_and_says_what_would_be_needed() -> None:
    decision = decide(make_targets(max_replicas=3), make_observation(1), make_signals(21.0), Memory.initial(), NOW)

    assert (decision.desired_replicas, decision.limited_by) == (3, "MaxReplicas")
    assert decision.message.endswith("10 would be needed, maxReplicas is 3")


def test_bounds_hold_whatever_runs() -> None:
    no_data = Signals.unavailable(MissingReason.UNAVAILABLE, "down")

    above = decide(make_targets(max_replicas=3), make_observation(7), no_data, Memory.initial(), NOW)
    below = decide(make_targets(min_replicas=2), make_observation(0), no_data, Memory.initial(), NOW)

    assert (above.desired_replicas, below.desired_replicas) == (3, 2)


class TestLatency:
    targets = make_targets(latency=200)

    def test_one_step_up_if_requests_wait(self) -> None:
        signals = make_signals(1.0, p95=0.5, wait=0.3, reporting=2)

        decision = decide(self.targets, make_observation(2), signals, Memory.initial(), NOW)

        assert (decision.desired_replicas, decision.reason) == (3, "Latency")
        assert decision.message == "3 replicas: p95 latency 500 ms is above 200 ms and requests wait for the engine"

    def test_one_step_up_if_the_replicas_are_saturated(self) -> None:
        signals = make_signals(2.0, p95=0.5, wait=0.0, finished=2.0, busy=1.9, capacity=1.0, reporting=2)

        decision = decide(make_targets(latency=200, utilization=100), make_observation(2), signals, watched(), NOW)

        assert (decision.desired_replicas, decision.reason) == (3, "Latency")

    def test_slow_requests_that_do_not_wait_ask_for_nothing(self) -> None:
        signals = make_signals(1.0, p95=0.5, wait=0.01, reporting=2)

        assert decide(self.targets, make_observation(2), signals, Memory.initial(), NOW).desired_replicas == 2

    def test_not_more_than_one_step_in_a_cooldown(self) -> None:
        service = Service(targets=self.targets, replicas=2)

        def step(seconds: float) -> int:
            signals = make_signals(1.0, p95=0.5, wait=0.3, reporting=service.replicas)
            return service.step(signals, seconds=seconds).desired_replicas

        assert [step(seconds) for seconds in (5, 5, 40, 30, 20, 50, 50)] == [3, 3, 3, 3, 4, 4, 5]

    def test_waits_for_pods_that_are_starting(self) -> None:
        signals = make_signals(1.0, p95=0.5, wait=0.3, reporting=2)
        first = decide(self.targets, make_observation(2), signals, Memory.initial(), NOW)

        later = decide(
            self.targets, make_observation(3, ready=2, pending=1, published=3), signals, first.memory, NOW + 1000
        )

        assert later.desired_replicas == 3

    def test_an_unknown_percentile_with_traffic_blocks_a_scale_down(self) -> None:
        signals = make_signals(0.1, p95=missing(MissingReason.NO_OBSERVATIONS), reporting=3)

        decision = decide(self.targets, make_observation(3), signals, watched(now=NOW), NOW)

        assert (decision.desired_replicas, decision.data_quality) == (3, DataQuality.PARTIAL)

    def test_an_unknown_percentile_without_traffic_is_no_fault(self) -> None:
        nothing = missing(MissingReason.NO_OBSERVATIONS)
        signals = make_signals(0.0, p95=nothing, wait=nothing, reporting=3)

        decision = decide(self.targets, make_observation(3), signals, watched(now=NOW), NOW)

        assert (decision.desired_replicas, decision.data_quality) == (1, DataQuality.GOOD)


class TestScaleDown:
    def test_waits_for_a_whole_window_after_a_restart(self) -> None:
        service = Service(replicas=4)
        idle = make_signals(reporting=4)

        while service.replicas == 4:
            decision = service.step(idle)
            assert service.now < 1000 + 2 * WINDOW
        waited = service.now - 1005

        assert decision.desired_replicas == 1
        assert waited == pytest.approx(WINDOW)
        _, before = service.decisions[-2]
        assert (before.reason, before.limited_by) == ("Stabilizing", "StabilizationWindow")
        assert before.message == ("4 replicas: kept until fewer are enough for 300 s; 1 would do, no images offered")

    def test_goes_only_to_the_largest_need_of_the_window(self) -> None:
        service = Service(replicas=1, memory=watched(now=1000.0))
        service.step(make_signals(10.0))
        service.step(make_signals(4.2, reporting=5), seconds=20)

        replicas = [service.step(make_signals(reporting=5), seconds=30).desired_replicas for _ in range(12)]

        assert service.decisions[0][1].desired_replicas == 5
        assert replicas[:9] == [5] * 9
        assert replicas[9:] == [2, 1, 1]
        assert service.decisions[11][1].message == (
            "2 replicas: 1 would do now, no images offered, but 2 were needed within the last 300 s"
        )

    def test_not_while_a_rollout_runs(self) -> None:
        observation = make_observation(4, rollout=True)

        decision = decide(make_targets(), observation, make_signals(reporting=4), watched(now=NOW), NOW)

        assert (decision.desired_replicas, decision.limited_by) == (4, "Rollout")

    def test_a_rollout_does_not_stop_a_scale_up(self) -> None:
        decision = decide(make_targets(), make_observation(1, rollout=True), make_signals(4.2), Memory.initial(), NOW)

        assert decision.desired_replicas == 2

    def test_a_long_gap_in_the_data_starts_the_window_anew(self) -> None:
        service = Service(replicas=4, memory=watched(now=1000.0))
        down = Signals.unavailable(MissingReason.UNAVAILABLE, "Prometheus is down.")
        for _ in range(20):
            assert service.step(down).desired_replicas == 4

        assert service.step(make_signals(reporting=4)).desired_replicas == 4
        assert service.memory.observed_since == service.now

    def test_a_short_gap_does_not(self) -> None:
        service = Service(replicas=4, memory=watched(now=1000.0))
        service.step(Signals.unavailable(MissingReason.UNAVAILABLE, "Prometheus is down."))

        assert service.step(make_signals(reporting=4)).desired_replicas == 1

    def test_a_need_seen_through_bad_data_is_remembered(self) -> None:
        service = Service(replicas=1, memory=watched(now=1000.0))
        partial = make_signals(10.0, finished=missing())
        assert service.step(partial).desired_replicas == 5

        assert service.step(make_signals(reporting=5)).desired_replicas == 5

    def test_the_window_can_be_shortened(self) -> None:
        parameters = PolicyParameters(stabilization_window_seconds=10)
        memory, desired = Memory.initial(), []
        for second in range(0, 20, 5):
            decision = decide(
                make_targets(), make_observation(4), make_signals(reporting=4), memory, NOW + second, parameters
            )
            memory = decision.memory
            desired.append(decision.desired_replicas)

        assert desired == [4, 4, 1, 1]

    def test_the_published_number_counts_until_the_scaler_has_followed(self) -> None:
        observation = make_observation(2, published=5)

        decision = decide(make_targets(), observation, make_signals(reporting=2), Memory.initial(), NOW)

        assert decision.desired_replicas == 5


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("field", ["offered", "finished", "busy", "queue", "reporting"])
@pytest.mark.parametrize(
    "fault",
    [missing(), sample(NAN), sample(INF), sample(-1.0), sample(0.0, age_seconds=46.0), sample(0.0, age_seconds=NAN)],
    ids=["absent", "NaN", "infinite", "negative", "stale", "undated"],
)
def test_every_signal_holds_the_replicas_when_it_cannot_be_used(field: str, fault: Sample) -> None:
    signals = make_signals(**{"reporting": 4.0, field: fault})

    decision = decide(make_targets(), make_observation(4), signals, watched(now=NOW), NOW)

    assert (decision.desired_replicas, decision.limited_by) == (4, "MissingData")
    assert decision.data_quality is DataQuality.PARTIAL
    assert decision.data_message in decision.message


@pytest.mark.parametrize(
    ("signals", "quality", "reason"),
    [
        (Signals.unavailable(MissingReason.UNAVAILABLE, "x is down."), DataQuality.ERROR, "PrometheusError"),
        (Signals.unavailable(MissingReason.NO_SERIES, "x has none."), DataQuality.MISSING, "MetricsMissing"),
        (
            Signals(*[sample(1.0, age_seconds=600.0)] * 7),
            DataQuality.STALE,
            "MetricsStale",
        ),
        (replace(make_signals(reporting=4), warning="a store is down"), DataQuality.PARTIAL, "MetricsPartial"),
    ],
)
def test_the_kind_of_fault_is_told(signals: Signals, quality: DataQuality, reason: str) -> None:
    decision = decide(make_targets(), make_observation(4), signals, watched(now=NOW), NOW)

    assert (decision.data_quality, decision.reason, decision.desired_replicas) == (quality, reason, 4)
    assert decision.data_message


def test_no_ready_pod_is_not_a_fault_of_the_scrape() -> None:
    no_series = Signals.unavailable(MissingReason.NO_SERIES, "check the scrape")

    decision = decide(make_targets(), make_observation(1, ready=0, pending=1), no_series, Memory.initial(), NOW)

    assert decision.message == "1 replica: held. No pod is ready yet, so there are no metrics."


class TestCoverage:
    def test_less_than_half_of_the_pods_hold(self) -> None:
        decision = decide(make_targets(), make_observation(3), make_signals(reporting=1), watched(now=NOW), NOW)

        assert (decision.desired_replicas, decision.data_quality) == (3, DataQuality.PARTIAL)
        assert decision.data_message == (
            "1 of 3 ready pods report metrics. At least 50 % are needed; check that Prometheus scrapes every pod."
        )

    def test_silent_pods_count_as_loaded_for_a_scale_down(self) -> None:
        """2 of 4 pods report 3 images/s, so all may carry 6: enough for 3 replicas, not for 2."""
        signals = make_signals(3.0, reporting=2)

        decision = decide(make_targets(), make_observation(4), signals, watched(now=NOW), NOW)

        assert decision.desired_replicas == 3

    def test_silent_pods_do_not_count_for_a_scale_up(self) -> None:
        """A pod that has just become ready has no rate yet: its share of the load still shows at the others."""
        signals = make_signals(4.0, reporting=1)

        decision = decide(make_targets(), make_observation(2), signals, watched(now=NOW), NOW)

        assert (decision.desired_replicas, decision.limited_by) == (2, "MissingData")
        assert decision.message == (
            "2 replicas: held; 1 of 2 ready pods report metrics, 4 are needed if the others are as loaded"
        )

    def test_what_few_pods_report_may_still_raise_the_replicas(self) -> None:
        signals = make_signals(10.0, reporting=1)

        assert decide(make_targets(), make_observation(4), signals, watched(), NOW).desired_replicas == 5

    def test_a_pod_that_ends_does_not_stand_in_for_a_ready_pod_that_is_silent(self) -> None:
        """A is silent, B reports, C reports and is being deleted: 2 of 3 are known, not 2 of 2.

        The sums alone would do with 2 replicas; with A as loaded as B and C it takes 3.
        """
        observation = make_observation(3, ready=2, terminating=1)

        decision = decide(make_targets(), observation, make_signals(4.0, reporting=2), watched(now=NOW), NOW)

        assert decision.desired_replicas == 3
        assert decision.data_message == "2 of 3 ready or terminating pods report metrics."

    def test_pods_that_end_and_are_no_longer_scraped_hold_the_replicas(self) -> None:
        observation = make_observation(5, ready=2, terminating=3)

        decision = decide(make_targets(), observation, make_signals(0.0, reporting=2), watched(now=NOW), NOW)

        assert (decision.desired_replicas, decision.data_quality) == (5, DataQuality.PARTIAL)

    def test_pods_that_end_may_still_report(self) -> None:
        signals = make_signals(2.0, reporting=3)

        decision = decide(make_targets(), make_observation(2), signals, watched(now=NOW), NOW)

        assert decision.desired_replicas == 1


def test_demand_without_any_measured_capacity_holds() -> None:
    signals = make_signals(1.0, finished=0.0, busy=0.0, reporting=3)

    decision = decide(make_targets(), make_observation(3), signals, watched(now=NOW, capacity=None), NOW)

    assert (decision.desired_replicas, decision.data_quality) == (3, DataQuality.PARTIAL)
    assert "too few were finished to measure" in decision.data_message


def test_readings_are_for_people() -> None:
    signals = make_signals(4.2, queue=12, p95=0.18, reporting=2)
    decision = decide(make_targets(latency=200), make_observation(2), signals, Memory.initial(), NOW)

    assert [(reading.type, reading.current, reading.target) for reading in decision.readings] == [
        ("OfferedLoad", "4.2 images/s", "2.1 images/s per replica"),
        ("GPUUtilization", "70 %", "70 %"),
        ("QueueDepth", "12 images", "drained within 30 s"),
        ("LatencyP95", "180 ms", "200 ms"),
    ]


def test_unknown_readings_say_so() -> None:
    no_data = Signals.unavailable(MissingReason.UNAVAILABLE, "down")
    decision = decide(make_targets(), make_observation(2), no_data, Memory.initial(), NOW)

    assert {reading.current for reading in decision.readings} == {"unknown"}
    assert [reading.target for reading in decision.readings] == ["", "70 %", "drained within 30 s", ""]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("stabilization_window_seconds", 0.0), ("minimum_coverage", 1.5), ("default_utilization_percent", 101)],
)
def test_impossible_parameters_are_refused_by_name(parameter: str, value: float) -> None:
    with pytest.raises(ValueError, match=parameter):
        PolicyParameters(**{parameter: value})


def test_requests_that_outlast_the_window_keep_their_replicas() -> None:
    """They are counted as offered when they end; until then only the busy time shows them."""
    signals = make_signals(0.0, finished=0.0, busy=3.0, reporting=6)

    decision = decide(make_targets(), make_observation(6), signals, watched(now=NOW), NOW)

    assert (decision.desired_replicas, decision.reason) == (5, "Utilization")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-9, "<0.001"),
        (0.083, "0.083"),
        (0.35, "0.35"),
        (4.2, "4.2"),
        (5.0, "5"),
        (12.34, "12.3"),
        (1e6, "1000000"),
    ],
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert number(value) == text
