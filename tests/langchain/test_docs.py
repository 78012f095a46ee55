"""What docs/langchain.md says is run, so that it stays true."""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any, get_args

import pytest

from dgemma_backend import GenerationSettings
from langchain_dgemma import ChatDiffusionGemma
from langchain_dgemma.requests import ALIASES, SETTINGS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "langchain.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_block_runs_in_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("langchain", reason="agents come with the package langchain")
    from langchain.chat_models import base

    monkeypatch.setattr(base, "_BUILTIN_PROVIDERS", dict(base._BUILTIN_PROVIDERS))
    scope: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, scope)
    out = capsys.readouterr().out
    assert "book_table {'guests': 4, 'name': 'Odette Marsh'}" in out
    assert "Person" in repr(scope["asking"].invoke("Odette Marsh is 41 years old."))
    assert scope["answer"].text in ("yes", "no")
    assert "ChatDiffusionGemma" in out
    assert scope["seen"]


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_every_other_name_is_told() -> None:
    told = f"{TEXT}\n{ChatDiffusionGemma.__doc__}"
    assert [name for name in ALIASES if f"`{name}" not in told] == []


def test_every_setting_is_a_field() -> None:
    assert {field.name for field in dataclasses.fields(GenerationSettings)} == set(SETTINGS)
    assert [name for name in SETTINGS if name not in ChatDiffusionGemma.model_fields] == []
    efforts = ChatDiffusionGemma.model_fields["reasoning_effort"].annotation
    assert [effort for effort in get_args(get_args(efforts)[0]) if f'"{effort}"' not in TEXT] == []


@pytest.mark.parametrize("name", ["num_ctx", "keep_alive"])
def test_what_has_no_meaning_here_is_a_warning(name: str) -> None:
    with pytest.warns(UserWarning, match=f"no parameter '{name}'"):
        ChatDiffusionGemma.model_validate({name: 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatDiffusionGemma(max_retries=1, base_url="x")
