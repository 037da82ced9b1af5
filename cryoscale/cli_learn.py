"""The commands that make and judge models; :mod:`cryoscale.cli` takes them among its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoscale.options import JsonOption, OutArgument, output, print_json

app = typer.Typer()


@app.command()
def models(json_: JsonOption = False) -> None:
    """Name the models that there are, with their default arguments and their size."""
    from cryoscale.models.listing import list_models

    found = list_models()
    if json_:
        print_json([model.to_dict() for model in found])
    else:
        typer.echo("\n".join(map(str, found)))


@app.command()
def samples(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Output folders of finished runs.")],
    out: Annotated[str, typer.Option(help="Patch set to write, X.zarr; X.png and X.json beside it.")],
    outlines: Annotated[list[Path] | None, typer.Option(help="Glacier outlines (RGI 7); repeatable.")] = None,
    debris: Annotated[list[Path] | None, typer.Option(help="Outlines of debris; repeatable.")] = None,
    corrections: Annotated[
        list[Path] | None, typer.Option(help="Polygons with a column class, which win over the rules.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Label rasters in place of outlines: a file, or a folder of <epsg>.tif."),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Take the nearest pixel of a truth off the grid.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Take the PCA basis of these weights, to fine-tune them.")
    ] = None,
    patch: Annotated[int, typer.Option(help="Edge of a patch, pixels.")] = 256,
    stride: Annotated[int, typer.Option(help="Distance between patches, pixels.")] = 128,
    min_labelled: Annotated[float, typer.Option(help="Least share of labelled pixels in a patch.")] = 0.2,
    rim_px: Annotated[float, typer.Option(help="Do not learn this close to outlines, pixels.")] = 0.0,
    max_water_slope_deg: Annotated[
        float | None, typer.Option(help="No water on steeper ground, e.g. 15; default: the published rule.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="blocked, random (the paper's; leaks) or leave-one-out.")
    ] = "blocked",
    held_out: Annotated[
        list[str] | None, typer.Option(help="Name of a run to test on, for leave-one-out; repeatable.")
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share for validation.")] = 0.2,
    test_fraction: Annotated[float, typer.Option(help="Share for test.")] = 0.0,
    block_px: Annotated[
        int, typer.Option(help="Edge of the blocks of ground that are split, pixels.")
    ] = 1024,
    gap_px: Annotated[
        int | None, typer.Option(help="Least distance between splits, pixels; default: no source is shared.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    workers: Annotated[int, typer.Option(help="Blocks read at a time.")] = 2,
    json_: JsonOption = False,
) -> None:
    """Cut finished runs into labelled patches to train on, with a picture sheet to look at."""
    from cryoscale.console import Console
    from cryoscale.learn.sampleset import checked
    from cryoscale.sampling import make_samples

    given = {
        "outlines": outlines or (),
        "debris": debris or (),
        "corrections": corrections or (),
        "truth": truth,
        "resample": resample,
        "weights": weights,
        "patch_px": patch,
        "stride_px": stride,
        "min_labelled": min_labelled,
        "rim_px": rim_px,
        "max_water_slope_deg": max_water_slope_deg,
        "split": split,
        "held_out": held_out or (),
        "fraction": fraction,
        "test_fraction": test_fraction,
        "block_px": block_px,
        "dtype": dtype,
        "seed": seed,
        "workers": workers,
    }
    config = checked(**given, **({} if gap_px is None else {"gap_px": gap_px}))
    console = Console(quiet=json_)
    with console:
        summary = make_samples([output(run) for run in runs], output(out), config, on_stage=console.stage)
    if json_:
        print_json(summary)
    else:
        console.samples(summary)
    raise typer.Exit(1 if summary["blocks_left_out"] or summary["scenes_failed"] else 0)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The training's YAML file.")],
    out: Annotated[Path, typer.Option(help="The weights file to write (.safetensors).")],
    json_: JsonOption = False,
) -> None:
    """Train a model; writes weights and their card."""
    from cryoscale.console import Console
    from cryoscale.learn.train import speaks, train_from_config

    card = train_from_config(config, out, quiet=json_)
    if not speaks():
        return
    if json_:
        print_json(card.model_dump(mode="json"))
    else:
        Console().card(card, str(out))


@app.command()
def evaluate(
    run: OutArgument,
    truth: Annotated[Path, typer.Option(help="Label raster, or a folder of them, <epsg>.tif each.")],
    out: Annotated[
        str | None, typer.Option(help="Where to write; by default evaluation/ in the run.")
    ] = None,
    outlines: Annotated[
        Path | None, typer.Option(help="Glacier outlines with ids, e.g. RGI; by default bodies of true ice.")
    ] = None,
    strata: Annotated[
        Path | None,
        typer.Option(help="Folder of [<epsg>_]debris_thickness_m.tif, slope_deg.tif, shadow.tif."),
    ] = None,
    without: Annotated[
        str,
        typer.Option(
            help="Predict again without: each, or a list of thermal, velocity, insar, terrain, "
            "all-but-optical, calibration."
        ),
    ] = "",
    weights: Annotated[
        str | None, typer.Option(help="The run's weights, where they have moved (for --without).")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Score a finished run's map against label rasters; writes JSON, tables and pictures."""
    from cryoscale.console import Console
    from cryoscale.judge import Wanted, judge

    console = Console(quiet=json_)
    wanted = Wanted(output(out) if out else None, outlines, strata, without, weights)
    with console:
        found = judge(output(run), truth, wanted, on_progress=console.progress, on_stage=console.stage)
    if json_:
        print_json(found.to_dict())
    else:
        console.evaluation(found.found.scores)
        console.judgement(found)


WeightsArgument = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="The weights (.safetensors).")]
PatchesOption = Annotated[str, typer.Option(help="The patch set, a folder or fsspec URL.")]


@app.command()
def importance(
    weights: WeightsArgument,
    patches: PatchesOption,
    split: Annotated[
        str | None, typer.Option(help="train, validation, test or unused; default: test if there is one.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Permutations of each channel.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the permutations.")] = 0,
    by: Annotated[str, typer.Option(help="planes, from patch to patch; or single pixels.")] = "planes",
    limit: Annotated[int | None, typer.Option(min=2, help="At most so many patches.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for importance.json and .png.")] = None,
    json_: JsonOption = False,
) -> None:
    """Say which channels a model lives on: the drop of its scores when one is permuted."""
    from cryoscale.console import Console
    from cryoscale.learn.importance import Permuting
    from cryoscale.learn.importance import importance as measure
    from cryoscale.learn.importance_report import LEADING, save
    from cryoscale.write.usable import require_usable

    how = Permuting(repeats, seed, by)
    if out is not None:
        require_usable(out)  # a folder that cannot be is told before the work
    with Console(quiet=json_) as console:
        progress = console.counting("permutations")
        found = measure(weights, patches, split=split, limit=limit, how=how, progress=progress)
    if json_:
        print_json(found.to_dict())
    else:
        console.importance(found, LEADING)
    if out is not None:
        save(found, out)  # once all is told, so that a disk that has filled up meanwhile loses no figure


@app.command()
def calibrate(
    weights: WeightsArgument,
    patches: PatchesOption,
    split: Annotated[str, typer.Option(help="What to fit on.")] = "validation",
    held_out: Annotated[str, typer.Option(help="What to judge on beside it.")] = "test",
    flips: Annotated[
        bool, typer.Option("--flips", help="Fit the curve for runs with flips; the temperature stays.")
    ] = False,
    mc_dropout: Annotated[
        int | None, typer.Option(min=2, max=1000, help="The same for runs with so many samples of dropout.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Weights with the new card; without it nothing is written.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Fit temperature and confidence of finished weights; the tensors stay as they are."""
    from cryoscale.console import Console
    from cryoscale.learn.calibrate import Asked
    from cryoscale.learn.calibrate import calibrate as fit

    asked = Asked(flips, mc_dropout or 0)
    with Console(quiet=json_) as console:
        progress = console.counting("patches")
        found = fit(weights, patches, split=split, held_out=held_out, asked=asked, out=out, progress=progress)
    if json_:
        print_json(found.to_dict())
    else:
        console.calibrated(found)


@app.command()
def confidence(
    run: OutArgument,
    truth: Annotated[Path, typer.Option(help="Label raster, or a folder of them, <epsg>.tif each.")],
    out: Annotated[Path | None, typer.Option(help="Folder for confidence.json and .png.")] = None,
    json_: JsonOption = False,
) -> None:
    """Say which sign of doubt finds a map's errors: softmax, entropy, or tiles that disagree."""
    from cryoscale.console import Console
    from cryoscale.judge import require_finished
    from cryoscale.learn.confidence import error_prediction
    from cryoscale.learn.confidence_report import save
    from cryoscale.results import Run
    from cryoscale.write.usable import require_usable

    if out is not None:
        require_usable(out)  # a folder that cannot be is told before the work
    require_finished(Run(output(run)))
    found = error_prediction(output(run), truth)
    if json_:
        print_json(found.to_dict())
    else:
        Console().error_prediction(found)
    if out is not None:
        save(found, out)  # once all is told, so that a disk that has filled up meanwhile loses no figure
