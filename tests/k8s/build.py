"""Build etcd and a Kubernetes control plane out of Debian's packages: ``python -m tests.k8s.build``.

The last Debian source package that holds the whole vendored tree is that of 1.20.2 (bookworm); the later
ones hold kubectl alone. Nothing is installed: packages are unpacked beside the system, in the cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
BINARIES = ("etcd", *SERVERS)
DEBIAN_VERSION = "1.20.5+really1.20.2"
VERSION = "v1.20.2"
PACKAGES = ("golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev", "etcd-server")
TREE = "go/src/k8s.io/kubernetes"
OPENAPI = "k8s.io/kubernetes/pkg/generated/openapi"
# what carries the generator's mark and is no part of a server
NOT_SERVED = re.compile("testdata|sample-|code-generator|/test|example")


class BuildError(Exception):
    """A step failed; its last words."""


def cache() -> Path:
    """Where the binaries are kept: ``$CRYOSCALE_K8S_CACHE``, or in the user's cache."""
    return Path(os.environ.get("CRYOSCALE_K8S_CACHE") or Path.home() / ".cache/cryoscale-k8s").resolve()


def binaries() -> Path | None:
    """The folder of the finished build, None where there is none."""
    folder = cache() / VERSION
    return folder if all((folder / name).is_file() for name in BINARIES) else None


def build() -> Path:
    """The folder of the binaries, which are made first where they are missing (some 3 minutes on 2 cores).

    Raises:
        BuildError: a step failed.
    """
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two builds at once the second finds the work done
        found = binaries()
        return found if found is not None else _build(cache() / "work")


def _build(work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with _timed("download"):
        _download(work)
    with _timed("unpack"):
        _unpack(work)
    go = _Go(work)
    with _timed("openapi"):
        _generate_openapi(go, work)
    for name in SERVERS:
        with _timed(name):
            go.build(f"./cmd/{name}", "-ldflags", _stamp())
    shutil.copy(work / "root/usr/bin/etcd", work / "bin/etcd")
    target = cache() / VERSION
    shutil.rmtree(target, ignore_errors=True)
    (work / "bin").rename(target)
    shutil.rmtree(work)
    return target


@contextmanager
def _timed(step: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{step:26} {time.monotonic() - began:5.0f} s", flush=True)


def _run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        told = (done.stdout + done.stderr)[-3000:]
        raise BuildError(f"{' '.join(words)[:200]} ended with {done.returncode}:\n{told}")
    return done.stdout


def _download(work: Path) -> None:
    apt = _apt(work / "apt")
    into = work / "packages"
    into.mkdir()
    _run("apt-get", *apt, "update", cwd=into)
    shown = _run("apt-cache", *apt, "showsrc", "--only-source", "kubernetes", cwd=into)
    versions = re.findall(r"^Version: (\S+)", shown, re.MULTILINE)
    version = next((found for found in versions if found.startswith(DEBIAN_VERSION)), None)
    if version is None:
        raise BuildError(f"no source package kubernetes {DEBIAN_VERSION} among {versions}: Debian 12 has it")
    _run("apt-get", *apt, "source", "--download-only", f"kubernetes={version}", cwd=into)
    _run("apt-get", *apt, "download", *PACKAGES, cwd=into)


def _apt(folder: Path) -> list[str]:
    """Options for sources of its own: those of the machine, with their source packages switched on."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    release = found.group(1) if found else "bookworm"
    suites = {release, f"{release}-updates", f"{release}-security"}
    for name in ("parts", "lists", "cache"):
        (folder / name).mkdir(parents=True)
    lines, stanzas = [], []
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        text = path.read_text() if path.is_file() else ""
        if path.suffix == ".sources":
            stanzas += [_with_source(one) for one in re.split(r"\n\s*\n", text) if _suites(one) & suites]
        else:
            lines += [line for line in text.splitlines() if _suites_of_line(line) & suites]
    both = [*lines, *(line.replace("deb", "deb-src", 1) for line in lines)]
    (folder / "own.list").write_text("\n".join(both) + "\n")
    (folder / "parts/own.sources").write_text("\n\n".join(stanzas) + "\n")
    places = {
        "Etc::sourcelist": "own.list",
        "Etc::sourceparts": "parts",
        "State::lists": "lists",
        "Cache": "cache",
    }
    return [f"-oDir::{key}={folder / name}" for key, name in places.items()]


def _suites(stanza: str) -> set[str]:
    found = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def _suites_of_line(line: str) -> set[str]:
    found = re.match(r"deb\s+(?:\[.*?\]\s+)?\S+\s+(\S+)", line)
    return {found.group(1)} if found else set()


def _with_source(stanza: str) -> str:
    return re.sub(r"^Types:.*$", "Types: deb deb-src", stanza.strip(), flags=re.MULTILINE)


def _unpack(work: Path) -> None:
    (work / TREE).mkdir(parents=True)
    for package in sorted((work / "packages").glob("*.deb")):
        _run("dpkg-deb", "-x", package, work / "root", cwd=work)
    archive = next((work / "packages").glob("kubernetes_*.orig.tar.*"))
    _run("tar", "xf", archive, "--strip-components=1", "-C", work / TREE, cwd=work)
    # The vendored reflect2 1.0.1 ends every program at once when it is built with Go 1.18 or later
    # ; Debian's 1.0.2 does not.
    vendored = work / TREE / "vendor/github.com/modern-go/reflect2"
    shutil.rmtree(vendored)
    debians = work / "root/usr/share/gocode/src/github.com/modern-go/reflect2"
    shutil.copytree(debians, vendored, ignore=shutil.ignore_patterns("*_test.go"))


class _Go:
    """The unpacked compiler, offline, in the old mode of a GOPATH, by which a tree of 1.20 is built."""

    def __init__(self, work: Path) -> None:
        self.tree, self._into = work / TREE, work / "bin"
        root = work / "root/usr/lib/go-1.19"
        self._go = root / "bin/go"
        self.env = {
            **os.environ,
            "GOROOT": str(root),
            "GOPATH": str(work / "go"),
            "GOCACHE": str(work / "gocache"),
            "GOFLAGS": "",
            "GO111MODULE": "off",
            "GOPROXY": "off",
            "CGO_ENABLED": "0",
        }

    def build(self, package: str, *flags: str) -> None:
        _run(self._go, "build", *flags, "-o", f"{self._into}/", package, cwd=self.tree, env=self.env)


def _generate_openapi(go: _Go, work: Path) -> None:
    """Make ``pkg/generated/openapi``, which the tarball leaves out, with the vendored generator."""
    go.build("./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
    mark = ("grep", "-rl", "--include=*.go", "+k8s:openapi-gen=true", "pkg", "staging/src/k8s.io")
    folders = {
        os.path.dirname(name) for name in _run(*mark, cwd=go.tree).split() if not NOT_SERVED.search(name)
    }
    inputs = sorted(
        f"k8s.io/kubernetes/vendor/{folder.removeprefix('staging/src/')}"
        if folder.startswith("staging/src/")
        else f"k8s.io/kubernetes/{folder}"
        for folder in folders
    )
    generator = work / "bin/openapi-gen"
    header = "hack/boilerplate/boilerplate.generatego.txt"
    told = work / "violations"
    command = (
        generator,
        "-O",
        "zz_generated.openapi",
        "-i",
        ",".join(inputs),
        "-p",
        OPENAPI,
        "-h",
        header,
        "-r",
        told,
    )
    _run(*command, cwd=go.tree, env=go.env)
    generator.unlink()


def _stamp() -> str:
    """Linker flags: no symbols, and the version, which is not known to a tree without git."""
    vendor, major, minor = "k8s.io/kubernetes/vendor/k8s.io", *VERSION.lstrip("v").split(".")[:2]
    values = {
        "component-base/version.gitVersion": VERSION,
        "component-base/version.gitMajor": major,
        "component-base/version.gitMinor": minor,
        "client-go/pkg/version.gitVersion": VERSION,
    }
    return "-s -w " + " ".join(f"-X {vendor}/{key}={value}" for key, value in values.items())


def main() -> None:
    """Build, and say where it lies and how long it took."""
    began = time.monotonic()
    try:
        folder = build()
    except BuildError as error:
        sys.exit(f"tests.k8s.build: {error}")
    print(f"{folder} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
