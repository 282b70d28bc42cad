"""Whether a user may read the metric of a namespace, as kube-apiserver says, remembered for some seconds."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from depth_operator.metrics_api.authentication import User

MAX_CACHED_REVIEWS = 1024
"""Pairs of user and namespace that are remembered; the HorizontalPodAutoscaler is one user."""


class AccessReviewer(Protocol):
    """Asks kube-apiserver."""

    async def may_read(self, user: User, namespace: str) -> bool:
        """Whether the user may read the metric of the namespace.

        Raises:
            depth_operator.metrics_api.cluster.ClusterError: If kube-apiserver does not say.
        """


class CachedReviews:
    """Asks at most once per user, namespace and `cache_seconds`; callers that ask at the same time share the question.

    Args:
        reviewer: Who is asked.
        cache_seconds: How long an answer is used. Failures are not remembered.
        clock: Seconds that do not go back.
        max_entries: Bound of the memory; the oldest answer goes first.
    """

    def __init__(
        self,
        reviewer: AccessReviewer,
        *,
        cache_seconds: float,
        clock: Callable[[], float],
        max_entries: int = MAX_CACHED_REVIEWS,
    ) -> None:
        self._reviewer = reviewer
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._max_entries = max_entries
        self._reviews: OrderedDict[tuple[User, str], tuple[float, asyncio.Task[bool]]] = OrderedDict()

    async def may_read(self, user: User, namespace: str) -> bool:
        """Whether the user may read the metric of the namespace."""
        key = (user, namespace)
        cached = self._reviews.get(key)
        if cached is None or self._clock() >= cached[0]:
            review = asyncio.create_task(self._reviewer.may_read(user, namespace))
            self._reviews.pop(key, None)
            self._reviews[key] = (self._clock() + self._cache_seconds, review)
            while len(self._reviews) > self._max_entries:
                self._reviews.popitem(last=False)
        else:
            review = cached[1]
        try:
            # A caller that hangs up must not cancel the question of the others.
            return await asyncio.shield(review)
        except Exception:
            if (current := self._reviews.get(key)) and current[1] is review:
                del self._reviews[key]
            raise
