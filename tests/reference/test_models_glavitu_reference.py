"""The transformer block of GlaViTU against torch's own attention and timm's block, with weights copied."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from cryoscale.models import baselines
from cryoscale.models.glavitu import Block

WIDTH, HEADS, MLP = 24, 4, 40


def a_block() -> Block:
    torch.manual_seed(4)
    block = Block(WIDTH, HEADS, MLP, 0.1).eval()
    for norm in (block.norm1, block.norm2):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
    return block


def tokens() -> torch.Tensor:
    return torch.randn(3, 10, WIDTH, generator=torch.Generator().manual_seed(1))


def test_a_block_equals_the_attention_of_torch_with_the_same_weights() -> None:
    block, x = a_block(), tokens()
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = block.qkv.weight.data, block.qkv.bias.data
    theirs.out_proj.load_state_dict(block.proj.state_dict())
    normed = block.norm1(x)
    x1 = x + theirs(normed, normed, normed)[0]
    hidden = F.gelu(F.linear(block.norm2(x1), block.mlp[0].weight, block.mlp[0].bias))
    expected = x1 + F.linear(hidden, block.mlp[3].weight, block.mlp[3].bias)
    torch.testing.assert_close(block(x), expected)


def test_a_block_equals_that_of_timm_with_the_same_weights() -> None:
    baselines.library()  # which sees to what timm needs
    from timm.models.vision_transformer import Block as Theirs

    block, x = a_block(), tokens()
    theirs = Theirs(WIDTH, HEADS, mlp_ratio=MLP / WIDTH, qkv_bias=True).eval()
    names = {"qkv": "attn.qkv", "proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
    state = {}
    for name, value in block.state_dict().items():
        module, kind = name.rsplit(".", 1)
        state[f"{names.get(module, module)}.{kind}"] = value
    theirs.load_state_dict(state)
    for norm in (theirs.norm1, theirs.norm2):
        norm.eps = 1e-6
    torch.testing.assert_close(block(x), theirs(x))
