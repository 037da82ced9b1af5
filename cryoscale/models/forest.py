"""A random forest as a network without neighbours: its trees lie in buffers, and torch walks them.

So the classical learner (Breiman 2001, https://doi.org/10.1023/A:1010933404324) is saved, carded, served,
scored and calibrated like every other model, and runs without the library that fitted it
(``cryoscale.learn.forest``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cryoscale.errors import InputError, WeightsError

FLOOR = 1e-7
"""Least probability before the logarithm: a forest says 0 of what it never saw, and log 0 is no logit."""

AT_ONCE = 1 << 21
"""Walks (pixels times trees) under way at once: bounds the memory to about 100 MB."""


class RandomForest(nn.Module):
    """Standardised features (n, c, h, w) to log-probabilities (n, k, h, w), pixel by pixel.

    From a node the way goes to ``child`` where its feature is at most its threshold, and to the
    node after ``child`` otherwise; a leaf is its own child and never left. ``importance`` (c,) is each
    channel's share in the decrease of impurity while the trees grew.

    Args:
        in_channels: number of channels c.
        classes: number of classes k.
        trees: number of trees.
        leaves: most leaves of a tree.
        depth: most decisions on the way to a leaf.
        min_leaf: fewest training pixels in a leaf.
        pixels_per_class: most training pixels of a class.

    Raises:
        InputError: for arguments that make no forest.
        WeightsError: when loading, for trees that lead out of their tables.
    """

    tile_multiple = 1
    needs_halo = False
    needs_location = False

    def __init__(
        self,
        in_channels: int = 30,
        classes: int = 5,
        trees: int = 100,
        leaves: int = 1024,
        depth: int = 20,
        min_leaf: int = 2,
        pixels_per_class: int = 20_000,
    ) -> None:
        super().__init__()
        numbers = (trees, depth, min_leaf, pixels_per_class, leaves)
        if not all(isinstance(number, int) for number in numbers) or min(numbers) < 1 or leaves < 2:
            given = f"a forest of {trees} trees, {leaves} leaves, depth {depth}, {min_leaf} pixels in a leaf"
            given += f" and {pixels_per_class} of a class"
            do = "correct the arguments"
            raise InputError(given, "whole numbers: 2 or more leaves, and 1 or more of the others", do)
        self.in_channels, self.classes, self.trees, self.leaves = in_channels, classes, trees, leaves
        self.depth, self.min_leaf, self.pixels_per_class = depth, min_leaf, pixels_per_class
        nodes = 2 * leaves - 1
        self.feature: Tensor
        self.threshold: Tensor
        self.child: Tensor
        self.share: Tensor
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.full((trees, nodes), torch.finfo(torch.float32).max))
        self.register_buffer("child", torch.arange(nodes, dtype=torch.int32).repeat(trees, 1))
        self.register_buffer("importance", torch.zeros(in_channels))
        self.register_buffer("share", torch.full((trees, nodes, classes), 1.0 / classes))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k, h, w); finite features only."""
        n, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        parts = pixels.split(max(1, AT_ONCE // self.trees))
        shares = torch.cat([self.vote(part) for part in parts])
        answer = shares.clamp(min=FLOOR).log().reshape(n, height, width, self.classes)
        return answer.permute(0, 3, 1, 2).contiguous()

    def vote(self, pixels: Tensor) -> Tensor:
        """Mean class shares (p, k) of the leaves that pixels (p, c) fall into."""
        nodes = self.child.shape[1]
        base = torch.arange(self.trees, device=pixels.device)[:, None] * nodes
        feature, threshold = self.feature.flatten().long(), self.threshold.flatten()
        child, by_channel = self.child.flatten().long(), pixels.T.contiguous()
        row = torch.arange(len(pixels), device=pixels.device)
        at = base.expand(self.trees, len(pixels))  # (trees, p), counted over all trees
        # A tree is never deeper than it has leaves, less one, whatever the card allows it.
        for _ in range(min(self.depth, self.leaves - 1)):
            right = by_channel[feature[at], row] > threshold[at]
            at = base + child[at] + right
        shares = self.share.flatten(0, 1)
        # One tree after the other, in order: sums of a fixed order do not depend on how pixels are split.
        total = torch.zeros(len(pixels), self.classes, device=pixels.device)
        for tree in at:
            total += shares[tree]
        return total / self.trees

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of every module, and then raises for trees that lead out of their tables."""
        done = super().load_state_dict(state_dict, strict, assign)
        if self.child.device.type != "meta":
            self._refuse_stray_trees()
        return done

    def _refuse_stray_trees(self) -> None:
        """Raise if a node asks for a channel or leads to a node that there is not."""
        nodes = self.child.shape[1]
        # Only from a threshold below the largest number does any pixel go to the node after the child.
        furthest = self.child + (self.threshold < torch.finfo(torch.float32).max).to(torch.int32)
        limits = (
            ("feature", self.feature, self.in_channels),
            ("child", self.child, nodes),
            ("child", furthest, nodes),
        )
        for name, tensor, limit in limits:
            low, high = int(tensor.min()), int(tensor.max())
            if low < 0 or high >= limit:
                given = f"a forest whose {name} reaches from {low} to {high}"
                raise WeightsError(given, f"0 to {limit - 1}", "fit the forest again")
