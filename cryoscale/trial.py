"""``precision: auto`` here: ways to run the network are tried on blocks of the run before it begins.

What is chosen becomes part of the run's identity, so that whoever goes on with it, elsewhere or later, runs
the same arithmetic. On CPUs a run too short to win the trial's own time back takes float32, untried. On a
GPU the network is tried as it is served there (:mod:`cryoscale.models.serving`), whatever the run's length;
of a cluster that is joined a GPU is asked to. Its CPUs take float32, untried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cryoscale.cluster import ACTOR_THREADS
from cryoscale.deriving import Derivation, is_open, outruns_intake, try_deriving
from cryoscale.errors import InputError, StoppedError
from cryoscale.grid import Block
from cryoscale.infer.actor import gpu_batch
from cryoscale.infer.hardware import let_go_of_memory
from cryoscale.infer.tiles import stride_px
from cryoscale.models.loading import load_predictor
from cryoscale.models.parity import REFERENCE, Choice, choose
from cryoscale.plan import Items
from cryoscale.roster import GPU, Workers
from cryoscale.settings import Settings
from cryoscale.specimen import Specimen, take

T = TypeVar("T")

WORTH = 7e9
"""Tiles times parameters from which on a trial is worth it: 5,000 tiles of the demo's network, 1.4 million, a
tenth of which a trial takes. Larger networks take longer for a tile, and win back more on each."""

WORTH_TILES = 300
"""Fewer are never worth it: a trial runs each of a dozen tiles in four ways, on one core."""

TRIAL_S = 900.0
"""How long a worker elsewhere may take for a trial; a network that is compiled takes a minute or so."""


@dataclass(frozen=True)
class Tried:
    """What a cluster's GPU showed: the precision to take, and what making channels there comes to."""

    choice: Choice
    derivation: Derivation | None = None

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        more = {} if self.derivation is None else {"derivation": self.derivation.to_dict()}
        return {**self.choice.to_dict(), **more}


def try_precisions(
    settings: Settings,
    model: Mapping[str, Any],
    items: Items,
    blocks: Sequence[Block],
    tell: Callable[[str], None],
) -> Choice | None:
    """The precision for a run over ``blocks``, by trial; None where there is nothing to try or to win.

    Args:
        settings: with ``precision: auto``; of the configuration as it was given.
        model: the record of the model, the run's own PCA basis in it.
        items: the scenes by year and modality.
        blocks: what is to be mapped in each year.
        tell: gets a line for each precision that was tried.
    """
    candidates, device = in_question(settings, model, len(blocks)), _device()
    if _is_tried_here(settings) and device == "cuda" and not settings.cluster.gpu_workers:
        tell("gpu_workers is 0 and there is a GPU, on which each CPU worker will hold a model; 1 holds one")
    if not candidates:
        return None
    sample = _taken(settings, model, items, blocks, tell)
    if sample is None:
        # what auto means where nothing was chosen: float32 on a CPU, and bf16 on a GPU
        return None if device == "cpu" else Choice(REFERENCE, ())
    try:
        return _told(_chosen(settings, candidates, sample), tell)
    except StoppedError:
        raise
    except Exception as error:  # e.g. a GPU that others fill: whether it suffices, the run will tell
        tell(f"no precision could be tried: {_reason(error)}")
        return None


def in_question(settings: Settings, model: Mapping[str, Any], blocks: int) -> list[str]:
    """Precisions beside float32 that a run on this machine will try; none where it takes one untried.

    Args:
        settings: of the run.
        model: its record, of which the name and the number of parameters matter.
        blocks: how many are to be mapped in each year.
    """
    if not _is_tried_here(settings):
        return []
    candidates = _candidates(settings, str(model["name"]))
    short = _device() == "cpu" and _is_short(settings, int(model["parameters"]), blocks)
    return [] if short else candidates


def untried(settings: Settings) -> str:
    """What ``precision: auto`` comes to where nothing was tried; still ``auto`` where it is not known yet.

    That is so of a cluster that is joined, until its workers are asked, and of a model without weights.
    """
    if settings.model.weights is None or settings.cluster.kind != "local":
        return "auto"
    from cryoscale.models.predictor import choose_device, choose_precision

    return choose_precision("auto", choose_device("auto"))


def try_precisions_there(
    found: Workers,
    settings: Settings,
    model: Mapping[str, Any],
    items: Items,
    blocks: Sequence[Block],
    tell: Callable[[str], None],
) -> Tried | None:
    """As :func:`try_precisions` on a GPU of a cluster that is joined; None where it shows none.

    What one GPU shows holds for all of the cluster: a worker that cannot run what was chosen holds no actor,
    as no map is made by two arithmetics. Where the network outruns what its actor can take in, and
    ``derive_on`` is ``auto``, the GPU is also asked to make channels itself (:mod:`deriving`).
    """
    if not _is_open(settings):
        return None
    candidates: list[str] = []
    try:
        candidates = _ask(found, _candidates_there, settings, str(model["name"]))
        if not candidates:
            return Tried(Choice(REFERENCE, ()))
        sample = _taken(settings, model, items, blocks, tell)
        if sample is None:
            return Tried(Choice(REFERENCE, ()))
        # some 120 MB, which is too much for a task's own message
        sent = found.client.scatter(sample, hash=False)
        made = _told(_ask(found, _chosen, settings, candidates, sent), tell)
        if not is_open(settings) or not outruns_intake(made, settings, model["channels"]):
            return Tried(made)
        return Tried(made, _derivation_there(found, settings, made.precision, sent, tell))
    except StoppedError:
        raise
    except Exception as error:  # whatever may go wrong between here and there: the run itself will tell
        tell(f"no precision could be tried on the cluster, whose GPUs run bf16 untried: {_reason(error)}")
        return Tried(Choice("bf16", ())) if candidates else None


def require_precision(settings: Settings) -> None:
    """Refuse before the run what its workers on this machine could not load.

    Raises:
        ExtraError: OpenVINO is asked for, by the configuration or by the run as it was begun, and not there.
        InputError: so is what only a GPU does, and there is none, or more workers with a GPU than GPUs.
    """
    if settings.cluster.kind != "local" or settings.model.weights is None:
        return
    if settings.cluster.gpu_workers:
        import torch

        there = torch.cuda.device_count()
        if 0 < there < settings.cluster.gpu_workers:  # with none at all they are processes on CPUs
            raise InputError(
                f"gpu_workers {settings.cluster.gpu_workers} on a machine that shows {there} GPUs",
                "one a GPU",
                "give fewer, or show more by CUDA_VISIBLE_DEVICES",
            )
    precision = settings.model.precision
    if precision.startswith("openvino"):
        from cryoscale.models import openvino

        openvino.require()
    elif precision.startswith("bf16-"):  # what only a GPU does
        from cryoscale.models.predictor import choose_device, choose_precision

        choose_precision(precision, choose_device("auto"))


def _candidates(settings: Settings, network: str) -> list[str]:
    """What may be tried: for a network on the GPU or the CPUs of this machine's own workers."""
    if _device() == "cuda":
        return _candidates_there(settings, network)
    if settings.cluster.gpu_workers:
        return []
    from cryoscale.models.predictor import quicker_on_cpus

    return quicker_on_cpus()


def _candidates_there(settings: Settings, network: str) -> list[str]:
    """What may be tried on the GPU of the process that is asked; nothing where it has none.

    A CryoNet is not compiled too, which takes a minute and was slower than our own kernels
    (``python -m benchmarks.roofline``).
    """
    import torch

    if _device() != "cuda" or not torch.cuda.is_bf16_supported():
        return []
    if settings.model.passes > 1:  # a turned network is called and not served, by torch alone
        return ["bf16"]
    return ["bf16-fused" if network == "cryonet" else "bf16-compiled", "bf16"]


def _chosen(settings: Settings, candidates: Sequence[str], sample: Specimen) -> Choice:
    """What is the quickest of float32 and the candidates, in the process that is asked."""
    import torch

    threads = torch.get_num_threads()
    try:
        return choose(_loader(settings, _device()), candidates, sample.tiles, sample.valid, sample.codes)
    finally:
        torch.set_num_threads(threads)
        let_go_of_memory()


def _derivation_there(
    found: Workers, settings: Settings, precision: str, sent: Any, tell: Callable[[str], None]
) -> Derivation | None:
    """As :func:`_derivation` beside a GPU of the cluster; None where it could not be tried."""
    try:
        derivation = _ask(found, _derivation, settings, precision, sent)
    except StoppedError:
        raise
    except Exception as error:  # the precision that was found holds all the same
        tell(f"channels are made by the workers, as no GPU of the cluster could try to: {_reason(error)}")
        return None
    tell(str(derivation))
    return derivation


def _derivation(settings: Settings, precision: str, sample: Specimen) -> Derivation:
    """What making channels on the GPU of the process that is asked costs and saves."""
    try:
        return try_deriving(_loader(settings, _device()), precision, sample, settings)
    finally:
        let_go_of_memory()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _ask(found: Workers, work: Callable[..., T], *given: Any) -> T:
    """What ``work`` answers beside a GPU of the cluster."""
    future = found.client.submit(work, *given, resources={GPU: 1}, pure=False)
    try:
        answer: T = future.result(timeout=TRIAL_S)
    finally:
        future.cancel()
    return answer


def _taken(
    settings: Settings,
    model: Mapping[str, Any],
    items: Items,
    blocks: Sequence[Block],
    tell: Callable[[str], None],
) -> Specimen | None:
    tell("trying precisions on blocks of the run")
    sample = take(settings, model, items, blocks)
    if sample is None:
        tell("no block could be read that shows enough to try precisions on: float32 it is")
    return sample


def _told(made: Choice, tell: Callable[[str], None]) -> Choice:
    for parity in made.tried:
        tell(f"precision {parity}")
    return made


def _is_tried_here(settings: Settings) -> bool:
    return settings.cluster.kind == "local" and _is_open(settings)


def _is_open(settings: Settings) -> bool:
    """Whether the precision of a network is for a trial to find.

    Not with dropout left on: OpenVINO drops nothing, and two samples are no measure of one another.
    """
    model = settings.model
    return model.precision == "auto" and model.weights is not None and not model.mc_dropout


def _is_short(settings: Settings, parameters: int, blocks: int) -> bool:
    """Whether a run is over on CPUs before a trial has paid."""
    tiles = _tiles(settings, blocks)
    return tiles < WORTH_TILES or tiles * parameters < WORTH


def _tiles(settings: Settings, blocks: int) -> int:
    """Tiles of the whole run, as often as the network sees each."""
    stride = stride_px(settings.tile_px, settings.model.overlap)
    a_side = settings.block_px // stride + 1
    return blocks * len(settings.years) * a_side**2 * settings.model.passes


def _device() -> str:
    """Where an actor would run its model: on a GPU if there is one, whatever its worker was meant for."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _loader(settings: Settings, device: str) -> Callable[[str], Any]:
    """Models by precision; on a GPU all but the reference as they are served there."""
    keywords = {**settings.model.keywords, "device": device, "threads": ACTOR_THREADS}

    def load(precision: str) -> Any:
        model: Any = load_predictor(**{**keywords, "precision": precision})
        served = precision != REFERENCE and getattr(model, "on_device", False)
        return model.served_tiles(gpu_batch()) if served else model

    return load
