"""Which kernels an engine gets, and that it gets no wrong ones."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dgemma_backend.errors import MissingDependencyError, SettingError, UnknownPluginError
from dgemma_backend.hookspecs import KernelsRecord, hookimpl
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime import devices, kernel_trust
from dgemma_backend.runtime.devices import choose_kernels
from dgemma_kernels import Kernels, reference_kernels

CPU = torch.device("cpu")
calls: list[str] = []


def counted() -> Kernels:
    def rms_norm(*args: Any) -> Any:
        calls.append("rms_norm")
        return reference_kernels().rms_norm(*args)

    return replace(reference_kernels(), name="counted", rms_norm=rms_norm)


def wrong() -> Kernels:
    return replace(reference_kernels(), name="wrong", geglu=lambda gate_up: gate_up[..., ::2])


class Offers:
    @hookimpl
    def dgemma_kernels(self) -> list[KernelsRecord]:
        return [KernelsRecord(each, f"{__name__}:{each}") for each in ("counted", "wrong")]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plugins:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DGEMMA_KERNELS", raising=False)
    monkeypatch.setattr(kernel_trust, "_seen", {})
    calls.clear()
    return Plugins.load(given={"offers": Offers()}, installed=False)


def _this_module() -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(counted=counted, wrong=wrong)


def test_a_cpu_runs_the_reference_unless_told_otherwise(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_kernels("auto", plugins, CPU, torch.float32).name == "reference"
    monkeypatch.setenv("DGEMMA_KERNELS", "counted")
    assert choose_kernels("auto", plugins, CPU, torch.float32).name == "counted"
    assert choose_kernels("reference", plugins, CPU, torch.float32).name == "reference"


def test_kernels_are_compared_once_and_the_result_is_remembered(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_kernels("counted", plugins, CPU, torch.float32)
        compared = len(calls)
        assert compared > 0
        choose_kernels("counted", plugins, CPU, torch.float32)
        monkeypatch.setattr(kernel_trust, "_seen", {})  # another process
        choose_kernels("counted", plugins, CPU, torch.float32)
        assert len(calls) == compared
        choose_kernels("counted", plugins, CPU, torch.bfloat16)
    assert len(calls) > compared
    assert len(json.loads((tmp_path / "dgemma-backend/kernels.json").read_text())) == 2


def test_a_wrong_kernel_is_named_replaced_and_not_remembered_as_right(
    plugins: Plugins, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="wrong kernel 'geglu' .* on cpu; the plain torch"):
        table = choose_kernels("wrong", plugins, CPU, torch.float32)
    assert table.geglu is reference_kernels().geglu
    assert not (tmp_path / "dgemma-backend/kernels.json").exists()


def test_a_cache_that_cannot_be_read_or_written_costs_a_comparison_only(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dgemma-backend").mkdir()
    (tmp_path / "dgemma-backend/kernels.json").write_text('{"not": "a list"')
    choose_kernels("counted", plugins, CPU, torch.float32)
    monkeypatch.setattr(kernel_trust, "_seen", {})
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert choose_kernels("counted", plugins, CPU, torch.float32).name == "counted"


def test_triton_without_triton_or_without_cuda_is_refused_by_name(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SettingError, match="kernels='triton': these kernels run on CUDA.*is cpu"):
        choose_kernels("triton", plugins, CPU, torch.float32)
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dgemma-backend\[triton\]'"):
        choose_kernels("triton", plugins, torch.device("cuda"), torch.float32)
    with pytest.raises(UnknownPluginError, match="no kernels 'tritn'.*Did you mean 'triton'"):
        choose_kernels("tritn", plugins, CPU, torch.float32)


def test_a_variable_that_names_no_kernels_is_named_itself_and_an_empty_one_says_nothing(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGEMMA_KERNELS", "nonsense")
    with pytest.raises(UnknownPluginError, match="DGEMMA_KERNELS=nonsense: .*'auto' is what"):
        choose_kernels("auto", plugins, CPU, torch.float32)
    monkeypatch.setenv("DGEMMA_KERNELS", "")
    assert choose_kernels("auto", plugins, CPU, torch.float32).name == "reference"
