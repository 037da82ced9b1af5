"""Carry out a Dockerfile's steps without an engine, in a folder: does what it installs install, and start?

    python deploy/check.py deploy/Dockerfile [--keep FOLDER]

Copies what it copies and runs what it runs, stage after stage, with the image's paths turned into such
below one folder and a fresh environment for the base image's Python. Then its entry point, its health
check, a worker's and a driver's commands and the weights are tried as another user, or one without
powers, from a folder that is made read-only. Steps for Debian
(apt-get, useradd) are not run; they are named instead. Takes some minutes, and the network or
PIP_FIND_LINKS for the packages.

Needs the package `dockerfile` (extra `test`).
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import dockerfile

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("/src", "/wheel", "/constraints.txt", "/opt/cryoscale", "/data")
"""Paths of the image that the steps name; what they say of /tmp and /usr is this machine's own."""
READY_S = 180.0
OF_DEBIAN = ("apt-get", "groupadd", "useradd")
USER = 10001


@dataclass
class Image:
    """What the steps make, below a folder."""

    folder: Path
    stages: dict[str, Path] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    stage: Path = Path()
    work: str = "/src"
    entry: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()

    def at(self, text: str) -> str:
        """A text of the Dockerfile with the image's paths as they lie here."""
        for place in PLACES:
            text = text.replace(place, f"{self.stage}{place}")
        return text

    def carry_out(self, step: dockerfile.Command) -> None:
        """One instruction."""
        getattr(self, f"_{step.cmd.lower()}", lambda _: None)(step)

    def _from(self, step: dockerfile.Command) -> None:
        name = step.value[2] if len(step.value) == 3 else "final"
        # environments know their own path, so that all stages lie in one place and are copied by name alone
        self.stage = self.folder / "root"
        self.stage.mkdir(exist_ok=True)
        self.stages[name] = self.stage
        self.variables = {}
        print(f"stage {name}", flush=True)

    def _arg(self, step: dockerfile.Command) -> None:
        for value in step.value:
            name, given, default = value.partition("=")
            self.arguments[name] = os.environ.get(name, default.strip('"') if given else "")

    def _env(self, step: dockerfile.Command) -> None:
        for name, value in zip(step.value[::2], step.value[1::2], strict=True):
            self.variables[name] = self.at(value).replace("$PATH", os.environ["PATH"])

    def _workdir(self, step: dockerfile.Command) -> None:
        self.work = step.value[0]

    def _copy(self, step: dockerfile.Command) -> None:
        if step.flags:  # from another stage, which lies in the same folder
            return
        *sources, target = step.value
        into = Path(self.at(target) if target.startswith("/") else self.at(f"{self.work}/{target}"))
        for source in sources:
            found = ROOT / source
            if found.is_dir():
                shutil.copytree(found, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place = into / found.name if target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, place)

    def _run(self, step: dockerfile.Command) -> None:
        (text,) = step.value
        if any(word in text for word in OF_DEBIAN):
            print(f"  left out: {text[:100]}", flush=True)
            return
        print(f"  $ {text[:150]}", flush=True)
        base = self.folder / "python/bin"
        given = {name: value for name, value in self.arguments.items() if value}
        environment = {**os.environ, **given, **self.variables}
        environment["PATH"] = f"{base}:{os.environ['PATH']}"
        work = Path(self.at(self.work))
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run(["sh", "-c", self.at(text)], env=environment, cwd=work, check=True)

    def _entrypoint(self, step: dockerfile.Command) -> None:
        self.entry = step.value

    def _cmd(self, step: dockerfile.Command) -> None:
        self.command = step.value

    def _healthcheck(self, step: dockerfile.Command) -> None:
        self.health = step.value[1:]


def build(path: Path, folder: Path) -> Image:
    """Carry out all steps."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], check=True)
    image = Image(folder)
    for step in dockerfile.parse_file(str(path)):
        image.carry_out(step)
    return image


_OPENVINO = """
import torch
from cryoscale.models.openvino import OpenVinoNetwork

print(OpenVinoNetwork(torch.nn.Conv2d(3, 2, 3).eval(), "fp32")(torch.zeros(1, 3, 8, 8)).shape)
"""


def trials(image: Image) -> list[list[str]]:
    """Commands that the image has to be able to run."""
    bake = image.at("/opt/cryoscale/deploy/bake_weights.py")
    demo = _weights(image)
    modules = "cryoscale.pipeline, cryoscale.kube.api, cryoscale.preload, kr8s, s3fs, prometheus_client"
    extras = image.arguments["EXTRAS"].split(",")
    return [
        [*image.entry, *image.command],
        [image.at(word) for word in image.health],
        [*image.entry, "dask", "scheduler", "--help"],
        [*image.entry, "dask", "worker", "--help"],
        [*image.entry, "cryoscale", "run", "--help"],
        [*image.entry, "python", "-c", f"import {modules}"],
        *([[*image.entry, "python", "-c", _OPENVINO]] if "cpu" in extras else []),
        [*image.entry, "python", bake, demo, "baked/demo.safetensors"],
        [*image.entry, "python", bake, demo, "baked/demo.safetensors"],
    ]


def attempt(image: Image) -> bool:
    """Run the trials as somebody who can write to a home of their own and nowhere else."""
    root = image.stage
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(root)], check=True)
    image.folder.chmod(0o755)
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **{name: value for name, value in image.variables.items() if name.isupper()},
            "HOME": home,
            "NUMBA_CACHE_DIR": f"{home}/numba",
            "MPLCONFIGDIR": f"{home}/matplotlib",
            "DASK_TEMPORARY_DIRECTORY": f"{home}/dask",
        }
        other = _other_user(image, Path(home))
        good = True
        for command in trials(image):
            done = subprocess.run(
                [*other, "env", *command], cwd=home, env=environment, capture_output=True, text=True
            )
            said = (done.stdout + done.stderr).strip().splitlines() or [""]
            print(f"  {done.returncode} {json.dumps(command)[:110]}: {said[-1][:120]}", flush=True)
            good = good and done.returncode == 0
        written = subprocess.run([*other, "touch", image.at("/opt/cryoscale/x")], capture_output=True)
        print(f"  it cannot be changed: {written.returncode != 0}")
        return serves(image, [*other, "env"], environment, home) and good and written.returncode != 0


def serves(image: Image, other: list[str], environment: dict[str, str], home: str) -> bool:
    """Whether a worker joins a scheduler, is ready with its model, and goes when it is told."""
    comm, pages, ready = (_free_port() for _ in range(3))
    environment |= {"DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{comm}", "CRYOSCALE_WEIGHTS": _weights(image)}
    host = ["--host", "127.0.0.1"]
    scheduler = ["dask", "scheduler", *host, "--port", str(comm), "--dashboard-address", f"127.0.0.1:{pages}"]
    worker = ["dask", "worker", *host, "--no-nanny", "--nthreads", "1", "--resources", "GPU=1"]
    worker += ["--dashboard-address", f"127.0.0.1:{ready}", "--preload", "cryoscale.preload"]
    started = []
    with open(f"{home}/said", "w+") as said:
        try:
            for command in (scheduler, worker):
                full = [*other, *image.entry, *command]
                started.append(subprocess.Popen(full, cwd=home, env=environment, stdout=said, stderr=said))
            joined = _answers(f"http://127.0.0.1:{ready}/ready")
            codes = []
            for process in reversed(started):
                process.terminate()
                codes.append(process.wait(timeout=60))
        finally:
            for process in started:
                process.kill()
        said.seek(0)
        print(f"  a worker with a model is ready: {joined}; worker and scheduler end on SIGTERM with {codes}")
        if not joined:
            print(said.read())
    return joined and codes == [0, 0]


def _answers(address: str) -> bool:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
        time.sleep(0.5)
    return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _weights(image: Image) -> str:
    (found,) = glob.glob(
        image.at("/opt/cryoscale/lib/python3*/site-packages/cryoscale/models/demo.safetensors")
    )
    return found


def _other_user(image: Image, home: Path) -> list[str]:
    """What makes of root somebody who may not write to others' files."""
    if os.geteuid() != 0:
        return []
    interpreter = Path(image.at("/opt/cryoscale/bin/python")).resolve()
    if all(one.stat().st_mode & 0o001 for one in interpreter.parents):
        os.chown(home, USER, USER)
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    print(f"  {interpreter} is closed to others: root without any of its powers stands in for them")
    return ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


def main() -> int:
    """Check one Dockerfile; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--keep", type=Path, help="an empty folder in which to leave what was made")
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="image-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        image = build(asked.dockerfile.resolve(), folder)
        size = subprocess.run(
            ["du", "-sm", image.at("/opt/cryoscale")], capture_output=True, text=True, check=True
        )
        print(f"/opt/cryoscale: {size.stdout.split()[0]} MB")
        good = attempt(image)
    finally:
        if asked.keep is None:
            subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
            shutil.rmtree(folder)
    print("all of it works" if good else "something does not work")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
