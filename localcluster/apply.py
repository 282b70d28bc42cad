"""Applies the manifests that the cluster itself brings: storage class, Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from localcluster.client import ApiClient, api_path

if TYPE_CHECKING:
    from localcluster.settings import JsonObject

MANIFESTS = Path(__file__).with_name("manifests")
"""Folder of the manifests."""


async def _resource(client: ApiClient, api_version: str, kind: str) -> JsonObject:
    path = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    resources = (await client.get(path))["resources"]
    found: JsonObject = next(item for item in resources if item["kind"] == kind and "/" not in item["name"])
    return found


async def apply_manifest(client: ApiClient, name: str) -> list[str]:
    """Apply every object of a manifest server-side and return what was applied as `kind/name`.

    Raises:
        ApiError: If the API server refuses an object.
    """
    applied = []
    for item in yaml.safe_load_all((MANIFESTS / name).read_text()):
        resource = await _resource(client, item["apiVersion"], item["kind"])
        metadata = item["metadata"]
        namespace = metadata.get("namespace", "default") if resource["namespaced"] else None
        await client.apply(api_path(item["apiVersion"], resource["name"], namespace, metadata["name"]), item)
        applied.append(f"{item['kind'].lower()}/{metadata['name']}")
    return applied
