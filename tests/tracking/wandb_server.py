"""As much of a W&B server as its client needs: runs, history, stop, alerts.

It keeps the rows and files that arrive, and says on a resume what it has, as the real
one does.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ServedRun:
    """What the server has of one run."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    upserts: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    is_stopped: bool = False

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows]


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # the client keeps its connections open

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class WandbServer:
    """Answers W&B's client; ``runs`` by their id."""

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.uploads: dict[str, bytes] = {}
        self.takes_artifacts = True
        self.max_rows: int | None = None  # then it answers no more, as on a bad day
        self.operations: list[str] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[WandbServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = str(variables.get("name") or variables.get("run") or "")
        if operation == "RunResumeStatus":
            return {"model": self._model(name)}
        if operation == "UpsertBucket":
            return {"upsertBucket": self._upsert(name, variables)}
        if operation == "RunStoppedStatus":
            run = self.runs.get(str(variables.get("runId")))
            return {"project": {"run": {"stopped": bool(run and run.is_stopped)}}}
        if operation == "NotifyScriptableRunAlert":
            self.runs[str(variables.get("runName"))].alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if "rtifact" in operation or (not operation and "name" in variables):
            return self._artifact(operation, variables)
        if operation == "CreateRunFiles":
            files = [
                {"name": path, "uploadUrl": f"{self.url}/upload/{name}/{path}"}
                for path in variables["files"]
            ]
            made = {"runID": name, "uploadHeaders": [], "files": files}
            return {"createRunFiles": made}
        return {"entity": None, "viewer": {"id": "u", "entity": "me", "flags": "{}"}}

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        run = self.runs[run_id]
        files = sent.get("files") or {}
        for line in files.get("wandb-history.jsonl", {}).get("content", ()):
            run.rows.append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", ()):
            run.summary.update(json.loads(line))
        if sent.get("complete") is not None:
            run.exit_codes.append(int(sent.get("exitcode", 0)))

    def is_full(self, run_id: str) -> bool:
        return self.max_rows is not None and (
            len(self.runs[run_id].rows) >= self.max_rows
        )

    def _artifact(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What an upload asks for, in its order; refused: no such project."""
        if not operation:
            return {"project": {"artifact": None}} if self.takes_artifacts else {}
        made: dict[str, Any] = {"id": "a", "digest": "d", "state": "PENDING"}
        if operation == "CreateArtifact":
            made["artifactSequence"] = {"id": "s", "latestArtifact": None}
            return {"createArtifact": {"artifact": made}}
        if operation == "CreateArtifactManifest":
            file = {"uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
            manifest = {"id": "m", "file": file}
            return {"createArtifactManifest": {"artifactManifest": manifest}}
        if operation == "CreateArtifactFiles":
            asked = variables.get("input", variables)["artifactFiles"]
            nodes = [{"node": self._artifact_file(file["name"])} for file in asked]
            return {"createArtifactFiles": {"files": {"edges": nodes}}}
        return {"commitArtifact": {"artifact": made}}

    def _artifact_file(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "uploadUrl": f"{self.url}/upload/artifact/{name}",
            "uploadHeaders": [],
            "storagePath": name,
            "uploadMultipartUrls": None,
            "artifact": {"id": "a"},
        }

    def _model(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        tail = json.dumps([json.dumps(run.rows[-1])] if run.rows else [])
        bucket = {
            "id": f"id-{name}",
            "name": name,
            "displayName": name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(run.rows),
            "eventsLineCount": 0,
            "historyTail": tail,
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        entity = {"id": "e", "name": "me"}
        return {"id": "p", "name": "p", "entity": entity, "bucket": bucket}

    def _upsert(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        is_new = name not in self.runs
        run = self.runs.setdefault(name, ServedRun())
        run.upserts.append(variables)
        run.config.update(json.loads(variables.get("config") or "{}"))
        if variables.get("summaryMetrics"):
            run.summary.update(json.loads(variables["summaryMetrics"]))
        entity = {"id": "e", "name": "me"}
        bucket = {
            "id": f"id-{name}",
            "name": name,
            "displayName": variables.get("displayName") or name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": {"id": "p", "name": variables["project"], "entity": entity},
            "historyLineCount": len(run.rows),
        }
        return {"bucket": bucket, "inserted": is_new}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                found = re.search(r"/files/.*/([^/]+)/file_stream$", self.path)
                if self.path == "/graphql":
                    asked = json.loads(body)
                    operation = asked.get("operationName") or ""
                    outer.operations.append(operation)
                    data = outer.answer(operation, asked.get("variables") or {})
                    self._reply({"data": data})
                elif found and outer.is_full(found[1]):
                    self._reply({}, 500)
                elif found:
                    outer.stream(found[1], json.loads(body))
                    stopped = outer.runs[found[1]].is_stopped
                    self._reply({"exitcode": None, "limits": {}, "stopped": stopped})
                else:
                    outer.uploads[self.path.removeprefix("/upload/")] = body
                    self._reply({})

            do_PUT = do_POST

            def do_GET(self) -> None:
                self._reply({})

            def _reply(self, value: Any, status: int = 200) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler
