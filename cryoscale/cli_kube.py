"""``cryoscale logs``, and what ``run --detach`` and ``status --job`` do, for :mod:`cryoscale.cli`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryoscale.options import OutArgument, output

if TYPE_CHECKING:
    from cryoscale.kube.following import Submission
    from cryoscale.kube.job import Submitted

app = typer.Typer()

NamespaceOption = Annotated[
    str | None, typer.Option(help="Of Kubernetes; default: that of the kubeconfig's context.")
]


@app.command()
def logs(
    out: OutArgument,
    namespace: NamespaceOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the Job is over, whatever pod drives.")
    ] = False,
) -> None:
    """Print what the driver of a run says that was submitted with run --detach, from wherever one is."""
    from cryoscale.cluster import run_label
    from cryoscale.kube.api import connected
    from cryoscale.kube.following import driver_log

    where = output(out)
    with connected(namespace) as kube, suppress(KeyboardInterrupt):  # how one stops to look; the run goes on
        for line in driver_log(kube, run_label(where), where, follow=follow):
            typer.echo(line)


def submission(out: str, namespace: str | None) -> Submission:
    """What the Job of a run and its pods do."""
    from cryoscale.cluster import run_label
    from cryoscale.kube.api import connected
    from cryoscale.kube.following import look_up

    with connected(namespace) as kube:
        return look_up(kube, run_label(out))


def detach(config: Path, out: str, options: Sequence[str], refused: dict[str, Any]) -> Submitted:
    """Have a Job drive the run of a configuration.

    Args:
        config: the run's YAML file.
        out: where it is to lie.
        options: more of ``cryoscale run``, for the driver.
        refused: options that a driver that is started again would do again, or that nobody would see.

    Raises:
        InputError: one of these was given, or the run cannot be submitted.
    """
    from cryoscale.cluster import run_label
    from cryoscale.config import read_config
    from cryoscale.errors import InputError
    from cryoscale.kube.job import submit
    from cryoscale.write.usable import require_run_folder

    require_run_folder(out)
    for name, value in refused.items():
        if value:
            raise InputError(
                f"{name} with --detach, whose driver may be started again",
                "what can be done twice",
                "leave it out, or run it here",
            )
    found = read_config(config)
    document = found.model_dump(mode="json", exclude_none=True)
    return submit(document, config.resolve().parent, found.cluster_spec(), out, run_label(out), options)
