"""Reading Kubernetes objects as plain dicts: ownership, and whether a live object already is what we would apply. Pure.

Server-side apply without a change is harmless but not free: it is a write that the API server authorises, admits and
audits, and after a restart there would be one per child. So a live object is compared first. Two facts together say
that nothing is to be done: the hash of the manifest that was applied last is ours (a field that we no longer render
would otherwise stay), and every field that we render has our value (somebody may have edited it).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from depth_operator.api.naming import APPLIED_HASH_ANNOTATION

Manifest = dict[str, Any]

_QUANTITY_PARENTS: Final = frozenset({"limits", "requests"})
_QUANTITY_FIELDS: Final = frozenset({"sizeLimit", "averageValue", "tolerance", "divisor"})
_QUANTITY: Final = re.compile(r"^([+-]?[0-9.]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
_MULTIPLIERS: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Short hash of an object's canonical JSON; equal objects have equal hashes whatever the order of their keys."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def with_applied_hash(manifest: Manifest) -> Manifest:
    """A copy that carries its own hash as an annotation."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_HASH_ANNOTATION: manifest_hash(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def is_applied(live: Manifest, manifest: Manifest) -> bool:
    """Whether applying ``manifest`` (with its hash) would leave ``live`` as it is."""
    annotations = live["metadata"].get("annotations") or {}
    expected = manifest["metadata"]["annotations"][APPLIED_HASH_ANNOTATION]
    return annotations.get(APPLIED_HASH_ANNOTATION) == expected and contains(live, manifest)


def contains(live: object, desired: object, *, field: str = "", parent: str = "") -> bool:
    """Whether ``live`` has every value of ``desired``; what ``live`` has beyond that belongs to others.

    Lists of objects with a ``name`` are compared by name, as Kubernetes merges them; other lists item by item.
    """
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and contains(live[key], value, field=key, parent=field) for key, value in desired.items()
        )
    if isinstance(desired, list):
        return isinstance(live, list) and _list_contains(live, desired)
    if parent in _QUANTITY_PARENTS or field in _QUANTITY_PARENTS | _QUANTITY_FIELDS:
        return parse_quantity(live) == parse_quantity(desired)
    return live == desired


def _list_contains(live: list[object], desired: list[object]) -> bool:
    named = [item for item in desired if isinstance(item, Mapping) and "name" in item]
    if desired and len(named) == len(desired):
        by_name = {item.get("name"): item for item in live if isinstance(item, Mapping)}
        return all(contains(by_name.get(item["name"]), item) for item in named)
    return len(live) == len(desired) and all(contains(a, b) for a, b in zip(live, desired, strict=True))


def parse_quantity(value: object) -> Decimal | str:
    """A quantity as a number, so that ``1000m`` equals ``1``; text that is no quantity is returned as it is."""
    text = str(value)
    match = _QUANTITY.match(text)
    if match is None:
        return text
    return Decimal(match[1]) * _MULTIPLIERS[match[2] or ""]


def is_controlled_by(live: Manifest, uid: str) -> bool:
    """Whether the object's controller is the one with the given uid."""
    references = live["metadata"].get("ownerReferences") or []
    return any(reference.get("controller") and reference.get("uid") == uid for reference in references)


def describe_controller(live: Manifest) -> str:
    """Who controls an object, for messages."""
    references = live["metadata"].get("ownerReferences") or []
    controller = next((reference for reference in references if reference.get("controller")), None)
    return f"{controller['kind']} {controller['name']} (uid {controller['uid']})" if controller else "no controller"


def is_terminating(live: Manifest) -> bool:
    """Whether the object's deletion has begun."""
    return "deletionTimestamp" in live["metadata"]


def field_owners(live: Manifest, path: tuple[str, ...]) -> frozenset[str]:
    """Field managers that own the field at ``path``, for example ``("spec", "replicas")``."""
    owners = set()
    for entry in live["metadata"].get("managedFields") or []:
        node: Any = entry.get("fieldsV1") or {}
        for part in path:
            node = node.get(f"f:{part}") if isinstance(node, Mapping) else None
        if node is not None:
            owners.add(entry["manager"])
    return frozenset(owners)
