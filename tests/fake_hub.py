"""A hub on loopback that answers as the ModelScope hub and the Hugging Face hub do, from files in a folder.

Only what downloading needs: file listing and file content, from any byte on; and ModelScope's uploads, for
which any token will do.  A repository is the folder <root>/<kind>/<owner>/<name>, kind being models or
datasets.  Told so, it answers some requests badly (`FakeHub.fail`).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


# An HTTP status; of the content half and then the end, one byte changed, half and then nothing, or a byte a
# second; or no answer at all.
Fault = int | Literal["cut", "corrupt", "stall", "drip", "silent"]


@dataclass(frozen=True)
class FakeHub:
    """Where the hub's files lie, and the environment that leads the real clients to it."""

    root: Path
    env: dict[str, str]
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)  # GET: address, first byte

    def fail(self, part: str, fault: Fault, times: int = 1000) -> None:
        """Answer so to the next requests whose address has `part`, the content's (GET) alone where it is of
        the content.
        """
        self.faults.extend([(part, fault)] * times)

    def put(self, kind: str, repository: str, name: str, content: bytes) -> None:
        """Publish a file."""
        path = self.root / kind / repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def put_folder(self, kind: str, repository: str, folder: Path) -> None:
        """Publish the files of a folder."""
        for path in folder.iterdir():
            self.put(kind, repository, path.name, path.read_bytes())


@contextmanager
def serve_hub(root: Path) -> Iterator[FakeHub]:
    """Serve `root` until the block ends."""
    root.mkdir(parents=True)
    released = threading.Event()  # for requests that would never end

    class Handler(BaseHTTPRequestHandler):
        first = 0  # the byte that an answer starts at

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_POST(self) -> None:
            """ModelScope: make a repository, ask for places for large files, commit files."""
            parts = self.path.strip("/").split("/")[2:]
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.headers.get("Authorization", "").removeprefix("Bearer "):
                self.send_error(401)
                return
            data: dict[str, object] = {}
            if parts == ["models"]:
                (root / "models" / body["Path"] / body["Name"]).mkdir(parents=True)
            elif parts[-1] == "batch":
                href = f"http://{self.headers['Host']}/blobs"
                data["objects"] = [
                    {**each, "actions": {"upload": {"href": f"{href}/{each['oid']}"}}}
                    for each in body["objects"]
                ]
            else:  # repos/models/<owner>/<name>/commit/<revision>
                for action in body["actions"]:
                    path = root / "/".join(parts[1:4]) / action["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    blob = root / "blobs" / (action["sha256"] or "-")
                    lfs = action["type"] == "lfs"
                    path.write_bytes(blob.read_bytes() if lfs else base64.b64decode(action["content"]))
            self.send(json.dumps({"Code": 200, "Success": True, "Data": data}).encode(), True)

        def do_PUT(self) -> None:
            """ModelScope: the content of a large file, /blobs/<sha256>."""
            blob = root / self.path.strip("/")
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            self.send(b"{}", True)

        def answer(self, with_body: bool) -> None:
            first = re.search(r"bytes=(\d+)-", self.headers.get("Range", ""))
            self.first = int(first[1]) if first and with_body else 0
            if with_body:
                hub.asked.append((self.path, self.first))
            fault = self.fault(with_body)
            if fault == "silent":
                released.wait()
                self.close_connection = True
                return
            if isinstance(fault, int):
                self.send_error(fault)
                return
            url = urlparse(self.path)
            parts = unquote(url.path).strip("/").split("/")
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            content = self.modelscope(parts, query) if parts[:2] == ["api", "v1"] else self.huggingface(parts)
            if content is None:
                self.send_error(404)
                return
            self.send(content, with_body, fault)

        def fault(self, with_body: bool) -> Fault | None:
            for each in hub.faults:
                if each[0] in self.path and (with_body or isinstance(each[1], int) or each[1] == "silent"):
                    hub.faults.remove(each)
                    return each[1]
            return None

        def modelscope(self, parts: list[str], query: dict[str, str]) -> bytes | None:
            """A listing of a repository, one file, or that it exists: /api/v1/<kind>/<owner>/<name>/..."""
            folder = root / "/".join(parts[2:5])
            if not folder.is_dir():
                return None
            if parts[-1] in ("files", "tree"):
                return json.dumps(listing(folder)).encode()
            if parts[-1] == "repo":
                return content_of(folder / query["FilePath"])
            return b'{"Code": 200, "Success": true, "Data": {}}'

        def huggingface(self, parts: list[str]) -> bytes | None:
            """/api/<kind>/<owner>/<name>/{revision,tree}/...; [/datasets]/<owner>/<name>/resolve/..."""
            if parts[0] == "api":
                folder = root / "/".join(parts[1:4])
                if not folder.is_dir():
                    return None
                files = tree(folder)
                if parts[4:5] == ["tree"]:
                    return json.dumps(files).encode()
                siblings = [{"rfilename": each["path"]} for each in files]
                return json.dumps({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}).encode()
            kind, rest = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
            return (
                content_of(root / kind / "/".join(rest[:2]) / "/".join(rest[4:])) if len(rest) > 4 else None
            )

        def send(self, content: bytes, with_body: bool, fault: Fault | None = None) -> None:
            self.send_response(206 if self.first else 200)
            self.send_header("Content-Length", str(len(content) - self.first))
            if self.first:
                self.send_header("Content-Range", f"bytes {self.first}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if not with_body:
                return
            rest = content[self.first :]
            if fault == "corrupt":
                rest = bytes([rest[0] ^ 1]) + rest[1:]
            if fault == "drip":
                for number in range(len(rest)):
                    self.wfile.write(rest[number : number + 1])
                    if released.wait(1):
                        break
            self.wfile.write(rest[: len(rest) // 2] if fault in ("cut", "stall") else rest)
            if fault == "stall":
                released.wait()
            self.close_connection = fault is not None

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    caches = {"MODELSCOPE_CACHE": str(root / "modelscope-cache"), "HF_HOME": str(root / "hf-home")}
    hub = FakeHub(root, {"MODELSCOPE_ENDPOINT": address, "HF_ENDPOINT": address, **caches})
    try:
        yield hub
    finally:
        released.set()
        server.shutdown()


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def tree(folder: Path) -> list[dict[str, object]]:
    """A repository's files in Hugging Face's form, each stored as a large file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        {
            "type": "file",
            "oid": hashlib.sha1(str(path).encode()).hexdigest(),
            "size": path.stat().st_size,
            "path": str(path.relative_to(folder)),
            "lfs": {
                "oid": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
                "pointerSize": 130,
            },
        }
        for path in files
    ]


def listing(folder: Path) -> dict[str, object]:
    """A repository's files in ModelScope's form."""
    files = [
        {
            "Path": str(path.relative_to(folder)),
            "Name": path.name,
            "Type": "blob",
            "Size": path.stat().st_size,
            "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "Revision": COMMIT,
            "CommittedDate": 0,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return {"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files}}
