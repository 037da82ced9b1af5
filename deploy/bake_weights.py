"""Carry weights from place to place: into an object store once, out of it when a pod starts.

    python bake_weights.py X.safetensors s3://bucket/models/X.safetensors --sha256 HEX

Takes X.safetensors and its card X.json, from a folder or anything fsspec opens, proves them in a folder
of its own, and only then puts them to their place: the card last, so that whoever finds a card finds its
tensors. Run again it changes nothing. Other weights of that name are replaced only where --replace says
so, since a run that is under way goes on with the bytes that it was begun with.

Exit codes: 0 they are there, 2 the weights or the store cannot be used (one line says why), 75 the store
does not answer: start it again.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from cryoscale.errors import CryoscaleError, OutputError, SourceError, WeightsError
from cryoscale.models.weights import read_card
from cryoscale.write.objects import Objects
from cryoscale.write.usable import require_usable


def main(arguments: list[str] | None = None) -> int:
    """Carry the weights that the command line names; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="X.safetensors, a path or URL; X.json is expected beside it")
    parser.add_argument("target", help="the same at the place where they shall be")
    parser.add_argument("--sha256", default="", help="of the tensors: refuse any other")
    parser.add_argument("--replace", action="store_true", help="other weights of that name may go")
    asked = parser.parse_args(arguments)
    try:
        print(carry(asked.source, asked.target, asked.sha256.lower(), asked.replace))
    except CryoscaleError as error:
        print(f"bake_weights: {error}", file=sys.stderr)
        return 75 if error.retry else 2
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(
            f"bake_weights: {error.strerror or error}{where}; give a place that can be used", file=sys.stderr
        )
        return 2
    return 0


def carry(source: str, target: str, sha256: str = "", replace: bool = False) -> str:
    """Carry the weights and their card; says in a line what was done.

    Raises:
        WeightsError: they are pickled, truncated, altered, or others than ``sha256`` says.
        OutputError: other weights are at ``target``, or nothing can be written there.
    """
    here, name = _split(source)
    there, new_name = _split(target)
    tensors, card = _read(here, name), _read(here, _card(name))
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        path = Path(folder, name)
        path.write_bytes(tensors)
        path.with_suffix(".json").write_bytes(card)
        read_card(path)  # pickled, truncated, altered, or of another card: all of that is refused here
    found = hashlib.sha256(tensors).hexdigest()
    if sha256 and found != sha256:
        raise WeightsError(
            f"weights {source} with sha256 {found}", f"{sha256}, as was asked for", "correct one of the two"
        )
    require_usable(there)
    store = Objects(there)
    held = store.get_many([new_name, _card(new_name)])
    if held == {new_name: tensors, _card(new_name): card}:
        return f"{target} is there already, sha256 {found}"
    if held[_card(new_name)] is not None and not replace:
        raise OutputError(f"other weights at {target}", "a name that is free", "give another, or --replace")
    if held[_card(new_name)] is not None:
        store.delete(_card(new_name))
    store.put(new_name, tensors)
    store.put(_card(new_name), card)
    return f"{target} is there now, {len(tensors) / 1e6:,.1f} MB, sha256 {found}"


def _split(address: str) -> tuple[str, str]:
    folder, slash, name = address.rpartition("/")
    if not name.endswith(".safetensors"):
        do = (
            "pickles can run code: convert them with safetensors.torch.save_file where you trust their origin"
        )
        raise WeightsError(f"weights {address}", "a name that ends in .safetensors", do)
    return folder or slash or ".", name


def _card(name: str) -> str:
    return name.removesuffix(".safetensors") + ".json"


def _read(folder: str, name: str) -> bytes:
    content = Objects(folder).get(name)
    if content is None:
        raise SourceError(
            f"{folder}/{name}, which is not there", "weights and their card side by side", "check the path"
        )
    return content


if __name__ == "__main__":
    sys.exit(main())
