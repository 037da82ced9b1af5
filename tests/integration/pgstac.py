"""A real STAC API for the tests: stac-fastapi over PostgreSQL with pgstac, on loopback, gone afterwards.

It needs what pip installs with the extra ``stac-server`` and PostgreSQL with PostGIS from the system.
Where either is missing, :func:`why_not` says which.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tests.ports import free_port

PYTHON = os.environ.get("CRYOSCALE_STAC_SERVER_PYTHON", sys.executable)
"""The interpreter that has the extra; another one than the tests' own where the two must not mix."""

START_S, STOP_S = 90.0, 20.0
"""Deadlines of a start and of a stop."""


def why_not() -> str | None:
    """Why the server cannot be started here, or None where it can."""
    binaries = _binaries()
    if binaries is None:
        return "PostgreSQL is not installed (Debian: postgresql-postgis)"
    share = subprocess.run([_config(binaries), "--sharedir"], capture_output=True, text=True, check=False)
    for extension in ("postgis", "btree_gist"):
        if not (Path(share.stdout.strip()) / "extension" / f"{extension}.control").is_file():
            return f"PostgreSQL's extension {extension} is not installed (Debian: postgresql-postgis)"
    code = "import stac_fastapi.pgstac.app, pypgstac.pypgstac, psycopg, uvicorn"
    try:
        found = subprocess.run([PYTHON, "-c", code], capture_output=True, timeout=60, check=False)
    except OSError as error:
        return f"{PYTHON}: {error}"
    if found.returncode:
        last = found.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"the extra stac-server is not installed ({''.join(last)})"
    if os.geteuid() == 0 and _server_user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return None


@contextmanager
def serving(collections: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The address of a STAC API that holds ``collections`` and ``items`` while the context is open."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cryoscale-stac-")))
        environment = stack.enter_context(_database(home))
        for name, documents in (("collections", collections), ("items", items)):
            file = home / f"{name}.ndjson"
            file.write_text("".join(f"{json.dumps(document)}\n" for document in documents), "utf-8")
            _pypgstac(["load", name, str(file), "--method", "upsert"], environment)
        yield stack.enter_context(_api(home, environment))


@contextmanager
def _database(home: Path) -> Iterator[dict[str, str]]:
    """PostgreSQL with an empty pgstac; yields the environment that clients find it by."""
    binaries, user = _binaries(), _server_user()
    assert binaries is not None
    data, password = home / "data", secrets.token_urlsafe(24)
    data.mkdir()
    (home / "password").write_text(password, "utf-8")
    identity: dict[str, Any] = {}
    if os.geteuid() == 0 and user is not None:
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for path in (home, data, home / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    quiet = ["--no-sync", "--encoding=UTF8", "--locale=C", "--username=cryoscale"]
    _checked(
        [binaries / "initdb", "-D", data, *quiet, "--auth=scram-sha-256", f"--pwfile={home / 'password'}"],
        cwd=home,
        **identity,
    )
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "jit": "off",
        "max_connections": 40,
        "shared_buffers": "32MB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    environment = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "cryoscale",
        "PGPASSWORD": password,
        "PGDATABASE": "postgres",
    }
    with _running([binaries / "postgres", "-D", data, *options], home / "postgres.log", cwd=home, **identity):
        ready = "\n".join(
            (
                "import psycopg",
                "with psycopg.connect(connect_timeout=5, autocommit=True) as c:",
                "    c.execute('CREATE EXTENSION IF NOT EXISTS postgis')",
                "    c.execute('CREATE EXTENSION IF NOT EXISTS btree_gist')",
            )
        )
        _wait_for_port(port, home / "postgres.log")
        _until([PYTHON, "-c", ready], environment, home / "postgres.log")
        _pypgstac(["migrate"], environment)
        yield environment


@contextmanager
def _api(home: Path, environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    command = [PYTHON, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    small_pools = {"DB_MIN_CONN_SIZE": "1", "DB_MAX_CONN_SIZE": "4"}
    url = f"http://127.0.0.1:{port}"
    with _running(command, home / "api.log", cwd=home, env={**environment, **small_pools}) as process:
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urlopen(f"{url}/_mgmt/ping", timeout=5):
                    break
            except (URLError, OSError) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the STAC API did not start: {_tail(home / 'api.log')}") from error
            time.sleep(0.1)
        yield url


@contextmanager
def _running(command: Sequence[Any], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context, and with this process where that is killed."""
    # SIGINT is PostgreSQL's fast shutdown (https://www.postgresql.org/docs/15/server-shutdown.html)
    guard = ["setpriv", "--pdeathsig", "INT", "--"] if shutil.which("setpriv") else []
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*guard, *map(str, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _until(command: Sequence[str], environment: dict[str, str], log: Path) -> None:
    """Repeats ``command`` until it succeeds: the server listens before it is ready."""
    deadline = time.monotonic() + START_S
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if not done.returncode:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start: {done.stderr.decode()[-500:]} {_tail(log)}")
        time.sleep(0.2)


def _wait_for_port(port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {_tail(log)}") from error
        time.sleep(0.1)


def _pypgstac(arguments: list[str], environment: dict[str, str]) -> None:
    start = "from pypgstac.pypgstac import cli; cli()"
    _checked([PYTHON, "-c", start, *arguments], env=environment)


def _checked(command: Sequence[Any], **options: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False, **options)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-1500:]
        raise RuntimeError(f"{Path(str(command[0])).name} {command[-1]} ended with {done.returncode}: {said}")


def _config(binaries: Path) -> str:
    own = binaries / "pg_config"
    return str(own) if own.is_file() else "pg_config"


def _binaries() -> Path | None:
    """The folder of initdb and postgres: Debian keeps them off the path, one folder a version."""
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    found = shutil.which("initdb")
    for folder in (*kept, *([Path(found).parent] if found else [])):
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


def _server_user() -> pwd.struct_passwd | None:
    """Who runs the database where the tests run as root: PostgreSQL refuses to."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _tail(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-1500:]
