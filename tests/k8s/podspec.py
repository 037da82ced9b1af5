"""What a pod's specification means: environment, volumes, users, out of the API server's objects.

References are looked up when a container is about to start, as a kubelet does, so that a Secret which is
missing holds the pod back and is told by name.
"""

from __future__ import annotations

import base64
import math
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.k8s.api import Api, Document
from tests.k8s.container import Image, Mount, Security

_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class ConfigError(Exception):
    """The pod asks for what is not there; told as ``CreateContainerConfigError``."""


def quantity(text: str | int | float) -> float:
    """A quantity of Kubernetes as a number: ``500m``, ``4Gi``, ``2``."""
    found = re.fullmatch(r"([\d.]+)(\w*)", str(text))
    if found is None:
        raise ConfigError(f"invalid quantity {text!r}")
    return float(found.group(1)) * _UNITS[found.group(2)]


@dataclass(frozen=True)
class PodSpec:
    """A pod as the API server has it, and where it runs.

    Attributes:
        address: the pod's own.
        node_address: that of its node.
        folder: where its volumes are.
        claims: where those claims are whose volume is no folder of this machine.
        server: host and port of the API server.
    """

    pod: Document
    api: Api
    address: str
    node_address: str
    folder: Path
    claims: Path
    server: tuple[str, int]

    @property
    def namespace(self) -> str:
        """Where it is."""
        return str(self.pod["metadata"]["namespace"])

    @property
    def spec(self) -> Document:
        """What is asked for."""
        spec: Document = self.pod["spec"]
        return spec

    # ------------------------------------------------------------------ environment

    def environment(self, container: Document, image: Image) -> dict[str, str]:
        """Every variable of a container: the image's, the services', the pod's."""
        env = {**image.env, **self._services(), "HOSTNAME": self.pod["metadata"]["name"]}
        for source in container.get("envFrom", []):
            prefix = source.get("prefix", "")
            for key, kind in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                if key in source:
                    data = self._data(kind, source[key]["name"], bool(source[key].get("optional")))
                    env |= {prefix + name: value.decode() for name, value in data.items()}
        for item in container.get("env", []):
            value = self._value(item, container)
            if value is not None:
                env[item["name"]] = expand(value, env)
        return env

    def _services(self) -> dict[str, str]:
        host, port = self.server
        env = {
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        }
        if self.spec.get("enableServiceLinks", True):
            for service in self.api.items(f"/api/v1/namespaces/{self.namespace}/services"):
                address, ports = service["spec"].get("clusterIP"), service["spec"].get("ports")
                if address and address != "None" and ports:
                    name = service["metadata"]["name"].upper().replace("-", "_")
                    env[f"{name}_SERVICE_HOST"] = address
                    env[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
                    env[f"{name}_PORT"] = f"tcp://{address}:{ports[0]['port']}"
        return env

    def _value(self, item: Document, container: Document) -> str | None:
        source = item.get("valueFrom")
        if source is None:
            return str(item.get("value") or "")
        for key, kind in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if key in source:
                wanted, optional = source[key], bool(source[key].get("optional"))
                data = self._data(kind, wanted["name"], optional)
                if wanted["key"] in data:
                    return data[wanted["key"]].decode()
                if optional:
                    return None
                raise ConfigError(
                    f"couldn't find key {wanted['key']} in {kind} {self.namespace}/{wanted['name']}"
                )
        if "fieldRef" in source:
            return self.field(source["fieldRef"]["fieldPath"])
        return self._resource(source["resourceFieldRef"], container)

    def field(self, path: str) -> str:
        """A field of the pod, as the downward API gives it."""
        known = {
            "status.podIP": self.address,
            "status.podIPs": self.address,
            "status.hostIP": self.node_address,
            "spec.nodeName": self.spec.get("nodeName", ""),
            "spec.serviceAccountName": self.spec.get("serviceAccountName", ""),
        }
        found = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if found:
            return str(self.pod["metadata"].get(found.group(1), {}).get(found.group(2), ""))
        if path in known:
            return str(known[path])
        return str(self.pod["metadata"].get(path.removeprefix("metadata."), ""))

    def _resource(self, reference: Document, container: Document) -> str:
        kind, name = reference["resource"].split(".", 1)
        resources = container.get("resources", {})
        given = resources.get(kind, {}).get(name) or resources.get("limits", {}).get(name)
        amount = quantity(given) if given else (os.cpu_count() or 1 if name == "cpu" else 2.0**34)
        divisor = reference.get("divisor", "0")
        return str(math.ceil(amount / (1.0 if divisor in ("0", 0) else quantity(divisor))))

    def _data(self, kind: str, name: str, optional: bool) -> dict[str, bytes]:
        status, answer = self.api.call("GET", f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")
        if status == 404:
            if optional:
                return {}
            raise ConfigError(f'{kind.removesuffix("s")} "{name}" not found')
        plain = {key: value.encode() for key, value in (answer.get("data") or {}).items()}
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in plain.items()}
        return plain | {
            key: base64.b64decode(value) for key, value in (answer.get("binaryData") or {}).items()
        }

    # ------------------------------------------------------------------ volumes

    def volumes(self) -> dict[str, Path]:
        """A folder of this machine for every volume, made and filled."""
        return {volume["name"]: self._volume(volume) for volume in self.spec.get("volumes", [])}

    def _volume(self, volume: Document) -> Path:
        folder = self.folder / "volumes" / str(volume["name"])
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if "persistentVolumeClaim" in volume:
            return self._claim(volume["persistentVolumeClaim"]["claimName"])
        fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            if fresh:
                self._empty(folder, volume["emptyDir"] or {})
        else:
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            for source in sources:
                self._write(folder, source)
        return folder

    def _empty(self, folder: Path, wanted: Document) -> None:
        if wanted.get("medium") == "Memory":
            size = f"size={int(quantity(wanted['sizeLimit']))}" if "sizeLimit" in wanted else "size=50%"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
        folder.chmod(0o777)
        group = self.spec.get("securityContext", {}).get("fsGroup")
        if group is not None:
            os.chown(folder, 0, group)
            folder.chmod(0o2777)

    def _claim(self, name: str) -> Path:
        claim = self.api.get(f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{name}")
        volume = self.api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        local = volume["spec"].get("hostPath") or volume["spec"].get("local")
        if local:
            return Path(local["path"])
        folder = self.claims / str(volume["metadata"]["name"])
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return folder

    def _write(self, folder: Path, source: Document) -> None:
        """The files of a Secret, a ConfigMap or the downward API, alone or as part of a projected volume."""
        for key, kind in (("secret", "secrets"), ("configMap", "configmaps")):
            if key in source:
                wanted = source[key]
                name = wanted.get("secretName") or wanted.get("name")
                data = self._data(kind, name, bool(wanted.get("optional")))
                items = wanted.get("items") or [{"key": key, "path": key} for key in data]
                for item in items:
                    _put(
                        folder / item["path"],
                        data[item["key"]],
                        item.get("mode", wanted.get("defaultMode", 0o644)),
                    )
        for item in source.get("downwardAPI", {}).get("items", []):
            _put(folder / item["path"], self.field(item["fieldRef"]["fieldPath"]).encode(), 0o644)
        if "serviceAccountToken" in source:
            _put(
                folder / source["serviceAccountToken"]["path"],
                self._token(source["serviceAccountToken"]),
                0o644,
            )

    def _token(self, wanted: Document) -> bytes:
        account = self.spec.get("serviceAccountName", "default")
        asked = {"expirationSeconds": wanted.get("expirationSeconds", 3600)}
        if "audience" in wanted:
            asked["audiences"] = [wanted["audience"]]
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": asked}
        return str(self.api.do("POST", path, body)["status"]["token"]).encode()

    def release(self) -> None:
        """Give back what volumes hold beside files."""
        for volume in self.spec.get("volumes", []):
            folder = self.folder / "volumes" / volume["name"]
            if (volume.get("emptyDir") or {}).get("medium") == "Memory" and folder.is_mount():
                subprocess.run(["umount", "--lazy", str(folder)], check=False)

    def mounts(self, container: Document, volumes: dict[str, Path], env: dict[str, str]) -> tuple[Mount, ...]:
        """Where a container sees the volumes."""
        found = []
        for mount in container.get("volumeMounts", []):
            inner = mount.get("subPath") or expand(mount.get("subPathExpr", ""), env)
            source = volumes[mount["name"]] / inner
            if not source.exists():
                source.mkdir(parents=True)
                source.chmod(0o777)
            # /var/run is a link to /run here, as in most images, and would lead out of the container's root
            target = os.path.realpath(mount["mountPath"])
            found.append(Mount(source, target, bool(mount.get("readOnly"))))
        return tuple(found)

    # ------------------------------------------------------------------ users

    def security(self, container: Document, image: Image) -> Security:
        """Who a container runs as: its own context before the pod's before the image's."""
        pod, own = self.spec.get("securityContext") or {}, container.get("securityContext") or {}
        both: dict[str, Any] = {**pod, **own}
        user = int(both.get("runAsUser", image.user))
        if both.get("runAsNonRoot") and user == 0:
            raise ConfigError("container has runAsNonRoot and image will run as root")
        groups = [*pod.get("supplementalGroups", []), *([pod["fsGroup"]] if "fsGroup" in pod else [])]
        return Security(
            user=user,
            group=int(both.get("runAsGroup", image.user)),
            groups=tuple(groups),
            read_only_root=bool(both.get("readOnlyRootFilesystem")),
            no_new_privileges=both.get("allowPrivilegeEscalation") is False,
            drop_capabilities="ALL" in (both.get("capabilities") or {}).get("drop", []),
        )


def expand(text: str, env: dict[str, str]) -> str:
    """``$(NAME)`` by its value where there is one, ``$$`` by ``$``, as in commands and variables."""

    def replaced(found: re.Match[str]) -> str:
        if found.group(0) == "$$":
            return "$"
        return env.get(found.group(1), found.group(0))

    return re.sub(r"\$\$|\$\(([\w.-]+)\)", replaced, text)


def _put(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
