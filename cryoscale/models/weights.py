"""Weights files: tensors as safetensors, and beside them a card (JSON) that says what they are.

``X.safetensors`` holds the tensors; ``X.json`` the card: architecture, channels and their statistics,
PCA basis, classes, temperature, provenance, and the sha256 of the tensors. Statistics travel with the
weights, so that training and serving cannot drift apart. Nothing is ever unpickled: a pickle runs
whatever code it was made to run (https://docs.python.org/3/library/pickle.html). Reading a card does
not import torch.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cryoscale.errors import CryoscaleError, ExtraError, OutputError, WeightsError
from cryoscale.models.bandratio import CLASSES
from cryoscale.models.curve import Calibration, Curve
from cryoscale.models.fetching import on_this_machine
from cryoscale.room import full_disk_told

if TYPE_CHECKING:
    import torch

ARCHITECTURES: dict[str, str] = {
    "cryonet": "cryoscale.models.cryonet:CryoNet",
    "unet": "cryoscale.models.baselines:Unet",
    "deeplabv3plus": "cryoscale.models.baselines:DeepLabV3Plus",
    "segformer": "cryoscale.models.baselines:SegFormer",
    "glavitu": "cryoscale.models.glavitu:GlaViTU",
    "random-forest": "cryoscale.models.forest:RandomForest",
}
"""Networks by the name that a card gives them, as ``module:class``, imported when one is needed."""

_PICKLED_NAMES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}
_PICKLED_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _within(least: float, most: float) -> AfterValidator:
    def check(value: float) -> float:
        if not least <= value <= most:
            raise ValueError(f"{value:g} is not between {least:g} and {most:g}")
        return value

    return AfterValidator(check)


# A network reckons in float32, which has neither 1e-60 nor 1e60, and has to divide by a deviation.
Statistic = Annotated[float, _within(-1e30, 1e30)]
Deviation = Annotated[float, _within(1e-30, 1e30)]
# calibration looks for one between 0.05 and 20; far beyond, all is certain or nothing is
Temperature = Annotated[float, _within(1e-3, 1e3)]
BandRow = Annotated[tuple[Statistic, ...], Field(min_length=12, max_length=12)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PcaCard(_Strict):
    """The PCA basis of channels 25-27: mean (12,) and components (3, 12) of the optical bands."""

    mean: BandRow
    components: tuple[BandRow, BandRow, BandRow]


class Card(_Strict):
    """What a weights file says of itself; unknown fields are errors.

    ``mean`` and ``std`` are per channel, in the channel's own unit; ``temperature`` divides the
    logits before the softmax; ``sha256`` is that of the tensors' file and is filled in by ``save``.
    """

    format: Literal[1] = 1
    architecture: str
    arguments: dict[str, Any]
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    mean: tuple[Statistic, ...]
    std: tuple[Deviation, ...]
    pca: PcaCard | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    temperature: Temperature = 1.0
    calibration: Calibration | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    split: str = "not stated"
    metrics: dict[str, Any] = Field(default_factory=dict)
    licence: str = "not stated"
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _of_one_shape(self) -> Card:
        count = len(self.channels)
        if len(self.mean) != count or len(self.std) != count:
            raise ValueError(f"{count} channels, but {len(self.mean)} means and {len(self.std)} deviations")
        for names, kind in ((self.channels, "channel"), (self.classes, "class")):
            if len(set(names)) != len(names):
                raise ValueError(f"a {kind} is named twice")
        return self

    def curve(self, *, flips: bool = False, mc_dropout: int = 0) -> Curve | None:
        """Confidence and accuracy of the calibration, if it was fitted on answers of this kind."""
        return None if self.calibration is None else self.calibration.curve(flips, mc_dropout)


_WORDS = {"training", "split", "metrics", "licence", "sha256"}
"""Fields of a card that no pixel depends on; the tensors' sha256 goes beside the card wherever it counts."""


def serving_digest(card: Card) -> str:
    """A sha256 of all on a card that a map depends on and that the tensors' own sha256 does not cover."""
    return hashlib.sha256(card.model_dump_json(exclude=_WORDS).encode()).hexdigest()


# --- paths and files ----------------------------------------------------------------------------


def card_path(path: str | Path) -> Path:
    """Where the card of the weights ``path`` (X.safetensors) lies: X.json."""
    return Path(path).with_suffix(".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which takes ``path``'s place once written whole."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o644)  # mkstemp makes files that only their owner may read
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _refuse_what_is_no_safetensors(path: Path) -> None:
    """Raise unless ``path`` is there and looks like whole safetensors; reads some bytes, runs nothing."""
    try:
        kind = "" if path.is_file() else "a folder" if path.is_dir() else "nothing there"
    except OSError as error:  # e.g. a name that is too long
        kind = error.strerror or str(error)
    if kind:
        raise WeightsError(f"weights {path} ({kind})", "a .safetensors file", "check the path")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
    if path.suffix.lower() in _PICKLED_NAMES or start.startswith(_PICKLED_STARTS):
        do = "convert them with safetensors.torch.save_file where you trust their origin"
        raise WeightsError(f"pickled weights {path}", "safetensors; pickles can run code", do)
    # The header is 8 bytes of length and then JSON that gives each tensor's place in the rest:
    # https://huggingface.co/docs/safetensors/index#format
    header_bytes = int.from_bytes(start, "little") if len(start) == 8 else -1
    if not 2 <= header_bytes <= size - 8:
        do = "fetch or save the file again"
        raise WeightsError(f"weights {path} of {size} bytes", "a whole safetensors file", do)
    try:
        with path.open("rb") as stream:
            stream.seek(8)
            header = json.loads(stream.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + header_bytes + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        given = f"weights {path}, whose header cannot be read"
        raise WeightsError(given, "a safetensors file", "fetch or save the file again") from None
    if size != expected:
        given = f"weights {path} of {size} bytes"
        do = "the file is truncated or has been added to: fetch it again"
        raise WeightsError(given, f"{expected} bytes, as its header says", do)


def _explain(error: ValidationError) -> str:
    """The first fault of a validation in a few words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{first['msg']}{more}"


def _card_at_fault(beside: Path, error: ValidationError) -> WeightsError:
    """What is told of a card that cannot be read; one that a newer version wrote is none to restore."""
    faults = error.errors(include_url=False)
    formats = [fault["input"] for fault in faults if fault["loc"] == ("format",)]
    if any(isinstance(found, int) and found > 1 for found in formats):
        do = "update cryoscale: a newer version wrote it"
        return WeightsError(f"card {beside} of format {formats[0]}", "a card of format 1", do)
    do = "restore the card that came with it"
    if any(fault["type"] == "extra_forbidden" for fault in faults):
        do += ", or update cryoscale if a newer version wrote this one"
    return WeightsError(f"card {beside}: {_explain(error)}", "a card of format 1", do)


def read_card(path: str | Path, *, channels: Sequence[str] | None = None) -> Card:
    """The card of the weights ``path``, after checking that it belongs to the file; no torch needed.

    Args:
        path: the tensors, a path or a URL (:mod:`cryoscale.models.fetching`).
        channels: those that the model will be given.

    Raises:
        WeightsError: if the weights or their card are missing, pickled, truncated or altered, or are for
            other channels than ``channels``, where these are given.
    """
    path = on_this_machine(path)
    beside = card_path(path)
    _refuse_what_is_no_safetensors(path)
    if not beside.is_file():
        given = f"weights {path} without a card"
        raise WeightsError(given, f"{beside.name} beside it", "put the card back, or save the model again")
    try:
        card = Card.model_validate_json(beside.read_bytes())
    except ValidationError as error:
        raise _card_at_fault(beside, error) from None
    found = _sha256(path)
    if card.sha256 != found:
        given = f"weights {path} with sha256 {found[:12]}..."
        expected = f"{card.sha256[:12]}..., as its card says" if card.sha256 else "a card with its sha256"
        raise WeightsError(given, expected, "the two do not belong together: fetch both again")
    if channels is not None:
        _refuse_other_channels(path, card.channels, tuple(channels))
    return card


def _refuse_other_channels(path: Path, given: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if given == expected:
        return
    do = "use weights made for these channels"
    if len(given) != len(expected):
        raise WeightsError(f"weights {path} for {len(given)} channels", f"{len(expected)} channels", do)
    at = next(i for i, (left, right) in enumerate(zip(given, expected, strict=True)) if left != right)
    raise WeightsError(f"weights {path} whose channel {at + 1} is {given[at]}", expected[at], do)


def refuse_other_classes(given: Sequence[str]) -> None:
    """Raises where a model answers with other classes than all that reads a map by number takes for granted.

    Raises:
        WeightsError: names the first class that differs.
    """
    if tuple(given) == CLASSES:
        return
    do = "use weights made for these classes, in their order"
    if len(given) != len(CLASSES):
        raise WeightsError(f"weights for {len(given)} classes", f"{len(CLASSES)}: {', '.join(CLASSES)}", do)
    at = next(i for i, (left, right) in enumerate(zip(given, CLASSES, strict=True)) if left != right)
    raise WeightsError(f"weights whose class {at} is {given[at]}", CLASSES[at], do)


# --- tensors ------------------------------------------------------------------------------------


def architecture(name: str) -> Callable[..., torch.nn.Module]:
    """The class of a network in ``ARCHITECTURES``; its module is imported."""
    module, attribute = ARCHITECTURES[name].split(":")
    network: Callable[..., torch.nn.Module] = getattr(importlib.import_module(module), attribute)
    return network


def build(card: Card, *, device: str = "cpu") -> torch.nn.Module:
    """The network that a card describes, with weights as for training from scratch.

    Raises:
        WeightsError: if there is no such architecture, or its arguments do not fit it or the card.
        ExtraError: if it needs a library that is not installed.
    """
    import torch

    if card.architecture not in ARCHITECTURES:
        expected = f"one of {', '.join(sorted(ARCHITECTURES))}"
        given = f"a card of architecture {card.architecture!r}"
        raise WeightsError(given, expected, "use weights of a network that this version has")
    network = architecture(card.architecture)
    for argument, count in (("in_channels", len(card.channels)), ("classes", len(card.classes))):
        if card.arguments.get(argument) != count:
            given = f"a card with {argument} {card.arguments.get(argument)!r}"
            raise WeightsError(given, f"{count}, as many as it names", "correct the card's arguments")
    try:
        with torch.device(device):
            return network(**card.arguments)
    except ExtraError:
        raise
    except (CryoscaleError, TypeError, ValueError, RuntimeError) as error:
        given = f"a card with arguments {json.dumps(card.arguments)} ({error})"
        raise WeightsError(given, f"arguments of {card.architecture}", "correct the card") from None


def _refuse_misfits(
    where: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    """Raise at the first tensor that is missing, unknown, of another shape or kind, or that makes NaN.

    Values have to be finite as what they are loaded as: float64 has numbers that float32 has not.
    """
    do = "use the weights and the card of one and the same model"
    for name, tensor in expected.items():
        if name not in found:
            raise WeightsError(f"{where} without tensor {name}", f"{len(expected)} tensors", do)
        if found[name].shape != tensor.shape:
            given = f"{where} with {name} of shape {tuple(found[name].shape)}"
            raise WeightsError(given, f"shape {tuple(tensor.shape)}", do)
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise WeightsError(f"{where} with {name} of {found[name].dtype}", f"{tensor.dtype}", do)
        values = found[name].to(tensor.dtype)
        if not math.isfinite(float(values.double().sum())):
            given = f"{where} with values in {name} that are not finite as {tensor.dtype}"
            raise WeightsError(given, "finite weights", "train or fetch them again")
        if name.endswith("running_var") and bool((values < 0).any()):
            given = f"{where} with negative variances in {name}"
            raise WeightsError(given, "0 or more", "train or fetch them again")
    unknown = next((name for name in found if name not in expected), None)
    if unknown is not None:
        raise WeightsError(f"{where} with an unknown tensor {unknown}", f"{len(expected)} tensors", do)


def require_place(path: str | Path, *beside: Path) -> Path:
    """``path`` as one; for before the work, which would be lost if its weights could not be put there.

    Args:
        path: where the tensors go, with the card beside them.
        beside: what else is to be written.

    Raises:
        WeightsError: if the path does not end in .safetensors.
        OutputError: if a folder is in the way of one of the files, or other JSON in that of the card.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}", "a path that ends in .safetensors", "rename it")
    for file in (path, card_path(path), *beside):
        if file.is_dir():
            raise OutputError(f"output {file}, which is a folder", "a file", "give another --out, or move it")
    if _is_other_json(card_path(path)):
        given = f"card {card_path(path)}, where other JSON lies, as the summary of a patch set"
        raise OutputError(given, "a card, or nothing there", "give another --out, or move it")
    return path


def _is_other_json(file: Path) -> bool:
    """Whether a file is whole JSON and no card; a card that was damaged may be written again."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return not (isinstance(found, dict) and "architecture" in found)


def save(model: torch.nn.Module, card: Card, path: str | Path) -> Card:
    """Write ``model`` to ``path`` (X.safetensors) and its card to X.json; returns the card with its sha256.

    Both are written aside and then take their places, the card last, so that a failure leaves what was there
    before; after a crash between the two, their sha256 disagree, which ``load`` refuses.

    Raises:
        WeightsError: if the path does not end in .safetensors, or the model is not what the card says.
        OutputError: if a folder is in the way of one of the two.
    """
    from safetensors.torch import save_file

    path = require_place(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _refuse_misfits("a model", tensors, build(card, device="meta").state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(card_path(path)) as card_part, _replacing(path) as part:
        save_file(tensors, part)
        card = card.model_copy(update={"sha256": _sha256(part)})
        card_part.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return card


def copy_with_card(source: str | Path, card: Card, path: str | Path) -> None:
    """Give the tensors of ``source``, byte for byte, another card, at ``path`` (X.safetensors) with X.json.

    ``path`` may be ``source`` itself, whose tensors are then not touched. Both files are written aside first;
    the card takes its place last.

    Raises:
        NoRoomError: if the disk of ``path`` is full; what lay there is kept.
        OutputError: if a folder is in the way of one of the two.
        WeightsError: if the path does not end in .safetensors, or the card is not that of the tensors.
    """
    source, path = Path(source), require_place(path)
    if card.sha256 != _sha256(source):
        raise WeightsError(f"a card that is not of {source}", "the card of these weights", "load it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_told(str(path)), ExitStack() as stack:
        card_part = stack.enter_context(_replacing(card_path(path)))
        card_part.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if not (path.exists() and path.samefile(source)):
            shutil.copyfile(source, stack.enter_context(_replacing(path)))


def load(
    path: str | Path, *, channels: Sequence[str] | None = None, device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, Card]:
    """The network (in evaluation mode, float32) and the card of the weights ``path`` (X.safetensors).

    Args:
        path: the tensors, a path or a URL; the card lies beside them.
        channels: the channels that the model will be given; the card's must equal them.
        device: where the network goes.

    Raises:
        WeightsError: if anything about the two files is not as it should be; says what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = on_this_machine(path)
    card = read_card(path, channels=channels)
    model = build(card, device="meta")  # shapes only: what lies on disk replaces every tensor
    expected = model.state_dict()
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"weights {path} ({error})", "a safetensors file", "fetch it again") from None
    _refuse_misfits(f"weights {path}", found, expected)
    tensors = {name: found[name].to(expected[name].dtype) for name in expected}
    model.load_state_dict(tensors, assign=True)
    return model.to(device).eval(), card
