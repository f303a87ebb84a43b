"""The rules of the house that a machine can hold: what the library may not do, and that what is written down is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cf_agents
from tests.snippets import Snippet, snippets

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "cf_agents").rglob("*.py"))
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("audio.md", "metrics.md")),
    *sorted(ROOT.glob("integrations/*/README.md")),
]
READ_ALOUD = [ROOT / name for name in ("Makefile", ".ci/run", "constraints.txt", "pyproject.toml", "CHANGELOG.md")]


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def names(path: Path) -> Iterator[tuple[str, int]]:
    """Every name, dotted name and imported name of a file, with its line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}", node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_the_library_does_not_print_nor_read_the_environment(path: Path) -> None:
    forbidden = {"os.environ", "os.environb", "os.getenv", "os.putenv"} | (set() if path.name == "cli.py" else {"print"})
    assert [(name, line) for name, line in names(path) if name in forbidden] == []


def test_the_search_for_names_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import os\nfrom os import environ\nprint(os.getenv('A'))\n")
    assert {name for name, _ in names(path)} >= {"os.environ", "print", "os.getenv"}


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0][0] == "Unreleased"
    assert headings[1][0] == cf_agents.__version__
    for version, date in headings[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", date), f"{version} needs its date"


@pytest.mark.parametrize("path", [*LIBRARY, *READ_ALOUD, *PAGES, *sorted((ROOT / "docs").rglob("*.md"))], ids=ids)
def test_no_file_knows_somebodys_machine(path: Path) -> None:
    found = re.search(r"(?<![\w.$)])/(tmp|root|work|home|Users)/\w", path.read_text("utf-8"))
    assert found is None, f"{found.group()}..." if found else None


@pytest.mark.parametrize("snippet", [snippet for page in PAGES for snippet in snippets(page)], ids=str)
def test_the_examples_of_the_readme_run(
    snippet: Snippet, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = snippet.absent_packages()
    if absent:
        pytest.skip(f"needs {', '.join(absent)}")
    monkeypatch.chdir(tmp_path)
    snippet.run(tmp_path, tiny_folder)


PAGE = """
Text.

```python
from pathlib import Path

from cf_agents.checkpoint import Checkpoint

assert not Checkpoint.open("ResembleAI/chatterbox-flash").config.trained
assert Path("me.wav").stat().st_size > 100_000  # from "me.wav"
Path("made.txt").write_text("made")
```

```bash
exit 1
```

```python
import anyio

await anyio.sleep(0)
raise ValueError("line 21")
```

```python
import a_framework_nobody_has
```
"""


def test_the_examples_runner(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text(PAGE, "utf-8")
    monkeypatch.chdir(tmp_path)
    good, bad, other = snippets(page)
    assert [good.line, bad.line, other.line] == [5, 19, 26]
    good.run(tmp_path, tiny_folder)
    assert (tmp_path / "made.txt").read_text() == "made"
    with pytest.raises(ValueError, match="line 21") as caught:
        bad.run(tmp_path, tiny_folder)
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("PAGE.md", 22)
    assert good.absent_packages() == bad.absent_packages() == []
    assert other.absent_packages() == ["a_framework_nobody_has"]
