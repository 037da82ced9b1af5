"""The configuration's part on where the work runs, as a person writes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from cryoscale.document import Written
from cryoscale.settings import ClusterSpec

_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_Label = Annotated[str, Field(max_length=63, pattern=_LABEL)]
_Resource = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class ClusterConfig(Written):
    """Where the work runs: ``local``, the address of a Dask scheduler, or ``kubernetes``.

    What comes after ``gpu_workers`` is for Kubernetes alone. The operator takes names of clusters of at
    most 53 characters.
    """

    kind: str = "local"
    cpu_workers: Annotated[int, Field(ge=1, le=1024)] = 2
    gpu_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    cpu_workers_min: Annotated[int, Field(ge=1, le=1024)] = 1
    namespace: _Label | None = None
    name: Annotated[str, Field(max_length=53, pattern=_LABEL)] = "cryoscale"
    image: Annotated[str, Field(min_length=1)] | None = None
    gpu_image: Annotated[str, Field(min_length=1)] | None = None
    wait_s: Annotated[float, Field(gt=0, le=86_400)] = 900.0
    keep: bool = False
    service_account: _Resource | None = None
    secret: _Resource | None = None
    claim: _Resource | None = None
    manifest: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ClusterConfig:
        if self.kind == "kubernetes" and self.cpu_workers_min > self.cpu_workers:
            raise ValueError(f"cpu_workers_min of at most cpu_workers ({self.cpu_workers})")
        return self

    @model_validator(mode="after")
    def _meant(self) -> ClusterConfig:
        """Defaults pass, since the record of a run has them all."""
        fields = type(self).model_fields
        beyond = list(fields)[list(fields).index("gpu_workers") + 1 :]
        given = [name for name in beyond if getattr(self, name) != fields[name].default]
        if self.kind == "local" and given:
            raise ValueError(f"{', '.join(given)} only with kind: kubernetes, which they are for")
        return self

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("local", "kubernetes") and not re.match(r"(tcp|tls|ucx|ws|wss)://.+", value):
            raise ValueError(f"{value!r} is none of local, kubernetes, tcp://host:port")
        return value

    def spec(self, path: Callable[[str], str] = str) -> ClusterSpec:
        """The same as plain settings; ``path`` makes the paths of this machine absolute."""
        manifest = None if self.manifest is None else path(self.manifest)
        return ClusterSpec(**self.model_dump() | {"manifest": manifest})
