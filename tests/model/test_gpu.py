"""Which GPU is used, and that one which torch cannot use is told in one line; none is here."""

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tests.conftest import Command
from tests.pretended import A10, CU126, CU130, T4, V100, Gpu, torch_shows, write_nvidia_smi
from workflows.core.errors import UserError
from workflows.model.gpu import install_line, runs_on, settle_gpu

INDEX = "https://download.pytorch.org/whl"
BLACKWELL = Gpu("NVIDIA GeForce RTX 5090", (12, 0))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH for an nvidia-smi; CUDA_VISIBLE_DEVICES is not set."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.slow
def test_a_gpu_that_the_installed_torch_is_not_built_for_stops_the_command_in_one_line(
    command: Command, tmp_path: Path
) -> None:
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA")
    write_nvidia_smi(tmp_path, [A10])
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for arguments in (
        ["run", "--run-folder", tmp_path / "run"],
        ["plan"],
        ["benchmark", "training", tmp_path],
    ):
        done = command(*arguments, env=path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(
            f"error: NVIDIA A10 is here, but torch {torch.__version__} is built without"
        )
        assert f"pip uninstall -y torch && pip install torch --index-url {INDEX}/cu126" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()  # nothing was downloaded, or begun
    # What the line offers, to work on the CPU, works; and light commands do not ask.
    done = command("plan", "--model", "qwen99", env={**path, "CUDA_VISIBLE_DEVICES": ""})
    assert "model 'qwen99' is neither" in done.stderr
    assert command("list", "methods", env=path).returncode == 0


@pytest.mark.parametrize(
    ("driver_runs", "built_for", "message"),
    [
        ("12.4", "13.0", rf"is built for CUDA 13\.0 and the driver runs 12\.4 at most\. .* {INDEX}/cu126 "),
        ("11.4", "12.6", rf"is built for CUDA 12\.6 and the driver runs 11\.4 at most\. .* {INDEX}/cu118 "),
        (
            "12.2",
            "12.6",
            r"cannot start CUDA: .*CUDA_VISIBLE_DEVICES names a GPU that is there",
        ),  # so it could
    ],
)
def test_a_driver_that_is_too_old_for_the_wheel(
    driver: Path, monkeypatch: pytest.MonkeyPatch, driver_runs: str, built_for: str, message: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    write_nvidia_smi(driver, [T4], driver_runs)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(UserError, match=f"Tesla T4 is here, but torch .* {message}") as caught:
        settle_gpu()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gpu", "wheels", "fitting"), [(V100, CU130, "cu126"), (BLACKWELL, CU126, "cu128"), (V100, CU126, None)]
)
def test_a_gpu_that_the_wheel_has_no_kernels_for(
    driver: Path, gpu: Gpu, wheels: tuple[str, ...], fitting: str | None
) -> None:
    write_nvidia_smi(driver, [gpu], "13.0")
    with torch_shows(gpu, wheels):
        if fitting is None:
            assert settle_gpu() is None
            return
        with pytest.raises(UserError, match=rf"compute capability \d+\.0\. .* {INDEX}/{fitting} "):
            settle_gpu()


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 6), ["sm_80"], True),  # an older minor version of the same major one
        ((8, 6), ["sm_75", "sm_89", "sm_90"], False),
        ((8, 6), ["sm_75", "compute_75"], True),  # PTX is compiled anew
        ((7, 0), ["sm_75", "compute_75"], False),
        ((10, 0), ["sm_90", "sm_90a"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_100", "sm_120"], True),
    ],
)
def test_which_kernels_run_on_which_gpu(
    capability: tuple[int, int], architectures: list[str], expected: bool
) -> None:
    assert runs_on(capability, architectures) is expected


def test_torchvision_is_installed_anew_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert "pip uninstall -y torch torchvision && pip install torch torchvision --index" in install_line(
        (12, 4), None
    )


@pytest.mark.parametrize(
    ("chosen", "kept", "said"),
    [
        (None, "0", "2 GPUs are visible; the first alone is used"),
        ("1", "1", None),
        ("1,0", "1", "2 GPUs are visible; the first alone is used"),
        ("", "", None),  # the CPU, on purpose
    ],
)
def test_of_two_gpus_one_is_used(
    driver: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, kept: str, said: str | None
) -> None:
    write_nvidia_smi(driver, [A10, A10])
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))  # to be put back
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with torch_shows(A10):
        line = settle_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == kept
    assert (line or "").startswith(said or "")
    assert (line is None) == (said is None)


def test_without_a_gpu_nothing_is_asked_of_torch(driver: Path) -> None:
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("a GPU is here")
    write_nvidia_smi(driver, [])
    assert settle_gpu() is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_an_npu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_npu.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        torch, "npu", sys.modules["torch"].cpu, raising=False
    )  # it is available, as an NPU would be
    with pytest.raises(UserError, match="torch_npu and an Ascend NPU are here"):
        settle_gpu()


def test_a_torch_that_needs_a_gpu_beside_this_transformers_is_told_in_one_line(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises() -> None:
        raise RuntimeError("Cannot access accelerator device when none is available.")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", raises)
    versions = {"torch": "2.6.0+cpu", "transformers": "5.19.0"}
    monkeypatch.setattr(metadata, "version", lambda name: versions[name])
    with pytest.raises(UserError, match=r'torch 2\.6\.0\+cpu .*: pip install "transformers<5\.18"'):
        settle_gpu()
    versions["transformers"] = "5.17.0"
    assert settle_gpu() is None
