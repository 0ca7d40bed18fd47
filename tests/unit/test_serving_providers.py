"""Providers: quiet, asserted, and with reasons, on machines with and without a GPU."""

import ctypes
import subprocess
import sys

import onnxruntime as ort
import pytest
from toy_model import toy_bundle, toy_fit, toy_table

from anomgan.errors import ModelCorruptError, UsageError
from anomgan.serving import Scorer, providers
from anomgan.serving.providers import CPU, CUDA, cuda_unusable_reason, make_session


@pytest.fixture(scope="module")
def graph():
    return toy_fit(toy_table())[0]


@pytest.fixture
def no_driver(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ctypes, "CDLL", absent)


class _Driver:
    """A driver that answers as told."""

    def __init__(self, status=0, devices=1):
        self.status, self.devices = status, devices

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self.devices
        return 0


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_auto_takes_the_cpu_and_cuda_is_refused(graph):
    assert cuda_unusable_reason() == "no NVIDIA driver is installed"
    session, note = make_session(graph, providers="auto")
    assert session.get_providers() == [CPU]
    assert note == "no NVIDIA driver is installed"
    with pytest.raises(UsageError) as caught:
        make_session(graph, providers="cuda")
    assert str(caught.value) == (
        "CUDA cannot be used: no NVIDIA driver is installed; use the provider auto or cpu"
    )
    assert make_session(graph, providers="cpu")[1] == ""


def test_every_reason_against_cuda_is_said(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    assert "built without CUDA" in cuda_unusable_reason()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    for driver, reason in [
        (_Driver(status=100), "the NVIDIA driver does not start (cuInit gave 100)"),
        (_Driver(devices=0), "the NVIDIA driver sees no device"),
        (_Driver(), None),
    ]:
        monkeypatch.setattr(ctypes, "CDLL", lambda name, driver=driver: driver)
        assert cuda_unusable_reason() == reason


@pytest.mark.skipif(
    CUDA not in ort.get_available_providers() or cuda_unusable_reason() is None,
    reason="needs an onnxruntime built for CUDA, and no CUDA",
)
def test_a_silent_fallback_is_caught_and_reported(graph, monkeypatch, capfd):
    # As if a driver were there: onnxruntime then tries CUDA, cannot, and takes the CPU.
    monkeypatch.setattr(providers, "cuda_unusable_reason", lambda: None)
    session, note = make_session(graph, providers="auto")
    assert session.get_providers() == [CPU]
    assert note.startswith("onnxruntime fell back to CPUExecutionProvider")
    with pytest.raises(UsageError, match=r"pip install anomgan\[cuda\]"):
        make_session(graph, providers="cuda")
    with pytest.raises(UsageError, match="fell back"):
        make_session(graph, providers=[CUDA, CPU])
    assert capfd.readouterr() == ("", "")


def test_providers_by_name(graph):
    assert make_session(graph, providers=[CPU])[0].get_providers() == [CPU]
    with pytest.raises(UsageError, match="has no provider QuantumExecutionProvider; it has "):
        make_session(graph, providers=["QuantumExecutionProvider"])
    with pytest.raises(UsageError, match=r"\(none named\)"):
        make_session(graph, providers=[])
    with pytest.raises(UsageError, match="must be auto, cpu or cuda, got 'gpu'"):
        make_session(graph, providers="gpu")


def test_a_damaged_graph_is_said_in_one_line(graph):
    with pytest.raises(ModelCorruptError) as caught:
        make_session(graph[: len(graph) // 2], providers="cpu")
    assert "\n" not in str(caught.value)


def test_opening_a_model_prints_nothing(tmp_path):
    toy_bundle(tmp_path / "m")
    code = f"from anomgan.serving import Scorer; Scorer.open({str(tmp_path / 'm')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(cuda_unusable_reason() is not None, reason="needs a CUDA device")
def test_cuda_scores_as_the_cpu_does(tmp_path):
    toy_bundle(tmp_path / "m")
    on_gpu = Scorer.open(tmp_path / "m", providers="cuda")
    assert on_gpu.provider == CUDA
    table = toy_table(500, seed=2)
    on_cpu = Scorer.open(tmp_path / "m", providers="cpu")
    assert abs(on_gpu.score(table).score - on_cpu.score(table).score).max() < 1e-4
