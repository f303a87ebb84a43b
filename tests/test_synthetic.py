"""Drawn weights are the same for ever; a drawn checkpoint has the released layout, in full size and small."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cf_agents.checkpoint import IGNORED, REQUIRED_FILES, S3GEN_FILE, SECTIONS, T3_FILE, VOICE_ENCODER_FILE, Checkpoint
from cf_agents.config import ModelConfig, T3Config
from cf_agents.errors import CheckpointMismatch, ConfigError
from cf_agents.models.layout import released_layout
from cf_agents.models.released import released_layouts, released_networks
from cf_agents.synthetic import TINY, draw, tokenizer_json, write_checkpoint

GOLDENS = Path(__file__).parent / "goldens"


def released_keys() -> dict[str, dict[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the published classes, by file."""
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    with gzip.open(GOLDENS / "keys_released.txt.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            file, name, shape = line.rstrip("\n").split("\t")
            files.setdefault(file, {})[name] = tuple(int(size) for size in shape.split(",") if size)
    return files


def test_the_networks_are_the_released_files_and_nothing_else() -> None:
    want = released_keys()
    assert {file: len(keys) for file, keys in want.items()} == {T3_FILE: 292, S3GEN_FILE: 2491, VOICE_ENCODER_FILE: 16}
    layouts = released_layouts(ModelConfig())
    assert set(layouts) == set(want)
    for file, layout in layouts.items():
        assert layout == {name: shape for name, shape in want[file].items() if name not in IGNORED[file]}
        assert set(IGNORED[file]) <= set(want[file])


def test_each_network_owns_one_section() -> None:
    networks = released_networks(ModelConfig())
    assert {file: set(modules) for file, modules in networks.items()} == {file: set(own) for file, own in SECTIONS.items()}


@pytest.mark.parametrize(
    ("name", "shape", "digest"),
    [
        ("speech_head.weight", (6600, 8), "78b3705161d9"),
        ("tfmr.layers.0.self_attn.o_proj.weight", (8, 8), "665ba0de89e2"),
        ("mel2wav.f0_predictor.classifier.bias", (1,), "de379749e422"),
        ("speaker_encoder.xvector.tdnn.nonlinear.batchnorm.running_var", (16,), "490672350596"),
    ],
)
def test_draws_never_change(name: str, shape: tuple[int, ...], digest: str) -> None:
    """Goldens were made with them. Rounded, because the last bit of a square root may differ between processors."""
    value = np.round(draw(name, shape).astype(np.float64) * 1e4).astype(np.int64)
    assert hashlib.sha256(value.tobytes()).hexdigest()[:12] == digest


def test_draws_depend_on_name_and_seed() -> None:
    assert not np.array_equal(draw("a.weight", (4, 4)), draw("b.weight", (4, 4)))
    assert not np.array_equal(draw("a.weight", (4, 4)), draw("a.weight", (4, 4), seed=1))


def test_the_tiny_folder_is_whole_small_and_says_what_it_is(tiny_folder: Path) -> None:
    files = [path for path in tiny_folder.iterdir() if path.is_file()]
    assert {path.name for path in files} == {*REQUIRED_FILES, "config.json"}
    assert sum(path.stat().st_size for path in files) < 15e6
    checkpoint = Checkpoint.open(tiny_folder)
    assert checkpoint.config == TINY
    assert not checkpoint.config.trained
    checkpoint.verify()


def test_every_network_of_the_tiny_folder_is_filled_with_the_draws(tiny_folder: Path) -> None:
    checkpoint = Checkpoint.open(tiny_folder)
    for file, modules in released_networks(checkpoint.config).items():
        for prefix, module in modules.items():
            checkpoint.fill(module, file, prefix)
            layout, state = released_layout(module, prefix), module.state_dict()
            for name, value in state.items():
                if prefix + name in layout:
                    want = torch.from_numpy(draw(prefix + name, layout[prefix + name]))
                    torch.testing.assert_close(value.float(), want, rtol=1e-3, atol=1e-6)


def test_verify_finds_what_is_wrong_in_any_file(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    data = (tmp_path / S3GEN_FILE).read_bytes()
    (tmp_path / S3GEN_FILE).write_bytes(
        data.replace(b'"speaker_encoder.head.conv1.weight"', b'"speaker_encoder.head.conv9.weight"')
    )
    with pytest.raises(CheckpointMismatch, match=r"1 missing: speaker_encoder\.head\.conv1.*1 unexpected: .*conv9"):
        Checkpoint.open(tmp_path).verify()


def test_the_same_arguments_write_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    small = dataclasses.replace(TINY, t3=dataclasses.replace(TINY.t3, num_layers=1), trained=True)
    first, second = write_checkpoint(tmp_path / "a", small), write_checkpoint(tmp_path / "a", small, seed=1)
    assert first == second
    changed = (second / VOICE_ENCODER_FILE).read_bytes()
    write_checkpoint(tmp_path / "a", small)
    again = (second / VOICE_ENCODER_FILE).read_bytes()
    assert again == (tiny_folder / VOICE_ENCODER_FILE).read_bytes()
    assert again != changed
    assert json.loads((second / "config.json").read_text())["trained"] is False
    assert not list(second.glob("*.partial"))


def test_float32_is_written_exactly(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, dtype="float32"))
    encoder = released_networks(checkpoint.config)[VOICE_ENCODER_FILE][""]
    checkpoint.fill(encoder, VOICE_ENCODER_FILE)
    weight = encoder.state_dict()["proj.weight"]
    torch.testing.assert_close(weight, torch.from_numpy(draw("proj.weight", tuple(weight.shape))), rtol=0, atol=0)


@pytest.mark.parametrize("config", [T3Config(text_vocab=60), T3Config(text_vocab=5000), T3Config(start_text=1)])
def test_a_vocabulary_that_no_tokenizer_is_made_for(config: T3Config) -> None:
    with pytest.raises(ConfigError, match="text_vocab"):
        tokenizer_json(config)
