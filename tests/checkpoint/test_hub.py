"""Publishing, against a server on this machine that speaks the Hub's protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_model
from torch import nn

import nbutils as nb
from nbutils.checkpoint.hub import Destination
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights

pytest.importorskip("huggingface_hub")

TOKEN = "hf_" + "secretsecretsecretsecretsecretsec"
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "preflight": "skip",
    "panel": "off",
}


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repos: Private or not, files and commits, by id.
        requests: Method and path of each request.
        failures: Status and message by a part of the path.
        large: Suffixes that go through LFS.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.failures: dict[str, tuple[int, str]] = {}
        self.large: tuple[str, ...] = ()
        self.blobs: dict[str, bytes] = {}

    def add(self, repo_id: str, *, private: bool = True) -> dict[str, Any]:
        """A repository without files."""
        repo = {"private": private, "files": {}, "commits": [], "branches": ["main"]}
        return self.repos.setdefault(repo_id, repo)


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def do_PUT(self) -> None:
        self._answer(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes) -> None:
        hub, path = self.server, self.path.split("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if found := self.headers.get("Authorization"):
            hub.tokens.add(found)
        for part, (status, message) in hub.failures.items():
            if part in path:
                return self._send(status, {"error": message})
        for pattern, reply in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return self._send(*reply(hub, body, *found.groups()))
        return self._send(404, {"error": f"no route {path}"})

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        self.wfile.write(data)


def create(hub: FakeHub, body: bytes) -> tuple[int, Any]:
    asked = json.loads(body)
    repo_id = f"{asked['organization']}/{asked['name']}"
    if repo_id in hub.repos:
        message = "You already created this model repo"
        return 409, {"error": message, "url": f"{hub.url}/{repo_id}"}
    # older clients say private, newer ones visibility
    is_private = asked.get("private", asked.get("visibility") == "private")
    hub.add(repo_id, private=is_private)
    return 200, {"url": f"{hub.url}/{repo_id}"}


def info(hub: FakeHub, _: bytes, repo_id: str) -> tuple[int, Any]:
    if repo_id not in hub.repos:
        return 404, {"error": "Repository not found"}
    repo = hub.repos[repo_id]
    siblings = [{"rfilename": name} for name in repo["files"]]
    return 200, {"id": repo_id, "private": repo["private"], "siblings": siblings}


def preupload(hub: FakeHub, body: bytes, *_: str) -> tuple[int, Any]:
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(hub.large) else "regular",
            "shouldIgnore": False,
        }
        for file in json.loads(body)["files"]
    ]
    return 200, {"files": files}


def batch(hub: FakeHub, body: bytes, _: str) -> tuple[int, Any]:
    objects = [
        {**asked, "actions": {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}}
        for asked in json.loads(body)["objects"]
    ]
    return 200, {"objects": objects, "transfer": "basic"}


def put(hub: FakeHub, body: bytes, oid: str) -> tuple[int, Any]:
    assert hashlib.sha256(body).hexdigest() == oid
    hub.blobs[oid] = body
    return 200, {}


def commit(hub: FakeHub, body: bytes, repo_id: str, revision: str) -> tuple[int, Any]:
    repo = hub.repos[repo_id]
    if revision not in repo["branches"]:
        return 404, {"error": f"Invalid rev id: {revision}"}
    added = {}
    for line in body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "file":
            added[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            added[value["path"]] = hub.blobs[value["oid"]]
        else:
            title = value["summary"]
    repo["files"].update(added)
    repo["commits"].append({"title": title, "revision": revision, "files": set(added)})
    oid = hashlib.sha256(body).hexdigest()
    return 200, {
        "commitUrl": f"{hub.url}/{repo_id}/commit/{oid}",
        "commitOid": oid,
        "success": True,
    }


def branch(hub: FakeHub, _: bytes, repo_id: str, name: str) -> tuple[int, Any]:
    if name in hub.repos[repo_id]["branches"]:
        return 409, {"error": "Reference already exists"}
    hub.repos[repo_id]["branches"].append(name)
    return 200, {}


ID = r"([\w.-]+/[\w.-]+)"
ROUTES: dict[str, Any] = {
    "POST /api/repos/create": create,
    f"GET /api/models/{ID}": info,
    "POST /api/validate-yaml": lambda *_: (200, {"errors": [], "warnings": []}),
    rf"POST /api/models/{ID}/preupload/([\w.%-]+)": preupload,
    rf"POST /{ID}\.git/info/lfs/objects/batch": batch,
    r"PUT /lfs/(\w+)": put,
    rf"POST /api/models/{ID}/commit/([\w.%-]+)": commit,
    rf"POST /api/models/{ID}/branch/([\w.-]+)": branch,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        # clients before 1.0 read the variable once, at their import
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


def trained(**more: Any) -> nb.TrainingCoordinator:
    run = nb.TrainingCoordinator(make_task(), run_dir="run", **{**SETTINGS, **more})
    run.train()
    return run


def load(hub: FakeHub, repo_id: str, tmp_path: Path) -> nn.Module:
    path = tmp_path / "arrived.safetensors"
    path.write_bytes(hub.repos[repo_id]["files"]["model.safetensors"])
    model = make_task(seed=7).model
    load_model(model, path)
    return model


def front_matter(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_publish_sends_exactly_weights_config_and_card(hub: FakeHub, tmp_path: Path):
    run = trained()
    url = run.publish_to_hub("ada/digits", token=TOKEN)
    repo = hub.repos["ada/digits"]
    assert set(repo["files"]) == {"model.safetensors", "config.yaml", "README.md"}
    assert repo["private"] is True
    assert url.startswith(f"{hub.url}/ada/digits/commit/")
    assert_same(weights(run.task), dict(load(hub, "ada/digits", tmp_path).state_dict()))
    for name, content in repo["files"].items():
        assert (Path("run/hub") / name).read_bytes() == content
    assert repo["commits"][0]["title"] == "Last weights of run at step 10"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_publish_tells_what_it_did_and_records_it(hub: FakeHub):
    done = trained().publish_to_hub("ada/digits", token=TOKEN, private=False)
    assert hub.repos["ada/digits"]["private"] is False
    event = read_events("run/events.jsonl")[-1]
    assert event["kind"] == "published"
    assert event["url"] == str(done)
    assert event["repo_id"] == "ada/digits"
    assert event["step"] == 10
    assert "README.md" in repr(done)
    assert "model.safetensors" in done._repr_html_()


def test_publish_leaves_the_token_nowhere(hub: FakeHub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = trained().publish_to_hub("ada/digits")
    assert hub.tokens == {f"Bearer {TOKEN}"}
    kept = [p for p in Path("run").rglob("*") if p.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]
    files = hub.repos["ada/digits"]["files"]
    assert not [name for name, data in files.items() if TOKEN.encode() in data]
    assert TOKEN not in repr(done)
    assert TOKEN not in repr(Destination("ada/digits", token=TOKEN))


def test_publish_takes_the_token_of_a_login(hub: FakeHub, monkeypatch, tmp_path):
    path = tmp_path / "hf-home" / "token"
    path.parent.mkdir()
    path.write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    trained().publish_to_hub("ada/digits")
    assert hub.tokens == {f"Bearer {TOKEN}"}


# the client's own: it streams a file in a form that its transport has deprecated
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_publish_large_files_arrive_whole(hub: FakeHub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub.large = (".safetensors", ".pt")
    run = trained()
    run.publish_to_hub("ada/d", token=TOKEN, formats=("safetensors", "state_dict"))
    assert len(hub.blobs) == 2
    assert_same(weights(run.task), dict(load(hub, "ada/d", tmp_path).state_dict()))


def test_publish_again_is_another_commit_with_the_new_weights(hub, tmp_path):
    run = trained()
    run.publish_to_hub("ada/d", token=TOKEN, formats=("safetensors", "state_dict"))
    longer = nb.TrainingCoordinator(
        run.task, run_dir="run", **{**SETTINGS, "epochs": 3}
    )
    longer.train()
    done = longer.publish_to_hub("ada/d", token=TOKEN, commit_message="more\nof it")
    commits = hub.repos["ada/d"]["commits"]
    assert [c["title"] for c in commits] == [
        "Last weights of run at step 10",
        "more\nof it",
    ]
    assert commits[1]["files"] == {"model.safetensors", "config.yaml", "README.md"}
    assert not Path("run/hub/model.pt").exists()
    assert "also holds model.pt of an earlier commit" in repr(done)
    assert_same(weights(longer.task), dict(load(hub, "ada/d", tmp_path).state_dict()))


def test_publish_to_a_branch_makes_it(hub: FakeHub):
    trained().publish_to_hub("ada/d", token=TOKEN, revision="v2")
    assert [c["revision"] for c in hub.repos["ada/d"]["commits"]] == ["v2"]


def test_publish_to_a_pull_request_makes_no_branch(hub: FakeHub):
    hub.add("ada/d")
    with pytest.raises(nb.EnvironmentProblem, match="no such revision"):
        trained().publish_to_hub("ada/d", token=TOKEN, revision="refs/pr/1")
    assert not [r for r in hub.requests if "/branch/" in r]


def test_publish_best_and_average_are_the_weights_that_were_judged(hub, tmp_path):
    run = trained(ema_decay=0.5, lr=0.05)
    run.publish_to_hub("ada/last", token=TOKEN)
    x = torch.randn(16, 6)
    with run._weights("last"):
        average = weights(run.task)
    arrived = dict(load(hub, "ada/last", tmp_path).state_dict())
    assert_same(average, arrived)
    assert not torch.equal(average["0.weight"], weights(run.task)["0.weight"])
    run.publish_to_hub("ada/best", token=TOKEN, weights="best")
    model = load(hub, "ada/best", tmp_path).eval()
    with run._weights("best"), torch.no_grad():
        assert torch.equal(model(x), run.task.model.eval()(x))
    card = hub.repos["ada/best"]["files"]["README.md"].decode()
    assert "running average with decay 0.5" in card
    assert "best val\\_loss" in card


def test_publish_public_repository_is_not_filled_unasked(hub: FakeHub):
    hub.add("ada/open", private=False)
    with pytest.raises(nb.ConfigError, match="'ada/open' is a public repository"):
        trained().publish_to_hub("ada/open", token=TOKEN)
    assert hub.repos["ada/open"]["files"] == {}


def test_publish_private_repository_stays_so_and_says_it(hub: FakeHub):
    hub.add("ada/own", private=True)
    done = trained().publish_to_hub("ada/own", token=TOKEN, private=False)
    assert "ada/own is private, as it was made" in repr(done)


@pytest.mark.parametrize("name", ["digits", "a/b/c", "a/", "/b", "a b/c", "a--b/c", ""])
def test_publish_odd_repo_id_says_what_is_expected(name: str):
    with pytest.raises(nb.ConfigError, match="it must be 'owner/name'"):
        nb.TrainingCoordinator(make_task(), **SETTINGS).publish_to_hub(name)


def test_publish_before_training_says_what_to_do(hub: FakeHub):
    run = nb.TrainingCoordinator(make_task(), run_dir="run", **SETTINGS)
    with pytest.raises(nb.CheckpointError, match=r"holds no checkpoint.*train\(\)"):
        run.publish_to_hub("ada/digits", token=TOKEN)
    assert not hub.requests
    assert not Path("run").exists()


def test_publish_without_token_says_where_to_get_one(hub: FakeHub):
    with pytest.raises(nb.EnvironmentProblem, match=r"no token .*HF_TOKEN") as caught:
        trained().publish_to_hub("ada/digits")
    assert "settings/tokens" in str(caught.value)
    assert not hub.requests


def test_publish_without_the_package_gives_the_pip_line(hub: FakeHub, monkeypatch):
    run = trained()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(nb.EnvironmentProblem, match="pip install huggingface_hub"):
        run.publish_to_hub("ada/digits", token=TOKEN)


REFUSALS = {
    401: r"does not know the token \(from the argument token=\)",
    403: r"may not write to ada/digits .*belongs to 'ada'",
    404: "knows no ada/digits",
    409: "at the same time",
    500: "answered with status 500",
}


@pytest.mark.parametrize("status", REFUSALS)
def test_publish_refusals_say_what_to_do_and_lose_nothing(hub: FakeHub, status: int):
    hub.failures["/commit/"] = (status, "the server says no")
    with pytest.raises(nb.EnvironmentProblem, match=REFUSALS[status]) as caught:
        trained().publish_to_hub("ada/digits", token=TOKEN)
    assert "Nothing is lost: the upload is prepared in" in str(caught.value)
    assert "hf upload ada/digits" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert (Path("run/hub") / "model.safetensors").exists()
    kinds = [event["kind"] for event in read_events("run/events.jsonl")]
    assert "published" not in kinds


def test_publish_unknown_token_is_told_at_the_first_request(hub: FakeHub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.failures["/api/"] = (401, "Invalid credentials")
    with pytest.raises(nb.EnvironmentProblem, match="environment variable HF_TOKEN"):
        trained().publish_to_hub("ada/digits")


def test_publish_offline_keeps_the_folder(hub: FakeHub, monkeypatch):
    run = trained()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(nb.EnvironmentProblem, match="HF_HUB_OFFLINE is set") as caught:
        run.publish_to_hub("ada/digits", token=TOKEN)
    assert str(Path("run/hub")) in str(caught.value)
    assert (Path("run/hub") / "README.md").exists()
    assert not hub.requests


def test_publish_server_down_keeps_the_folder(hub: FakeHub, monkeypatch):
    run = trained()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(nb.EnvironmentProblem, match="did not get through"):
        run.publish_to_hub("ada/digits", token=TOKEN)
    assert (Path("run/hub") / "README.md").exists()


# as above
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_publish_upload_that_breaks_off_names_the_file(hub: FakeHub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub.large = (".safetensors",)
    hub.failures["/lfs/"] = (403, "the link has expired")
    with pytest.raises(nb.EnvironmentProblem, match="Nothing is lost"):
        trained().publish_to_hub("ada/digits", token=TOKEN)
    assert hub.repos["ada/digits"]["commits"] == []


def test_publish_format_that_fails_sends_nothing(hub: FakeHub):
    with pytest.raises(nb.ConfigError, match="format 'gguf' is unknown"):
        trained().publish_to_hub("ada/digits", token=TOKEN, formats=("gguf",))
    assert not hub.requests


def test_publish_config_holds_no_place_of_this_machine(hub: FakeHub, tmp_path: Path):
    mirror, data = tmp_path / "mirror", tmp_path / "data"
    trained(mirror=str(mirror), data_dir=str(data), run_name="r").publish_to_hub(
        "ada/digits", token=TOKEN
    )
    text = hub.repos["ada/digits"]["files"]["config.yaml"].decode()
    assert str(tmp_path) not in text
    (tmp_path / "config.yaml").write_text(text)
    config = nb.RunConfig.load(tmp_path / "config.yaml")
    assert config.data.data_dir is None
    assert config.checkpoint.mirror is None
    assert config.data.batch_size == 8
    assert text.count("not published") == 2
