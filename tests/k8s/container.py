"""A container as the kernel sees one: own processes, mounts, host name, and a root made of this machine's.

What is missing from a real one: the image (its files are this machine's, seen through an overlay that takes
what is written), limits of memory and processors, and a network of its own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SHM = "64m"
"""What a container runtime gives as shared memory where nothing else is mounted there."""


@dataclass(frozen=True)
class Image:
    """What an image says of itself, and the folders of this machine that stand for its files.

    Attributes:
        folders: seen at their own paths, whatever the pod mounts over them, and by any user.
        kept: folders of this machine by where containers see them and may write: what compilers keep there
            need not be made by every pod anew.
    """

    entrypoint: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    user: int = 0
    folders: tuple[str, ...] = ()
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine at a path within the container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Security:
    """Who a container runs as and what it may do, out of the pod's security contexts and the image."""

    user: int
    group: int
    groups: tuple[int, ...] = ()
    read_only_root: bool = False
    no_new_privileges: bool = False
    drop_capabilities: bool = False


@dataclass(frozen=True)
class Start:
    """Everything that it takes to start a container."""

    argv: tuple[str, ...]
    env: dict[str, str]
    image: Image
    mounts: tuple[Mount, ...]
    security: Security
    hostname: str
    hosts: Path
    folder: Path
    log: Path
    workdir: str = "/"


class Container:
    """A container that was started.

    The first process has number 1, as in a real one: signals without a handler do not reach it, and with it
    everything else in the container ends.
    """

    def __init__(self, start: Start) -> None:
        start.folder.mkdir(parents=True, exist_ok=True)
        start.log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.security = start.log, start.security
        namespaces = (
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        )
        command = ["unshare", *namespaces, "sh", "-euc", _script(start), "sh", *start.argv]
        with open(start.log, "ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 and the signal's number where a signal ended it, as runtimes tell it."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """A signal to its first process alone."""
        first = self.first_process
        if first is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, number)

    @property
    def first_process(self) -> int | None:
        """Its number here; None where it has ended, or not yet begun."""
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def kill(self) -> None:
        """All of it, at once."""
        if self._process.poll() is None:
            # itself: it does not die with unshare any more once it has become another user
            self.signal(signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def run(self, argv: list[str], timeout_s: float) -> bool:
        """Whether a command within it succeeds, as probes and hooks ask."""
        first = self.first_process
        if first is None:
            return False
        into = ["nsenter", "-t", str(first), "-m", "-p", "-u", "-i", "-r", "-w"]
        who = [f"-S{self.security.user}", f"-G{self.security.group}"]
        try:
            env = dict(
                one.split("=", 1) for one in Path(f"/proc/{first}/environ").read_text().split("\0") if one
            )
            done = subprocess.run(
                [*into, *who, *argv],
                env=env,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
        except (subprocess.TimeoutExpired, OSError):
            return False
        return done.returncode == 0


def _script(start: Start) -> str:
    """What the shell does as the container's first process, before it becomes the program."""
    own, root = shlex.quote(str(start.folder)), shlex.quote(str(start.folder / "root"))
    lines = [
        f"mount -t tmpfs tmpfs {own}",
        f"mkdir {own}/upper {own}/work {root}",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={own}/upper,workdir={own}/work {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /sys {root}/sys",
        f"mount --rbind /dev {root}/dev",
        f"mount -t tmpfs -o size={SHM},mode=1777 tmpfs {root}/dev/shm",
        # an empty /tmp, as in an image; the machine's own may hold the tests
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
        f"echo 'hosts: files' > {root}/etc/nsswitch.conf",
        f"hostname {shlex.quote(start.hostname)}",
    ]
    hosts = Mount(start.hosts, "/etc/hosts", True)
    for mount in sorted((*start.mounts, hosts), key=lambda one: one.target.count("/")):
        lines += _bind(root, mount)
    for target, source in start.image.kept.items():
        lines += _bind(root, Mount(Path(source), target))
    for folder in start.image.folders:
        lines += [*_bind(root, Mount(Path(folder), folder, True)), *_passable(root, folder)]
    if start.security.read_only_root:
        given = {mount.target for mount in start.mounts}
        lines += [f"mount -o remount,bind,ro {root}{place}" for place in ("", "/tmp") if place not in given]
    env = [shlex.quote(f"{name}={value}") for name, value in start.env.items()]
    become = [*_become(start.security), "env", "-i", "-C", shlex.quote(start.workdir), *env]
    lines.append(f'exec chroot {root} {" ".join(become)} "$@"')
    return "\n".join(lines)


def _bind(root: str, mount: Mount) -> list[str]:
    source, target = shlex.quote(str(mount.source)), f"{root}{shlex.quote(mount.target)}"
    if mount.source.is_file():
        made = [
            f"mkdir -p {root}{shlex.quote(os.path.dirname(mount.target))}",
            f"[ -e {target} ] || touch {target}",
        ]
    else:
        made = [f"mkdir -p {target}"]
    bound = [*made, f"mount --bind {source} {target}"]
    return [*bound, f"mount -o remount,bind,ro {target}"] if mount.read_only else bound


def _passable(root: str, folder: str) -> list[str]:
    """The folders above an image's may belong to root alone on this machine; in an image they do not."""
    parents = [str(parent) for parent in Path(folder).parents if str(parent) != "/"]
    return [f"chmod a+x {root}{shlex.quote(parent)}" for parent in reversed(parents)]


def _become(security: Security) -> list[str]:
    words = ["setpriv", f"--reuid={security.user}", f"--regid={security.group}"]
    words.append(f"--groups={','.join(map(str, security.groups))}" if security.groups else "--clear-groups")
    if security.no_new_privileges:
        words.append("--no-new-privs")
    if security.drop_capabilities:
        words += ["--bounding-set=-all", "--inh-caps=-all"]
    return words
