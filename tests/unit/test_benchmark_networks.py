"""Benchmarks of networks: what their layers could come to, and every way that there is to run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import precisions
from benchmarks.roofline import __main__ as roofline
from benchmarks.roofline import served, written
from benchmarks.roofline.parts import BETWEEN, Speed
from cryoscale.bench.network import gflop_a_tile
from cryoscale.models.serving import Network


def test_the_roofline_tells_each_part_of_the_network_and_what_is_measured_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "roofline.jsonl"
    roofline.main(["--scale", "tiny", "--out", str(kept)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    parts, printed = results["parts"], capsys.readouterr().out
    assert results["gflop"] == pytest.approx(gflop_a_tile("tiny", 64), rel=1e-3)
    assert sum(part["flop"] for part in parts.values()) == pytest.approx(1e9 * results["gflop"], rel=2e-3)
    assert len([name for name in parts if name.startswith("decoder")]) == 11
    for name, part in parts.items():
        assert (part["measured_ms"] is None) == (name == BETWEEN)
        assert name.removeprefix("decoder.blocks.") in printed
    rates = results["tiles_a_second"]
    assert rates["fused"] > rates["compiled"] > rates["unfused"] > 0
    assert results["measured_tiles_a_second"] > 0
    assert list(results["served_parts"]) == [BETWEEN, *(name for name in parts if name != BETWEEN)]
    assert rates["served"] > rates["compiled"]
    assert (results["served_measured_tiles_a_second"] is None) == (not torch.cuda.is_available())


def test_every_way_to_run_a_network_is_timed_in_every_batch_or_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "precisions.jsonl"
    monkeypatch.setitem(precisions.WAYS, "cpu", ("fp32", "bf16", "openvino"))
    precisions.main(["--scale", "tiny", "--batch", "1", "2", "--out", str(kept)])
    rows = json.loads(kept.read_text())["results"]["rows"]
    assert [(row["precision"], row["batch"]) for row in rows] == [
        (way, batch) for way in ("fp32", "bf16", "openvino") for batch in (1, 2)
    ]
    for row in rows[:4]:
        own = next(other for other in rows if (other["precision"], other["batch"]) == ("fp32", row["batch"]))
        assert row["times_fp32"] == pytest.approx(row["tiles_s"] / own["tiles_s"], rel=0.01)
    assert "expected fp32 or bf16" in rows[4]["why_not"]
    assert "openvino" in capsys.readouterr().out


def test_the_papers_network_has_the_roofline_that_its_layers_give_by_hand() -> None:
    speed = Speed(790.0, 4300.0)
    parts = written.count("cryonet", 256, "bf16", speed, batch=32)
    assert written.rates(parts)["fused"] == pytest.approx(5270, rel=0.01)
    stem = parts["encoder.conv1"]  # 7 x 7 from 30 to 64 channels at 128 x 128, two bytes a number
    flop, weights = 2 * 128**2 * 64 * 30 * 49, 2 * 64 * 30 * 49
    assert stem.flop == flop
    assert stem.conv_bytes == 2 * (256**2 * 30 + 128**2 * 64) + weights / 32
    assert stem.conv_us == pytest.approx(max(flop / 790e6, stem.conv_bytes / 4.3e6))
    # node x_0_4 has no gate before it, and one of 16 channels at 256 x 256 after it
    assert parts["decoder.blocks.x_0_4"].gate_us == pytest.approx(3 * 2 * 16 * 256**2 / 4.3e6)
    head = parts["segmentation_head"]
    assert head.compute_us == 0.0
    assert head.conv_us == pytest.approx(head.conv_bytes / 4.3e6)


def test_as_a_gpu_serves_it_each_kernel_counts_what_it_is_given_and_makes() -> None:
    speed = Speed(790.0, 4300.0)
    parts = served.count("cryonet", 256, speed, batch=32)
    plain = written.count("cryonet", 256, "bf16", speed, batch=32)
    # the convolutions are the same, but for filled up channels and a product that gates had of pixels
    assert sum(part.flop for part in parts.values()) == pytest.approx(
        sum(part.flop for part in plain.values()), rel=0.005
    )
    assert parts["encoder.layer3"].conv_bytes == plain["encoder.layer3"].conv_bytes
    # node x_0_0: 2048 channels at 8 x 8 and 1024 at 16 x 16 joined; 256 rectified, averaged and gated
    joined = 2048 * 8**2 + 1024 * 16**2 + 3072 * 16**2
    assert parts["decoder.blocks.x_0_0"].pointwise_bytes == pytest.approx(
        2 * (joined + 5 * 256 * 16**2), rel=0.02
    )
    assert written.rates(plain)["compiled"] < served.rate(parts) < written.rates(plain)["fused"]
    # gates by neighbourhoods want means of their own, and little else
    larger = served.count("cryonet", 512, speed, batch=8)
    assert 0.95 < 4 * served.rate(larger) / served.rate(parts) < 1.0


def test_the_served_network_is_measured_part_by_part() -> None:
    net = written.network("tiny", torch.float32).to_empty(device="cpu")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network = Network.of(net, 30, 1.0, "bf16-fused", False)
    took, whole = served.measure_network(network, 64, 1)
    assert whole > 0
    assert set(took) == set(served.count("tiny", 64, Speed(1.0, 1.0), 1)) - {BETWEEN}
    assert min(took.values()) > 0
