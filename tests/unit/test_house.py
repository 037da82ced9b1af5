"""The house: who may import whom, how quick the door opens, how clean the rooms are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cryoscale"

STAGES = {"read", "features", "models", "infer", "write", "learn", "simulate", "view"}
GROUND = {"errors", "grid", "kernel", "patience", "collecting", "crew", "document", "room", "terminal"}
# What a stage may import beyond the ground and itself, with the reason.
BEYOND = {
    # training and evaluation run the production path from end to end
    "learn": {"read", "features", "models", "infer", "write", "simulate"},
    # it shows what was written
    "view": {"write"},
    # a tile that is flipped takes its aspect along
    "models/variants": {"features"},
    # the actor holds a model, and is handed what channels are made of
    "infer/actor": {"models", "features"},
    # there is a map where the optical channels are, which the table of channels tells
    "infer/predict": {"features"},
    # it makes on a device what they make on a worker
    "infer/derive": {"features"},
}
# The storeys above the stages, lowest first: each imports only what lies below it.
STOREYS = [
    "region",
    "settings",
    "dates",
    "roster",
    "records",
    "processor",
    "ledger",
    "curve",
    "lease",
    "live",
    "journal",
    "metrics",
    "session",
    "outcome",
    "pace",
    "resume",
    "sealing",
    "scenes",
    "kube",
    "leaving",
    "keeping",
    "forking",
    "cluster",
    "plan",
    "manifest",
    "candidates",
    "task",
    "blame",
    "dealing",
    "waiting",
    "basis",
    "specimen",
    "deriving",
    "trial",
    "blocktask",
    "preload",
    "machines",
    "fleet",
    "flights",
    "featurise",
    "drive",
    "inventories",
    "reporting",
    "drawings",
    "cataloguing",
    "finish",
    "ending",
    "agreement",
    "verify",
    "slices",
    "preparation",
    "pipeline",
    "results",
    "archive",
    "watch",
    "signals",
    "forecast",
    "repredict",
    "judge",
    "sources",
    "sampling",
    "complaint",
    "cluster_config",
    "config",
    "redraw",
    "api",
    "demo",
    "bench",
    "console",
    "options",
    "cli_learn",
    "cli_archive",
    "cli_plan",
    "cli_view",
    "cli_kube",
    "cli",
    "__main__",
]
TORCH_FREE = ["read", "features", "write", "infer/tiles", "infer/blend", "infer/predict", "infer/encode"]


def modules() -> dict[str, Path]:
    """Every module of the package by its path below it, without the suffix."""
    return {str(p.relative_to(PACKAGE).with_suffix("")): p for p in PACKAGE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere, in full dotted names; type-checking imports left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own(names: set[str]) -> set[str]:
    """First room below the package of each import of our own."""
    return {name.split(".")[1] for name in names if name.startswith("cryoscale.")}


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_what_lies_below_it(name: str) -> None:
    room = name.split("/")[0]
    found = own(imports_of(modules()[name]))
    if room in STAGES:
        allowed = GROUND | {room} | BEYOND.get(room, set()) | BEYOND.get(name, set())
    elif room in GROUND:
        allowed = {"errors"}
    elif room in STOREYS:
        allowed = GROUND | STAGES | {room} | set(STOREYS[: STOREYS.index(room)])
    else:
        assert name == "__init__", f"{name} has no place in the house: add it to STOREYS"
        allowed = {"api", "results"}
    assert found <= allowed, f"{name} imports {sorted(found - allowed)}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_torch_is_not_imported_where_it_does_not_belong(name: str) -> None:
    if any(name == free or name.startswith(free + "/") for free in TORCH_FREE):
        assert not {i for i in imports_of(modules()[name]) if i.split(".")[0] == "torch"}


def test_importing_cryoscale_loads_nothing_heavy() -> None:
    heavy = "{'torch','xarray','dask','rasterio','numpy','pandas'}"
    code = f"import sys, cryoscale; sys.exit(' '.join(sorted({heavy} & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_of_the_command_line_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv=['cryoscale','run','--help']\n"
        "from cryoscale.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "sys.exit(' '.join(sorted({'torch','xarray','distributed','rasterio'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["run absent.yaml --out run", "features absent.yaml --out x", "status absent"]
)
def test_what_can_be_told_without_the_large_libraries_is_told_before_they_are_imported(
    tmp_path: Path, command: str
) -> None:
    """A slip in what was typed is told in half a second, not after the three that a run's imports take."""
    code = (
        f"import sys; sys.argv={['cryoscale', *command.split()]!r}\n"
        "from cryoscale.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "large = {'torch', 'xarray', 'distributed', 'rasterio', 'numba', 'matplotlib', 'pandas', 'scipy'}\n"
        "sys.exit(' '.join(sorted(large & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "absent" in done.stderr


def test_nothing_is_ever_unpickled() -> None:
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    for name, path in modules().items():
        assert not {i.split(".")[0] for i in imports_of(path)} & forbidden, name
        assert "torch.load(" not in path.read_text(encoding="utf-8"), name


def test_nobody_asks_a_client_for_its_workers_in_the_way_that_may_answer_with_none() -> None:
    """A timer of Dask's clears what ``scheduler_info`` hands out: see :func:`cryoscale.roster.workers_at`."""
    for folder in ("cryoscale", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            asked = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "scheduler_info"]
            assert not asked, path


@pytest.mark.parametrize("page", ["README.md", "k8s/README.md"])
def test_what_the_readme_points_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose):
        if target.startswith("#"):
            assert target[1:] in titles, target
        else:
            assert (ROOT / page).parent.joinpath(target).exists(), target
    for path in re.findall(r"`((?:cryoscale|benchmarks|deploy|k8s|tests)/[\w./-]+)`", prose):
        assert (ROOT / path).exists() or (ROOT / page).parent.joinpath(path).exists(), path


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_the_linters_have_nothing_to_say(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
