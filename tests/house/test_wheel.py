"""What users get: built from the source archive, as a release would be."""

import configparser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import dgemma_backend

ROOT = Path(__file__).parents[2]
PACKAGES = [
    Path("src/dgemma_backend"),
    Path("kernels/dgemma_kernels"),
    Path("integrations/langchain_dgemma"),
    Path("integrations/llama_index/llms/dgemma"),
    Path("integrations/llm_dgemma"),
]
MEBIBYTE = 2**20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (file,) = built.glob("*.whl")
    assert file.name == f"dgemma_backend-{dgemma_backend.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(file)


def test_the_wheel_holds_every_file_of_every_package_and_nothing_else(
    wheel: zipfile.ZipFile,
) -> None:
    ours = {
        path.relative_to(ROOT / package.parts[0]).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == ours
    assert {"/".join([*package.parts[1:], "py.typed"]) for package in PACKAGES} <= held


def test_the_wheel_names_its_command_and_carries_its_licence(wheel: zipfile.ZipFile) -> None:
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(points).decode())
    assert parser["console_scripts"]["dgemma"] == "dgemma_backend.cli:main"
    assert parser["llm"]["dgemma"] == "llm_dgemma"
    (licence,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_built_in_model_is_in_the_wheel_and_small(wheel: zipfile.ZipFile) -> None:
    folder = "dgemma_backend/tiny/checkpoint/"
    sizes = {each.filename: each.file_size for each in wheel.infolist()}
    needed = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
    assert {folder + name for name in needed} <= sizes.keys()
    assert sum(size for name, size in sizes.items() if folder in name) <= 8 * MEBIBYTE


def test_the_source_archive_can_be_tested_and_trained_from(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "tests/conftest.py", "README.md", "LICENSE"} <= names
    assert any(name.startswith("examples/tiny_model/") for name in names)


def test_the_installed_wheel_runs(built: Path, tmp_path: Path) -> None:
    (file,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(tmp_path), str(file)]
    subprocess.run(command, check=True)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = (
        "from dgemma_backend import cli; print(cli.__file__); "
        "cli.main(['generate', '--max-tokens', '3', 'Hi'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "cut after 3 tokens" in done.stderr
