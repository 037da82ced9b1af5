"""``cryoscale run --detach``: a Job whose pod drives the run, and a ConfigMap with what it is told.

The driver's pod may be evicted, or go with its node: the Job makes another, which goes on from the ledger.
What is not worth a second try ends the Job (exit codes 1 and 2) by its podFailurePolicy
(https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy); a server too old to know
it drops that part, and then ``backoffLimit`` alone bounds how often.
"""

from __future__ import annotations

import base64
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from cryoscale.errors import CryoscaleError, InputError
from cryoscale.kube.api import Kube, connected
from cryoscale.kube.template import CLAIM_AT, RUN_LABEL, give_store, require_images
from cryoscale.settings import ClusterSpec

log = logging.getLogger("cryoscale")

CARRIED_BYTES = 900_000
"""A ConfigMap holds 1 MiB at most."""

SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg")
"""What a Shapefile consists of beside its ``.shp``: index, attributes, projection, encoding."""

CONFIG_AT = "/etc/cryoscale"

GONE_S = 120.0
"""How long a former Job of the run may take to be gone."""

FILE_KEYS: tuple[tuple[str, ...], ...] = (
    ("region", "file"),
    ("region", "rgi"),
    ("candidates", "rgi"),
    ("outlines", "rgi"),
    ("cluster", "manifest"),
)
"""Where a configuration may name a file that the driver alone reads."""

WORKERS_KEYS: tuple[tuple[str, ...], ...] = (("model", "weights"), ("sources", "velocity", "href"))
"""Where it may name one that the workers read."""


@dataclass(frozen=True)
class Submitted:
    """What was made."""

    namespace: str
    job: str
    config_map: str
    out: str

    def lines(self) -> list[str]:
        """What was made and how to follow it, for people."""
        place = f"--namespace {self.namespace}"
        return [
            f"Job {self.namespace}/{self.job} drives the run, as the ConfigMap {self.config_map} says",
            f"  follow:  cryoscale logs {self.out} --follow {place}",
            f"  look:    cryoscale status {self.out} --job {place}",
            f"  end:     kubectl delete job {self.job} -n {self.namespace}   (what is done is kept)",
        ]


def require_submittable(spec: ClusterSpec, out: str) -> None:
    """Refuse what a Job could not do.

    Raises:
        InputError: another kind of cluster, no image, or an output that pods do not see.
    """
    if spec.kind != "kubernetes":
        raise InputError(
            f"--detach with cluster kind {spec.kind}", "cluster kind kubernetes", "correct the configuration"
        )
    if not spec.image:
        require_images(spec)
        raise InputError("--detach without cluster.image", "the image that drives the run", "name one")
    if out.startswith("memory://"):
        raise InputError(f"--out {out}, which dies with its process", "an object store", "give another --out")
    if "://" in out:
        return
    if not spec.claim:
        raise InputError(
            f"--out {out}, a folder of this machine, with --detach",
            "an object store, or a folder of a volume that the pods share",
            f"give a URL, or name a PersistentVolumeClaim as cluster.claim and a folder below {CLAIM_AT}",
        )
    if not Path(out).is_relative_to(CLAIM_AT):
        raise InputError(
            f"--out {out}, which is not on the claim {spec.claim}",
            f"a folder below {CLAIM_AT}, where the pods see it",
            f"give --out {CLAIM_AT}/{Path(out).name}",
        )


def submit(
    document: Mapping[str, Any],
    base: Path,
    spec: ClusterSpec,
    out: str,
    run: str,
    options: Sequence[str] = (),
) -> Submitted:
    """Have a Job drive the run.

    Args:
        document: the configuration, checked.
        base: its folder, from which relative paths count; such files travel along.
        spec: its cluster.
        out: where the run is to lie.
        run: the run's label.
        options: more of ``cryoscale run``.

    Raises:
        InputError: it cannot work, another Job drives the run, or the API server refuses something.
    """
    require_submittable(spec, out)
    carried = carry(document, base)
    name = f"{_slug(str(document['name']))}-{run[:8]}"
    with connected(spec.namespace) as kube:
        # another submission of the run may have its Job, never this ConfigMap
        mounted = f"{name}-{uuid.uuid4().hex[:6]}"
        config_map = _config_map(mounted, carried, kube, run)
        job = _job(name, mounted, spec, out, kube, run, options)
        for made in (config_map, job):  # before the former Job goes, whose log may be all that there is of it
            kube.create(made, only_try=True)
        _make_room(kube, name, run)
        created = _create(kube, config_map, job)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": created["metadata"]["uid"]}
        try:
            kube.patch("ConfigMap", mounted, {"metadata": {"ownerReferences": [owner]}})
        except CryoscaleError as error:
            log.warning("the ConfigMap %s will not go with its Job: %s", mounted, error)
        return Submitted(kube.namespace, name, mounted, out)


def _create(kube: Kube, config_map: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Make both, or neither; the Job.

    Raises:
        InputError: another Job drives the run, or the API server refuses one of them.
        ClusterUnavailableError: the API server fails; where it does not say either whether there is a Job
            by now, the ConfigMap stays, as its driver would not begin without it.
    """
    name, mounted = str(job["metadata"]["name"]), str(config_map["metadata"]["name"])
    refused: CryoscaleError = _driven(kube, name)
    try:
        kube.create(config_map)
        made = kube.create(job)
    except CryoscaleError as error:
        made, refused = None, error
    made = made or kube.get("Job", name)  # what is answered with an error may have been done nonetheless
    if made is not None and mounted in _mounts(made):
        return made
    with suppress(CryoscaleError):  # nobody looks for one that stays
        kube.delete("ConfigMap", mounted)
    raise refused


def _mounts(job: Mapping[str, Any]) -> list[str]:
    """The ConfigMaps that a Job's pods mount."""
    volumes = job["spec"]["template"]["spec"].get("volumes", ())
    return [str(volume["configMap"]["name"]) for volume in volumes if "configMap" in volume]


def carry(document: Mapping[str, Any], base: Path) -> dict[str, bytes]:
    """The files of a configuration's ConfigMap: itself, and those that it names by relative paths.

    An absolute path is one of the pods'.

    Raises:
        InputError: a file is not there, or they are too large together.
    """
    told = yaml.safe_load(yaml.safe_dump(dict(document)))
    for where, holder, key in [
        *_named(told, WORKERS_KEYS),
        *(("catalogs", c, "url") for c in told["catalogs"]),
    ]:
        if _is_here(holder.get(key)):
            raise InputError(
                f"{where}: {holder[key]}, a file of this machine, which the workers do not see",
                "a URL, or an absolute path of the pods",
                f"put it into the image or onto the claim below {CLAIM_AT}, and name it there",
            )
    found: dict[str, bytes] = {}
    for where, holder, key in _named(told, FILE_KEYS):
        value = holder.get(key)
        if not _is_here(value):
            continue
        path = base / value
        number = len(found)
        holder[key] = _key(number, path)
        try:
            for part in (path, *_companions(path)):
                found[_key(number, part)] = part.read_bytes()
        except OSError as error:
            raise InputError(
                f"{where}: {value} ({error.strerror})",
                "a file beside the configuration, or an absolute path of the pods",
                "correct it",
            ) from error
    size = sum(map(len, found.values()))
    if size > CARRIED_BYTES:
        raise InputError(
            f"files of {size / 1e6:.1f} MB beside the configuration ({', '.join(found)})",
            f"less than {CARRIED_BYTES / 1e6:.1f} MB to send along",
            "put them into the object store or onto the claim, and name them there",
        )
    return {**found, "run.yaml": yaml.safe_dump(told, sort_keys=False).encode()}


def _named(document: Mapping[str, Any], keys: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, Any, str]]:
    """Where a file may be named: in words, and the mapping and its key."""
    for path in keys:
        holder: Any = document
        for key in path[:-1]:
            holder = holder.get(key) or {}
        yield ".".join(path), holder, path[-1]


def _key(number: int, path: Path) -> str:
    """A file's name in the ConfigMap."""
    return f"{number}-{re.sub(r'[^-._a-zA-Z0-9]', '_', path.name)}"


def _companions(path: Path) -> list[Path]:
    """What lies beside a file and belongs to it, by its name: the other parts of a Shapefile."""
    if path.suffix.lower() != ".shp":
        return []
    beside = sorted(path.parent.iterdir())
    return [one for one in beside if one.stem == path.stem and one.suffix.lower() in SHAPEFILE_PARTS]


def _is_here(value: str | None) -> bool:
    """Whether that names a file beside the configuration."""
    return value is not None and not re.match("/|.*(://|::)", value)


def _config_map(name: str, carried: Mapping[str, bytes], kube: Kube, run: str) -> dict[str, Any]:
    data, binary = {}, {}
    for key, content in carried.items():
        try:
            data[key] = content.decode()
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(content).decode()
    labels = {"app.kubernetes.io/name": "cryoscale", "app.kubernetes.io/part-of": "cryoscale", RUN_LABEL: run}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": kube.namespace, "labels": labels},
        "data": data,
        "binaryData": binary,
    }


def _job(
    name: str, mounted: str, spec: ClusterSpec, out: str, kube: Kube, run: str, options: Sequence[str]
) -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((files("cryoscale.kube") / "job.yaml").read_text(encoding="utf-8"))
    job["metadata"] |= {"name": name, "namespace": kube.namespace}
    template = job["spec"]["template"]
    for labelled in (job, template):
        labelled["metadata"]["labels"][RUN_LABEL] = run
    pod = template["spec"]
    if spec.service_account:
        pod["serviceAccountName"] = spec.service_account
    driver = pod["containers"][0]
    driver["image"] = spec.image
    driver["args"] += options
    driver["env"].insert(0, {"name": "CRYOSCALE_OUT", "value": out})
    give_store(pod, spec)
    for volume in pod["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["name"] = mounted
    return job


def _make_room(kube: Kube, name: str, run: str) -> None:
    """Delete a former Job of the run that is over.

    Raises:
        InputError: it is not over.
        ClusterUnavailableError: another submission has put its own in the place of the former one.
    """
    for found in kube.list("Job", {RUN_LABEL: run}):
        metadata = found["metadata"]
        if not over(found) and not metadata.get("deletionTimestamp"):
            raise _driven(kube, str(metadata["name"]))
        if metadata["name"] == name:
            kube.delete("Job", name, policy="Foreground", uid=metadata["uid"])
            _await(partial(_is_gone, kube, metadata), f"Job {kube.namespace}/{name}")


def _is_gone(kube: Kube, job: Mapping[str, Any]) -> bool:
    """Whether a Job of these metadata is no more, another of its name perhaps there."""
    found = kube.get("Job", str(job["name"]))
    return found is None or found["metadata"]["uid"] != job["uid"]


def over(job: Mapping[str, Any]) -> str:
    """How a Job ended: Complete, or Failed with its reason; nothing while it has not."""
    for found in job.get("status", {}).get("conditions") or ():
        if found["type"] in ("Complete", "Failed") and found["status"] == "True":
            told = [found["type"], *(str(found[key]) for key in ("reason", "message") if found.get(key))]
            return ": ".join(told)
    return ""


def _driven(kube: Kube, name: str) -> InputError:
    return InputError(
        f"a run that Job {kube.namespace}/{name} drives already",
        "one driver",
        f"follow it with cryoscale logs, or end it: kubectl delete job {name} -n {kube.namespace}",
    )


def _await(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + GONE_S
    while not done():
        if time.monotonic() > until:
            raise InputError(f"{what}, which is not gone after {GONE_S:.0f} s", "an end of it", "look why")
        time.sleep(0.5)


def _slug(name: str) -> str:
    """A run's name as a part of an object's."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"cryoscale-{slug}"[:50].rstrip("-") if slug else "cryoscale"
