"""Batch norms that follow a convolution, multiplied into its weights: what they cost then is nothing.

In evaluation a batch norm is one factor and one summand a channel, and a convolution can take both over:
https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.fuse_conv_bn_eval.html. Which norm follows
which convolution is seen on one image rather than read from names, so that any network will do.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ALIKE = 1e-6
"""By how much of the largest logit the folded network may differ on the image, else nothing is folded.

Both answer in float64. In float32 a hundred layers of drawn weights make 1e-3 of rounding alone, so that no
bound would tell a network that is folded from one that is broken.
"""


def fold_batch_norms(model: nn.Module, *example: Tensor) -> nn.Module:
    """A copy of ``model`` (in evaluation mode) without the batch norms that follow a convolution.

    Layers that run more than once, and norms that do more than normalise (those of timm carry their
    activation), stay as they are; so does the whole network if what is between a convolution and its
    norm is wanted elsewhere too, which shows in its answer.

    Args:
        model: the network, which is left alone.
        example: inputs for one call, of any size it takes, drawn rather than zero.
    """
    folded = copy.deepcopy(model).double()
    wide = tuple(each.double() for each in example)
    with torch.no_grad():
        pairs, wanted = _pairs(folded, wide)
        for conv_name, norm_name in pairs:
            conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            assert isinstance(norm, nn.BatchNorm2d)
            transposed = isinstance(conv, nn.ConvTranspose2d)
            _put(folded, conv_name, fuse_conv_bn_eval(conv, norm, transpose=transposed))
            _put(folded, norm_name, nn.Identity())
        found = folded(*wide)
    if float((found - wanted).abs().max()) > ALIKE * float(wanted.abs().max()):
        return copy.deepcopy(model)
    return folded.float()


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _pairs(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of each convolution and the norm that takes its output, and the network's answer."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # or another tensor might get the same id
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.BatchNorm2d):
                if id(inputs[0]) in made:
                    pairs.append((made[id(inputs[0])], name))
            else:
                made[id(output)] = name
                kept.append(output)

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        or (type(module) is nn.BatchNorm2d and module.track_running_stats)
    ]
    try:
        answer: Tensor = model(*example)
    finally:
        for handle in hooks:
            handle.remove()
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)], answer
