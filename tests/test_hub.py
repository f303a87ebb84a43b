"""Downloads, against a hub on the loopback interface, in processes of their own: the hub library reads its environment once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cf_agents.checkpoint import REQUIRED_FILES, S3GEN_FILE
from cf_agents.hub import is_repository
from tests.hub import COMMIT, Hub

# The hub library writes in pieces of 10 MB: a transfer that ends before the first has nothing to resume.
BIG, DROPPED_AT = 13 * 2**20, 12 * 2**20

CHILD = """
import json, sys
from cf_agents.checkpoint import Checkpoint
answers = []
for source, options in json.loads(sys.argv[1]):
    try:
        answers.append({"folder": str(Checkpoint.open(source, **options).folder)})
    except Exception as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
assert "torch" not in sys.modules
print(json.dumps(answers))
"""


def open_in_child(
    asked: list[tuple[str, Mapping[str, object]]], home: Path, endpoint: str, **environment: str
) -> tuple[list[dict[str, str]], str]:
    """What `Checkpoint.open` gave or raised for each of `asked`, and what was written to standard error."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asked)],
        env={**clean, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout), child.stderr


@dataclass
class Session:
    answers: dict[str, dict[str, str]]
    hub: Hub
    home: Path


QUESTIONS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "first": ("voices/good", {}),
    "again": ("voices/good", {"progress": False}),
    "cached": ("voices/good", {"local_files_only": True}),
    "commit": ("voices/good", {"revision": COMMIT, "local_files_only": True}),
    "not cached": ("voices/other", {"local_files_only": True}),
    "absent": ("voices/nobody", {}),
    "gated": ("voices/gated", {}),
    "forbidden": ("voices/forbidden", {}),
    "revision": ("voices/good", {"revision": "v9"}),
    "partial": ("voices/partial", {}),
    "misspelt": ("voices/two--dashes", {}),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    home = tmp_path_factory.mktemp("hub")
    files = {name: name.encode() for name in REQUIRED_FILES}
    good = {
        **files,
        S3GEN_FILE: bytes(BIG),
        "config.json": b'{"name": "from the hub"}',
        "voices/ada.safetensors": b"ada",
        "README.md": b"not wanted",
        "conds.pt": b"not wanted",
    }
    partial = {name: data for name, data in files.items() if name != S3GEN_FILE}
    hub = Hub(
        {"voices/good": good, "voices/partial": partial},
        refusals={"voices/gated": (403, "GatedRepo"), "voices/forbidden": (403, "")},
        drop_after={S3GEN_FILE: DROPPED_AT},
    )
    with hub:
        answers, _ = open_in_child(list(QUESTIONS.values()), home, hub.url)
        yield Session(dict(zip(QUESTIONS, answers, strict=True)), hub, home)


def refused(session: Session, question: str) -> tuple[str, str]:
    answer = session.answers[question]
    return answer["error"], answer["message"]


def test_the_files_of_a_checkpoint_and_no_others_are_fetched(session: Session) -> None:
    folder = Path(session.answers["first"]["folder"])
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*REQUIRED_FILES, "config.json", "voices/ada.safetensors"}
    assert (folder / S3GEN_FILE).read_bytes() == bytes(BIG)


def test_a_dropped_connection_is_resumed_where_it_stopped(session: Session) -> None:
    transfers = [asked for verb, path, asked in session.hub.requests if verb == "GET" and path.endswith(S3GEN_FILE)]
    assert len(transfers) == 2
    assert transfers[0] is None
    assert transfers[1] is not None
    assert int(transfers[1].removeprefix("bytes=").split("-")[0]) >= 10 * 2**20


def test_a_complete_folder_is_not_fetched_again(session: Session) -> None:
    for question in ("again", "cached", "commit"):
        assert session.answers[question] == session.answers["first"]
    wanted = [path for verb, path, _ in session.hub.requests if verb == "GET" and path.endswith("t3_flash.safetensors")]
    assert sum("good" in path for path in wanted) == 1


@pytest.mark.parametrize(
    ("question", "kind", "said"),
    [
        ("not cached", "DownloadError", ("voices/other", "only local files were asked for", "hf download voices/other")),
        ("absent", "CheckpointNotFound", ("no repository voices/nobody", "401", "hf auth login")),
        ("gated", "DownloadError", ("voices/gated", "terms", "403", "hf auth login")),
        ("forbidden", "DownloadError", ("refused voices/forbidden", "403", "hf auth login")),
        ("revision", "CheckpointNotFound", ("voices/good", "'v9'", "branch, tag or commit")),
        ("partial", "CheckpointNotFound", ("voices/partial", "lacks s3gen.safetensors", "hf download")),
        ("misspelt", "CheckpointNotFound", ("voices/two--dashes", "owner/name")),
    ],
)
def test_a_refusal_is_typed_and_says_what_to_do(session: Session, question: str, kind: str, said: tuple[str, ...]) -> None:
    error, message = refused(session, question)
    assert error == kind, message
    for part in said:
        assert part in message


def test_offline_mode_is_honoured(session: Session) -> None:
    before = len(session.hub.requests)
    answers, _ = open_in_child([("voices/good", {}), ("voices/other", {})], session.home, session.hub.url, HF_HUB_OFFLINE="1")
    assert answers[0] == session.answers["first"]
    assert answers[1]["error"] == "DownloadError"
    assert "offline mode is on" in answers[1]["message"]
    assert len(session.hub.requests) == before


def test_no_network_falls_back_to_the_cache_and_says_so_otherwise(session: Session) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        answers, _ = open_in_child([("voices/good", {}), ("voices/other", {})], session.home, endpoint)
    assert answers[0] == session.answers["first"]
    assert answers[1]["error"] == "DownloadError"
    assert "could not be reached" in answers[1]["message"]


def test_silence_is_silent(session: Session, tmp_path: Path) -> None:
    # Position -1 makes the hub library draw its bars without a terminal.
    _, drawn = open_in_child([("voices/good", {})], tmp_path / "drawn", session.hub.url, TQDM_POSITION="-1")
    _, silent = open_in_child([("voices/good", {"progress": False})], tmp_path / "no", session.hub.url, TQDM_POSITION="-1")
    assert "%" in drawn
    assert silent == ""


@pytest.mark.parametrize(
    ("source", "yes"),
    [
        ("ResembleAI/chatterbox-flash", True),
        ("owner/name.v2", True),
        ("pocket", False),
        ("/owner/name", False),
        ("./owner", False),
        ("a/b/c", False),
        ("owner/", False),
    ],
)
def test_a_hub_id_is_owner_and_name(source: str, yes: bool) -> None:
    assert is_repository(source) is yes
