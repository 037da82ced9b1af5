"""The baselines against the library that makes them, and what happens without it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cryoscale.errors import InputError
from cryoscale.models import baselines

CASES: dict[str, tuple[type[torch.nn.Module], dict[str, Any], dict[str, Any]]] = {
    "Unet": (
        baselines.Unet,
        {"encoder": "tu-test_resnet", "decoder_channels": [32, 24, 16, 16, 8]},
        {"encoder_name": "tu-test_resnet", "decoder_channels": (32, 24, 16, 16, 8)},
    ),
    "DeepLabV3Plus": (
        baselines.DeepLabV3Plus,
        {"encoder": "resnet18", "decoder_channels": 16, "atrous_rates": [2, 4, 6]},
        {"encoder_name": "resnet18", "decoder_channels": 16, "decoder_atrous_rates": (2, 4, 6)},
    ),
    "Segformer": (
        baselines.SegFormer,
        {"encoder": "mit_b0", "decoder_channels": 32},
        {"encoder_name": "mit_b0", "decoder_segmentation_channels": 32},
    ),
}
COMMON = {"in_channels": 7, "classes": 4}


@pytest.fixture(scope="module")
def smp() -> Any:
    return baselines.library()


@pytest.mark.parametrize("kind", CASES)
def test_a_baseline_is_the_library_s_network_tensor_for_tensor(smp: Any, kind: str) -> None:
    network, ours_arguments, theirs_arguments = CASES[kind]
    torch.manual_seed(1)
    theirs = getattr(smp, kind)(encoder_weights=None, **COMMON, **theirs_arguments)
    ours = network(**COMMON, **ours_arguments)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    multiple = ours.tile_multiple
    x = torch.randn(2, 7, 4 * multiple, 3 * multiple, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        expected, found = theirs.eval()(x), ours.eval()(x)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", CASES)
def test_a_baseline_takes_tiles_of_its_multiple_and_refuses_others(smp: Any, kind: str) -> None:
    network, arguments, _ = CASES[kind]
    net = network(**COMMON, **arguments).eval()
    m = net.tile_multiple
    with torch.inference_mode():
        assert net(torch.zeros(1, 7, 2 * m, 5 * m)).shape == (1, 4, 2 * m, 5 * m)
    with pytest.raises(InputError, match=f"expected multiples of {m}"):
        net(torch.zeros(1, 7, 2 * m, m + m // 2))


@pytest.mark.parametrize("kind", CASES)
def test_a_step_reaches_every_parameter_and_the_encoder_alone_can_be_frozen(smp: Any, kind: str) -> None:
    network, arguments, _ = CASES[kind]
    net = network(**COMMON, **arguments).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # some start at 0, and block what lies behind
    net(torch.randn(2, 7, 64, 64)).square().sum().backward()
    unused = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias before a batch norm is subtracted again, and gets a gradient of rounding alone or of none.
    assert [name for name in unused if not name.endswith("bias")] == []
    assert {id(p) for p in net.encoder.parameters()} < {id(p) for p in net.parameters()}


@pytest.mark.parametrize(
    ("encoder", "match"),
    [
        ("vgg99", "encoder 'vgg99'"),
        ("tu-hf-hub:someone/something", "hf-hub:someone"),
        ("hf-hub:someone/something", "hf-hub:someone"),
        ("tu-local-dir:/tmp", "local-dir"),
        ("tu-resnet10t.pretrained_tag", "pretrained_tag"),
        (7, "encoder 7"),
    ],
)
def test_an_encoder_that_is_unknown_or_would_be_fetched_is_refused(
    smp: Any, encoder: Any, match: str
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        baselines.Unet(encoder=encoder)
    assert "\n" not in str(caught.value)


def test_arguments_that_do_not_fit_an_encoder_are_told_in_one_line(smp: Any) -> None:
    with pytest.raises(InputError, match="Unet with encoder 'resnet18' and .*decoder_channels") as caught:
        baselines.Unet(encoder="resnet18", decoder_channels=[16, 16])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_segformer_has_the_same_drop_path_rates_on_every_device(smp: Any, device: str) -> None:
    def rates(net: torch.nn.Module) -> list[float]:
        return [m.drop_prob for m in net.modules() if hasattr(m, "drop_prob")]

    theirs = smp.Segformer("mit_b0", encoder_weights=None, in_channels=7, classes=4)
    before = torch.random.get_rng_state()
    with torch.device(device):
        ours = baselines.SegFormer(encoder="mit_b0", **COMMON)
    assert {p.device.type for p in ours.parameters()} == {device}
    assert torch.equal(torch.random.get_rng_state(), before) is (device == "meta")
    assert rates(ours) == rates(theirs)
    assert max(rates(ours)) > 0


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_library_is_importable_from_a_fresh_process_and_again_after_torchvision(smp: Any) -> None:
    done = run(
        "from cryoscale.models import baselines\n"
        "baselines.library()\n"
        "import torchvision\n"
        "baselines._declare_missing_operators()\n"
        "assert baselines.library().Unet\n"
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_where_the_binary_part_of_torchvision_loads(tmp_path: Path) -> None:
    """A package of that name whose binary part is a library that does load."""
    binary = importlib.util.find_spec("numpy.random.bit_generator").origin
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    target = tmp_path / "torchvision" / f"_C{importlib.machinery.EXTENSION_SUFFIXES[-1]}"
    code = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from cryoscale.models import baselines\n"
        "baselines._declare_missing_operators()\n"
        "print(len(baselines._DECLARED), hasattr(torch.ops.torchvision, 'nms'))\n"
    )
    shutil.copy(binary, target)
    assert run(code).stdout == "0 False\n"
    target.write_bytes(b"no library")
    assert run(code).stdout == "2 True\n"


HIDE = "import sys\nsys.modules['segmentation_models_pytorch'] = None\n"


def test_without_the_library_a_baseline_ends_in_one_line_and_exit_code_2() -> None:
    done = run(
        f"{HIDE}from cryoscale.errors import ExtraError\n"
        "from cryoscale.models.baselines import Unet\n"
        "try: Unet()\n"
        "except ExtraError as error: print(error); sys.exit(error.exit_code)\n"
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("\n") == 1
    assert "expected the extra baselines; pip install 'cryoscale[baselines]'" in done.stdout


def test_without_the_library_the_list_of_models_says_what_is_needed() -> None:
    done = run(f"{HIDE}sys.argv = ['cryoscale', 'models']\nfrom cryoscale.cli import main\nmain()")
    assert done.returncode == 0, done.stderr
    needing = [line.split()[0] for line in done.stdout.splitlines() if "needs the extra baselines" in line]
    assert needing == ["unet", "deeplabv3plus", "segformer"]
    assert "70.20 M parameters" in done.stdout
