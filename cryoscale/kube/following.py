"""A run that was submitted, seen from elsewhere: what its Job and its pods do, and what its driver says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryoscale.errors import ClusterUnavailableError, InputError
from cryoscale.kube.api import Kube
from cryoscale.kube.job import over
from cryoscale.kube.standing import CLUSTER_LABEL, is_ready, pod_troubles, role_of
from cryoscale.kube.template import RUN_LABEL

LOOK_S = 2.0


@dataclass(frozen=True)
class Submission:
    """The Job of a run at a moment."""

    job: dict[str, Any] | None
    drivers: list[dict[str, Any]]
    """Its pods, the oldest first."""
    workers: list[dict[str, Any]]
    """Pods of the cluster that was made for it."""
    troubles: dict[str, str]
    """Why pods are not ready, by their names; why there is none, by the Job's."""

    @property
    def over(self) -> str:
        """How it ended; nothing while it has not."""
        return over(self.job) if self.job else "deleted"

    def lines(self) -> list[str]:
        """All of it for people."""
        if self.job is None:
            return ["no Job drives it"]
        metadata, status = self.job["metadata"], self.job.get("status", {})
        place = f"{metadata['namespace']}/{metadata['name']}"
        failed = status.get("failed", 0)
        lines = [f"Job {place}: {self.over or 'at work'}{f', {failed} pods failed' if failed else ''}"]
        if metadata["name"] in self.troubles:
            lines.append(f"  no pod: {self.troubles[metadata['name']]}")
        lines += [self._told(pod) for pod in self.drivers]
        if self.workers:
            ready = sum(is_ready(pod) for pod in self.workers)
            lines.append(f"  cluster: {ready} of {len(self.workers)} pods are ready")
            lines += [self._told(pod) for pod in self.workers if not is_ready(pod)]
        return lines

    def _told(self, pod: Mapping[str, Any]) -> str:
        """A pod in a line: what it does, or how it ended, or what it waits for."""
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for container in status.get("containerStatuses", ()):
            ended = container.get("state", {}).get("terminated")
            if ended:
                return f"  pod {name} ended with exit code {ended['exitCode']}"
        if name in self.troubles:
            return f"  {self.troubles[name]}"
        return f"  pod {name}: {status.get('phase', 'unknown')} on {pod['spec'].get('nodeName', 'no node')}"

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        name = self.job["metadata"]["name"] if self.job else None
        return {"job": name, "over": self.over, "told": self.lines()}


def look_up(kube: Kube, run: str) -> Submission:
    """The newest Job with the run's label, and its pods."""
    jobs = sorted(kube.list("Job", {RUN_LABEL: run}), key=_born)
    pods = sorted(kube.list("Pod", {RUN_LABEL: run}), key=_born)
    workers = [pod for pod in pods if CLUSTER_LABEL in pod["metadata"].get("labels", {})]
    drivers = [pod for pod in pods if pod not in workers]
    troubles = {
        pod["metadata"]["name"]: str(trouble)
        for pod in pods
        for trouble in pod_troubles(kube, pod, _who(pod))
    }
    job = jobs[-1] if jobs else None
    if job is not None and not drivers and not over(job):
        troubles[job["metadata"]["name"]] = kube.warning(job["metadata"]["name"]) or "none was made yet"
    return Submission(job, drivers, workers, troubles)


def driver_log(kube: Kube, run: str, out: str, *, follow: bool = False) -> Iterator[str]:
    """What the driver says, line by line; with ``follow`` until the Job is over, whatever pod it has by then.

    Raises:
        InputError: no Job drives the run.
    """
    reached: dict[str, str] = {}  # of pods that have begun: when the last line was written that was shown
    ended: set[str] = set()
    told: list[str] = []
    while True:
        seen = look_up(kube, run)
        if seen.job is None and not seen.drivers:
            raise InputError(
                f"{out}, which no Job in namespace {kube.namespace} drives",
                "a run that was submitted",
                "cryoscale run CONFIG --out OUT --detach, or give --namespace",
            )
        known = [job["metadata"]["name"]] if (job := seen.job) and not seen.drivers else []
        before, told = told, []
        fresh = [pod for pod in seen.drivers if pod["metadata"]["uid"] not in ended]
        for pod in fresh if follow else fresh[-1:]:
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            if not _has_begun(pod):
                known.append(name)
                break
            if uid not in reached:
                reached[uid] = ""
                yield f"# pod {name}"
            try:
                going = follow and not _has_ended(pod)
                for written, line in kube.log(name, after=reached[uid], follow=going):
                    reached[uid] = written
                    yield line
            except (ClusterUnavailableError, InputError) as error:  # its node is gone, or so is the pod
                told.append(str(error))
                if str(error) not in before:
                    yield f"# {error}"
            if _has_ended(pod):  # before that a log that ends has only been cut off
                ended.add(uid)
        for line in (seen.troubles[name] for name in known if name in seen.troubles):
            told.append(line)
            if line not in before:
                yield f"# {line}"
        if not follow or seen.over:
            if seen.over:
                yield f"# Job {seen.over}"
            return
        time.sleep(LOOK_S)


def _who(pod: Mapping[str, Any]) -> str:
    cluster = pod["metadata"].get("labels", {}).get(CLUSTER_LABEL)
    return role_of(cluster, pod) if cluster else "driver"


def _born(document: Mapping[str, Any]) -> str:
    return str(document["metadata"].get("creationTimestamp", ""))


def _has_begun(pod: Mapping[str, Any]) -> bool:
    """Whether a container has run, so that there is a log."""
    return any("running" in state or "terminated" in state for state in _states(pod))


def _has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether all containers have ended, so that no more comes into their logs."""
    return all("terminated" in state for state in _states(pod))


def _states(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of its containers."""
    return [one.get("state", {}) for one in pod.get("status", {}).get("containerStatuses", ())]
