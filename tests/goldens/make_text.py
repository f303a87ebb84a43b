"""Write text_parity.json: what the peer's text cleaner makes of sentences of each class that it documents.

Run in an environment that has `chatterbox-flash` installed: `python tests/goldens/make_text.py`. Only the cleaner is
loaded, by its path inside the package, so that no model code is imported.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def peer_cleaner() -> Callable[[str], str]:
    package = importlib.util.find_spec("chatterbox_flash")
    assert package, "install chatterbox-flash to make this golden"
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "text_norm"
    spec = importlib.util.spec_from_file_location(
        "peer_text_norm", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_text_norm"] = module
    spec.loader.exec_module(module)
    return module.en_us_cleaner


def main() -> None:
    clean = peer_cleaner()
    sentences: dict[str, list[str]] = json.loads((HERE / "text_sentences.json").read_text(encoding="utf-8"))
    rows = {kind: {sentence: clean(sentence) for sentence in group} for kind, group in sentences.items()}
    (HERE / "text_parity.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(len, rows.values()))} sentences in {len(rows)} classes")


if __name__ == "__main__":
    main()
