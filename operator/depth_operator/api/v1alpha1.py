"""DepthService v1alpha1 as frozen types.

The CustomResourceDefinition in ``crds/`` is the source of truth and is enforced by the API server; these types mirror
it. An unknown field is an error here too, so that an operator that is older than its CRD refuses what it would ignore.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from depth_operator.api.naming import Key
from depth_operator.errors import InvalidSpecError


class Family(StrEnum):
    """Family of the model."""

    DEPTH_ANYTHING = "DepthAnything"
    DEPTH_ANYTHING_V2 = "DepthAnythingV2"


class Variant(StrEnum):
    """Size of the backbone."""

    VIT_T14 = "ViTT14"
    VIT_S14 = "ViTS14"
    VIT_B14 = "ViTB14"
    VIT_L14 = "ViTL14"


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "Auto"
    CPU = "CPU"
    CUDA = "CUDA"


class Precision(StrEnum):
    """Arithmetic of the forward pass."""

    FP32 = "FP32"
    FP16 = "FP16"
    BF16 = "BF16"


class MetricType(StrEnum):
    """What an autoscaling target is about."""

    GPU_UTILIZATION = "GPUUtilization"
    LATENCY_P95 = "LatencyP95"
    CPU_UTILIZATION = "CPUUtilization"


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class PersistentVolumeClaimSource(_Object):
    """A weight file in a PersistentVolumeClaim; ``path`` is relative to its root."""

    claim_name: str
    path: str


class ImageBundledSource(_Object):
    """A weight file in the runtime image; ``path`` is absolute."""

    path: str


class ModelSource(_Object):
    """Exactly one member is set."""

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image_bundled: ImageBundledSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.persistent_volume_claim is None) == (self.image_bundled is None):
            message = "exactly one of persistentVolumeClaim and imageBundled must be set"
            raise ValueError(message)
        return self


class Model(_Object):
    """The model and its weights."""

    family: Family = Family.DEPTH_ANYTHING
    variant: Variant = Variant.VIT_L14
    source: ModelSource
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The model's name in answers and in the status, for example ``depth_anything_v2_vitl14``."""
        generation = {Family.DEPTH_ANYTHING: "depth_anything", Family.DEPTH_ANYTHING_V2: "depth_anything_v2"}
        return f"{generation[self.family]}_{self.variant.value.lower()}"


class LocalObjectReference(_Object):
    """Names an object of the same namespace."""

    name: str


class Runtime(_Object):
    """How the server runs."""

    image: str | None = None
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    device: Device = Device.AUTO
    precision: Precision = Precision.FP16
    input_size: int = 518
    max_queued_requests: int = 64


class Resources(_Object):
    """Quantities by resource name, as a container's resources."""

    requests: dict[str, str | int] = Field(default_factory=dict)
    limits: dict[str, str | int] = Field(default_factory=dict)


class Gpu(_Object):
    """GPUs of one replica."""

    resource_name: str = "nvidia.com/gpu"
    count: int = 1


class Metric(_Object):
    """One autoscaling target, in percent or in milliseconds."""

    type: MetricType
    target_percent: int | None = None
    target_milliseconds: int | None = None


class Autoscaling(_Object):
    """Bounds and targets of the number of replicas."""

    min_replicas: int = 1
    max_replicas: int
    metrics: tuple[Metric, ...] = (Metric(type=MetricType.GPU_UTILIZATION, target_percent=70),)

    def metric(self, metric_type: MetricType) -> Metric | None:
        """The target of the given type, None if the manifest has none."""
        return next((metric for metric in self.metrics if metric.type == metric_type), None)

    @property
    def follows_operator_law(self) -> bool:
        """Whether the operator decides. With a CPU target alone the HorizontalPodAutoscaler does so by itself."""
        return any(metric.type != MetricType.CPU_UTILIZATION for metric in self.metrics)


class ServiceExposure(_Object):
    """The Service in front of the replicas."""

    type: str = "ClusterIP"
    port: int = 80
    annotations: dict[str, str] = Field(default_factory=dict)


class Exposure(_Object):
    """How the endpoint is reached."""

    service: ServiceExposure = ServiceExposure()


class DepthServiceSpec(_Object):
    """What is to be served and how."""

    model: Model
    runtime: Runtime = Runtime()
    resources: Resources = Resources(requests={"cpu": "1", "memory": "4Gi"})
    gpu: Gpu = Gpu()
    replicas: int | None = None
    autoscaling: Autoscaling | None = None
    expose: Exposure = Exposure()

    @property
    def fixed_replicas(self) -> int:
        """Number of replicas while nothing scales; the default is not in the schema so that CEL can forbid the pair."""
        return 1 if self.replicas is None else self.replicas


@dataclass(frozen=True, slots=True)
class DepthService:
    """A DepthService as it was read, without its status, which stays a plain object.

    Attributes:
        key: Namespace and name.
        uid: For owner references and preconditions.
        generation: ``metadata.generation``.
        spec: The parsed spec.
    """

    key: Key
    uid: str
    generation: int
    spec: DepthServiceSpec

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> Self:
        """Read an object of the API server.

        Raises:
            InvalidSpecError: the spec does not fit these types; names the first offending field. Possible for an object
                that was stored under an older or newer CRD.
        """
        metadata = manifest["metadata"]
        try:
            spec = DepthServiceSpec.model_validate(manifest.get("spec") or {})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join(["spec", *(str(part) for part in first["loc"])])
            remedy = (
                "remove it, or upgrade the operator to the version of the CRD"
                if first["type"] == "extra_forbidden"
                else "correct the manifest"
            )
            raise InvalidSpecError(f"{path}: {first['msg']}; {remedy}") from error
        return cls(
            key=Key(metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            generation=metadata["generation"],
            spec=spec,
        )
