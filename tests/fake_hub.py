"""A hub on loopback that answers as the ModelScope hub and the Hugging Face hub do, from files in a folder.

Only what downloading needs: file listing and file content; and ModelScope's uploads, for which any token will
do.  A repository is the folder <root>/<kind>/<owner>/<name>, kind being models or datasets.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class FakeHub:
    """Where the hub's files lie, and the environment that leads the real clients to it."""

    root: Path
    env: dict[str, str]

    def put(self, kind: str, repository: str, name: str, content: bytes) -> None:
        """Publish a file."""
        path = self.root / kind / repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def serve_hub(root: Path) -> Iterator[FakeHub]:
    """Serve `root` until the block ends."""
    root.mkdir(parents=True)

    class Handler(BaseHTTPRequestHandler):
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
            url = urlparse(self.path)
            parts = unquote(url.path).strip("/").split("/")
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            path: Path | None = None
            if parts[:2] == ["api", "v1"] and parts[-1] == "files":  # ModelScope: list a repository
                self.send(json.dumps(listing(root / "/".join(parts[2:5]))).encode(), with_body)
                return
            if (
                parts[:3] == ["api", "v1", "models"]
                and len(parts) == 5
                and (root / "/".join(parts[2:])).is_dir()
            ):
                self.send(b'{"Code": 200, "Success": true, "Data": {}}', with_body)  # ModelScope: it exists
                return
            if parts[:2] == ["api", "v1"] and parts[-1] == "repo":  # ModelScope: one file
                path = root / "/".join(parts[2:5]) / query["FilePath"]
            elif (
                len(parts) > 5 and parts[0] == "datasets" and parts[3] == "resolve"
            ):  # Hugging Face: one file
                path = root / "/".join(parts[:3]) / "/".join(parts[5:])
            if path is None or not path.is_file():
                self.send_error(404)
                return
            self.send(path.read_bytes(), with_body)

        def send(self, content: bytes, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    caches = {"MODELSCOPE_CACHE": str(root / "modelscope-cache"), "HF_HOME": str(root / "hf-home")}
    try:
        yield FakeHub(root, {"MODELSCOPE_ENDPOINT": address, "HF_ENDPOINT": address, **caches})
    finally:
        server.shutdown()


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
