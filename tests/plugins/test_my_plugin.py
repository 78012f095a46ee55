"""The example plugin, built and installed as its users would, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
import json, sys
from dgemma_backend.plugins import Plugins

plugins = Plugins.load()
early = sorted({"torch", "dgemma_patient.rule"} & set(sys.modules))
state = plugins.stop_rule("patient")(None).start()

import torch
from dgemma_backend.diffusion.stopping import StepStatistics

drafts = [[1, 2], [3, 4], [3, 4], [3, 4], [3, 4], [3, 4]]
steps = [StepStatistics(n, torch.tensor(each), torch.zeros(2)) for n, each in enumerate(drafts)]
said = [state.update(step) for step in steps]
plugin = plugins.listing()[1]
print(json.dumps([early, said, plugin.name, plugin.source, plugin.offers, plugin.problems]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin installed in it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([*command, str(ROOT / "examples" / "my_plugin")], check=True)
    return folder


@pytest.mark.slow
def test_the_example_plugin_works_once_it_is_installed(site: Path) -> None:
    paths = [site, *(ROOT / part for part in ("src", "kernels"))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", USE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    early, said, name, source, offers, problems = json.loads(done.stdout)
    assert early == []
    assert said == [False, False, False, False, True, True]
    assert (name, source, problems) == ("patient", "dgemma-patient 0.1.0", [])
    assert offers == [["stop rule", "patient"]]
