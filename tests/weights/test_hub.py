"""Fetching from a hub: huggingface-hub, in a process of its own, against a local HTTP server."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "someone/small-diffusion"


class Hub(ThreadingHTTPServer):
    """As much of the hub's interface as a download needs, over the files of one folder."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.stall_at: str | None = None  # half of this file is sent, then nothing more
        self.cut_after: dict[str, int] = {}  # after so many bytes the connection is lost, once
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range
        self.stalled, self.ended = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked_for(self, ending: str, method: str = "GET") -> list[str | None]:
        """The Range header of each request for a path that ends so."""
        return [
            span for how, path, span in self.requests if how == method and path.endswith(ending)
        ]


class Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0]
        files = {each.name: each for each in self.server.folder.iterdir()}
        if match := re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/(main|{COMMIT}))?", path):
            names = [{"rfilename": name} for name in sorted(files)]
            self.send_json({"id": REPOSITORY, "sha": COMMIT, "siblings": names})
        elif re.fullmatch(rf"/api/models/{REPOSITORY}/tree/(main|{COMMIT})", path):
            self.send_json([self.tree_entry(each) for each in files.values()])
        elif match := re.fullmatch(rf"/{REPOSITORY}/resolve/(main|{COMMIT})/([^/]+)", path):
            self.send_file(files[match[2]])
        elif path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            self.send_json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/shut/"):
            self.send_json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        else:
            self.send_json({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def tree_entry(self, path: Path) -> dict[str, Any]:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
        if path.suffix == ".safetensors":
            entry["lfs"] = {"oid": digest, "size": path.stat().st_size, "pointerSize": 130}
        return entry

    def send_json(
        self, content: Any, status: int = 200, more: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_file(self, path: Path) -> None:
        body = path.read_bytes()
        start = 0
        if span := self.headers.get("Range"):
            start = int(span.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        digest = hashlib.sha256(body).hexdigest()
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.cut_after.pop(path.name, None)
        if cut is not None:
            self.wfile.write(body[start : start + cut])
            self.close_connection = True
        elif path.name == self.server.stall_at:
            self.wfile.write(body[start : (start + len(body)) // 2])
            self.server.stalled.set()
            self.server.ended.wait(60)
        else:
            self.wfile.write(body[start:])


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    """A running hub with one repository: a small checkpoint, and files nobody should fetch."""
    for name in ("pytorch_model.bin", "modeling_evil.py", "README.md", "chat_template.jinja"):
        (checkpoint / name).write_text("not to be fetched")
    server = Hub(checkpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


class Client:
    """Runs a line of Python in a fresh process whose hub is the local one."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_HOME": str(home),
            "HF_ENDPOINT": url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        }

    def start(self, line: str, **env: str) -> "subprocess.Popen[str]":
        code = f"from dgemma_backend.weights.sources import pull, resolve, resolve_config\n{line}"
        return subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-c", code],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, line: str, **env: str) -> tuple[str, str]:
        """What it printed, and to stderr."""
        out, err = self.start(line, **env).communicate(timeout=100)
        return out.strip(), err


@pytest.fixture
def client(tmp_path: Path, hub: Hub) -> Client:
    return Client(tmp_path / "home", hub.url)


def last_line(err: str) -> str:
    return err.strip().splitlines()[-1]


def test_pull_fetches_config_tokenizer_and_weights_and_nothing_else(
    hub: Hub, client: Client
) -> None:
    out, err = client.run(
        f"p = pull({REPOSITORY!r}, tell=print); print(p.folder); print(p.revision)"
    )
    told, folder, revision = out.splitlines()
    assert told == f"{REPOSITORY} at revision {COMMIT}"
    assert revision == COMMIT
    assert sorted(each.name for each in Path(folder).iterdir()) == [
        "config.json",
        "generation_config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert "%" in err  # the bar
    assert not hub.asked_for("modeling_evil.py")
    assert not hub.asked_for("pytorch_model.bin")


def test_what_is_in_the_cache_is_used_without_asking_the_network(hub: Hub, client: Client) -> None:
    client.run(f"pull({REPOSITORY!r})")
    hub.requests.clear()
    out, _ = client.run(f"print(resolve({REPOSITORY!r}, tell=print))")
    told, folder = out.splitlines()
    assert told == f"{REPOSITORY} at revision {COMMIT}, from the cache"
    assert Path(folder).name == COMMIT
    assert hub.requests == []
    offline, _ = client.run(f"print(resolve({REPOSITORY!r}))", HF_HUB_OFFLINE="1")
    assert offline == folder


def test_resolve_fetches_what_is_not_there_without_a_bar_if_asked(hub: Hub, client: Client) -> None:
    out, err = client.run(f"print(resolve({REPOSITORY!r}, progress=False))")
    assert Path(out).name == COMMIT
    assert err == ""


def test_of_a_model_that_is_only_asked_about_the_configuration_alone_is_fetched(
    hub: Hub, client: Client
) -> None:
    again = f"print(resolve_config({REPOSITORY!r}))"
    out, err = client.run(f"print(resolve_config({REPOSITORY!r}, tell=print)); {again}")
    told, folder, same = out.splitlines()
    assert told == f"{REPOSITORY} at revision {COMMIT}, its configuration alone"
    assert [each.name for each in Path(folder).iterdir()] == ["config.json"]
    assert (same, err) == (folder, "")
    assert len(hub.asked_for("config.json")) == 1
    _, err = client.run("resolve_config('someone/elsewhere')")
    assert re.search("ModelNotFoundError: the hub has no model 'someone/elsewhere'", last_line(err))


def test_pull_into_a_folder(hub: Hub, client: Client, tmp_path: Path) -> None:
    there = tmp_path / "models" / "small"
    out, _ = client.run(f"print(pull({REPOSITORY!r}, {COMMIT!r}, {str(there)!r}))")
    assert str(there) in out
    assert COMMIT in out
    assert (there / "tokenizer.json").is_file()
    assert not (there / "modeling_evil.py").exists()


def test_a_killed_download_keeps_the_files_that_were_complete(
    hub: Hub, client: Client, checkpoint: Path
) -> None:
    names = sorted(path.name for path in checkpoint.glob("*.safetensors"))
    hub.stall_at = names[-1]
    process = client.start(f"pull({REPOSITORY!r})")
    assert hub.stalled.wait(60)
    deadline = time.monotonic() + 60
    while not all(list(client.home.rglob(f"snapshots/*/{name}")) for name in names[:-1]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()

    _, err = client.run(f"resolve({REPOSITORY!r})", HF_HUB_OFFLINE="1")
    assert re.search("ModelNotFoundError: .* not completely, on this machine", last_line(err))
    hub.stall_at = None
    hub.requests.clear()
    out, err = client.run(f"print(resolve({REPOSITORY!r}))")
    assert [len(hub.asked_for(name)) for name in names] == [0] * (len(names) - 1) + [1], err
    for name in names:
        assert (Path(out) / name).read_bytes() == (checkpoint / name).read_bytes()


def test_a_lost_connection_goes_on_where_it_was_lost(
    hub: Hub, client: Client, wide_checkpoint: Path
) -> None:
    (wide_checkpoint / "tokenizer.json").write_text("{}")
    hub.folder = wide_checkpoint
    largest = max(wide_checkpoint.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    piece = 10 << 20  # huggingface-hub writes pieces of this size
    hub.cut_after = {largest.name: piece + 1000}
    out, err = client.run(f"print(pull({REPOSITORY!r}).folder)")
    assert hub.asked_for(largest.name) == [None, f"bytes={piece}-"], err
    assert (Path(out) / largest.name).read_bytes() == largest.read_bytes()


def test_offline_the_error_says_how_to_fetch(client: Client) -> None:
    _, err = client.run(f"resolve({REPOSITORY!r})", HF_HUB_OFFLINE="1")
    assert re.search(
        rf"ModelNotFoundError: {REPOSITORY} is not, .* HF_HUB_OFFLINE forbids to fetch it.*"
        rf"`dgemma pull {REPOSITORY}`",
        last_line(err),
    )


def test_without_a_network_the_error_says_how_to_fetch(client: Client) -> None:
    _, err = client.run(f"resolve({REPOSITORY!r})", HF_ENDPOINT="http://127.0.0.1:9")
    assert re.search(
        rf"ModelNotFoundError: .* fetching it failed .*`dgemma pull {REPOSITORY}`", last_line(err)
    )


def test_an_unknown_repository_is_named_with_the_nearest_known(client: Client) -> None:
    _, err = client.run("resolve('google/difusiongemma-26B-A4B-it')")
    assert re.search(
        r"ModelNotFoundError: the hub has no model 'google/difusiongemma-26B-A4B-it'.*"
        r"Did you mean 'google/diffusiongemma-26B-A4B-it'\?",
        last_line(err),
    )


def test_an_unknown_revision_is_named(client: Client) -> None:
    _, err = client.run(f"pull({REPOSITORY!r}, 'v9')")
    assert f"ModelNotFoundError: {REPOSITORY} has no revision 'v9'" in last_line(err)


def test_a_gated_repository_says_where_to_accept_its_terms(client: Client) -> None:
    _, err = client.run("pull('shut/away')")
    assert re.search("ModelNotFoundError: shut/away is gated. Accept its terms", last_line(err))


def test_another_architecture_is_refused_before_its_weights_are_fetched(
    hub: Hub, client: Client
) -> None:
    path = hub.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gemma3"}))
    _, err = client.run(f"pull({REPOSITORY!r})")
    assert re.search("ConfigError: .*model_type is 'gemma3', must be", last_line(err))
    assert hub.asked_for(".safetensors") == []


def test_a_repository_without_safetensors_is_refused(hub: Hub, client: Client) -> None:
    for path in hub.folder.glob("*.safetensors"):
        path.unlink()
    _, err = client.run(f"pull({REPOSITORY!r})")
    assert re.search(r"CheckpointError: .* on the hub has no \*\.safetensors", last_line(err))


def test_a_flipped_byte_in_the_cache_is_found_by_the_files_name(hub: Hub, client: Client) -> None:
    out, _ = client.run(f"print(resolve({REPOSITORY!r}))")
    shard = (Path(out) / "model-00001-of-00003.safetensors").resolve()
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.chmod(0o644)
    shard.write_bytes(content)
    _, err = client.run(
        f"""
import torch
from dgemma_backend.config import ModelConfig
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into
folder = resolve({REPOSITORY!r})
with torch.device("meta"):
    model = DiffusionGemma(ModelConfig.from_folder(folder))
load_into(model, folder, dtype=torch.float32, device="cpu", verify=False)
load_into(model, folder, dtype=torch.float32, device="cpu")
"""
    )
    assert re.search("CheckpointError: .* is not the file it should be: its sha256", last_line(err))
