"""A checkpoint folder that is right is read as it is; one that is wrong is named, with what to do."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cf_agents.checkpoint import IGNORED, REQUIRED_FILES, S3GEN_FILE, T3_FILE, TOKENIZER_FILE, VOICE_ENCODER_FILE, Checkpoint
from cf_agents.config import ModelConfig, T3Config
from cf_agents.errors import CheckpointDamaged, CheckpointMismatch, CheckpointNotFound, ConfigError
from cf_agents.models.layout import WeightNormConv1d, fold_weight_norm
from cf_agents.synthetic import TINY, tokenizer_json
from cf_agents.weights import torch_dtype

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


class Part(nn.Module):
    """A stand-in network with a weight-normalised convolution and an integer buffer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)
        self.conv = WeightNormConv1d(2, width, 3)
        self.norm = nn.BatchNorm1d(2)


def stored(part: Part, prefix: str = "") -> dict[str, torch.Tensor]:
    """Random tensors in the released layout."""
    torch.manual_seed(7)
    tensors = {prefix + name: torch.randn(value.shape) for name, value in part.state_dict().items() if name != "conv.weight"}
    tensors[prefix + "norm.num_batches_tracked"] = torch.tensor(3)
    tensors[prefix + "conv.parametrizations.weight.original0"] = torch.rand(part.conv.out_channels, 1, 1) + 0.5
    tensors[prefix + "conv.parametrizations.weight.original1"] = torch.randn(part.conv.weight.shape)
    return tensors


def on_meta(build: Callable[[], nn.Module] = Part) -> nn.Module:
    with torch.device("meta"):
        return build()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(stored(Part()), tmp_path / T3_FILE)
    save_file({**stored(Part(), "flow."), **stored(Part(5), "mel2wav.")}, tmp_path / S3GEN_FILE)
    save_file(stored(Part()), tmp_path / VOICE_ENCODER_FILE)
    (tmp_path / TOKENIZER_FILE).write_text(json.dumps(tokenizer_json(T3Config())))
    return tmp_path


def change(folder: Path, file: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Checkpoint:
    tensors = {name: value.clone() for name, value in load_file(folder / file).items()}
    edit(tensors)
    save_file(tensors, folder / file)
    return Checkpoint.open(folder)


# The folder


def test_a_folder_without_a_config_is_the_released_model(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == ModelConfig()
    assert checkpoint.config.trained
    assert checkpoint.config.quantise is None
    assert not checkpoint.voices


def test_config_and_voices_are_found(folder: Path) -> None:
    (folder / "config.json").write_text('{"name": "small", "t3": {"num_layers": 3}, "trained": false}')
    (folder / "voices").mkdir()
    (folder / "voices" / "ada.safetensors").touch()
    checkpoint = Checkpoint.open(str(folder))
    assert checkpoint.config.t3 == T3Config(num_layers=3)
    assert not checkpoint.config.trained
    assert checkpoint.voices == {"ada": folder / "voices" / "ada.safetensors"}


@pytest.mark.parametrize("source", ["nowhere", "./ResembleAI/chatterbox-flash", Path("ResembleAI/chatterbox-flash")])
def test_no_folder(source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFound) as caught:
        Checkpoint.open(source)
    message = str(caught.value)
    for part in (str(source), *REQUIRED_FILES, "hf download ResembleAI/chatterbox-flash"):
        assert part in message


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="is a file; give the folder"):
        Checkpoint.open(folder / T3_FILE)


def test_missing_files_are_all_named(folder: Path) -> None:
    (folder / T3_FILE).unlink()
    (folder / TOKENIZER_FILE).unlink()
    with pytest.raises(CheckpointNotFound, match=r"lacks t3_flash\.safetensors, tokenizer\.json\. .*hf download"):
        Checkpoint.open(folder)


def test_a_folder_wins_over_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/{folder.name}"
    assert Checkpoint.open(name).folder == Path(name)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("{", CheckpointDamaged, r"config\.json is not JSON .* remove it"),
        ("", CheckpointDamaged, "is not JSON"),
        ("[]", ConfigError, "must be an object"),
        ('{"t3": {"layers": 3}}', ConfigError, r"unknown key t3\.layers.*num_layers"),
        ('{"t3": {"num_layers": "3"}}', ConfigError, r"t3\.num_layers"),
        ('{"decoding": {"steps": null}}', ConfigError, r"decoding\.steps"),
        ('{"decoding": {"steps": 0}}', ConfigError, r"steps is 0; give a value between 1 and 1000"),
        ('{"quantise": 3}', ConfigError, r"quantise is 3; choose one of \(8, 4, None\)"),
        ('{"quantise": 8.0}', ConfigError, r"quantise is 8\.0"),
    ],
)
def test_a_bad_config(folder: Path, text: str, kind: type[Exception], said: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(kind, match=said):
        Checkpoint.open(folder)


def test_a_config_is_read_back_as_it_was_written(folder: Path) -> None:
    for config in (ModelConfig(), ModelConfig(quantise=8), replace(TINY, quantise=4)):
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        assert Checkpoint.open(folder).config == config


# Damaged files


def header(data: bytes) -> bytes:
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]


def with_header(data: bytes, edit: Callable[[dict[str, dict[str, object]]], object]) -> bytes:
    old = header(data)
    entries = json.loads(old)
    edit(entries)
    new = json.dumps(entries).encode()
    return struct.pack("<Q", len(new)) + new + data[8 + len(old) :]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "is cut off: .* bytes where its header needs"),
        (lambda data: data[:40], "is cut off inside its header"),
        (lambda data: data + b"\0", "has something appended"),
        (lambda data: b"", "not a safetensors file"),
        (lambda data: b"1234567", "not a safetensors file"),
        (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "not a safetensors file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (lambda data: data[:9] + b"?" + data[10:], "header of .* is not valid"),
        (lambda data: with_header(data, lambda e: e["linear.bias"].update(shape=[9])), "linear.bias has 12 bytes"),
        (lambda data: with_header(data, lambda e: e["linear.bias"].pop("dtype")), "is not valid"),
        (lambda data: with_header(data, lambda e: e.update(strange={})), "is not valid"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = folder / T3_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointDamaged, match=said) as caught:
        Checkpoint.open(folder).fill(on_meta())
    assert str(path) in str(caught.value)


def test_a_file_that_vanished(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    (folder / T3_FILE).unlink()
    with pytest.raises(CheckpointNotFound, match=r"t3_flash\.safetensors"):
        checkpoint.fill(on_meta())


# What is in a file


def test_fill_reads_every_tensor(folder: Path) -> None:
    part = on_meta()
    Checkpoint.open(folder).fill(part)
    want = load_file(folder / T3_FILE)
    state = part.state_dict()
    for name in ("linear.weight", "linear.bias", "conv.bias", "norm.running_mean", "norm.num_batches_tracked"):
        torch.testing.assert_close(state[name], want[name], rtol=0, atol=0)
    stem = "conv.parametrizations.weight.original"
    torch.testing.assert_close(state["conv.weight"], fold_weight_norm(want[stem + "0"], want[stem + "1"]), rtol=0, atol=0)
    assert not part.training
    assert not any(value.requires_grad for value in part.parameters())


def test_fill_reads_its_own_prefix(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    part = on_meta(lambda: Part(5))
    checkpoint.fill(part, S3GEN_FILE, "mel2wav.")
    want = load_file(folder / S3GEN_FILE)["mel2wav.linear.weight"]
    torch.testing.assert_close(part.state_dict()["linear.weight"], want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", torch.float64])
def test_floats_become_the_dtype_asked_for_and_counters_stay(folder: Path, dtype: str | torch.dtype) -> None:
    part = on_meta()
    Checkpoint.open(folder).fill(part, dtype=dtype)
    wanted = torch_dtype(dtype) if isinstance(dtype, str) else dtype
    kinds = {name: value.dtype for name, value in part.state_dict().items()}
    assert kinds.pop("norm.num_batches_tracked") == torch.int64
    assert set(kinds.values()) == {wanted}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_file(folder: Path, dtype: torch.dtype) -> None:
    # Converters cast the counters along with the rest.
    checkpoint = change(folder, T3_FILE, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    part = on_meta()
    checkpoint.fill(part)
    state = part.state_dict()
    assert state["linear.weight"].dtype == torch.float32
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    assert state["norm.num_batches_tracked"] == 3
    want = load_file(folder / T3_FILE)["linear.weight"].float()
    torch.testing.assert_close(state["linear.weight"], want, rtol=0, atol=0)


def test_the_older_spelling_of_weight_norm(folder: Path) -> None:
    new = on_meta()
    Checkpoint.open(folder).fill(new)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for older, newer in (("weight_g", "original0"), ("weight_v", "original1")):
            tensors[f"conv.{older}"] = tensors.pop(f"conv.parametrizations.weight.{newer}")

    old = on_meta()
    change(folder, T3_FILE, rename).fill(old)
    torch.testing.assert_close(old.state_dict()["conv.weight"], new.state_dict()["conv.weight"], rtol=0, atol=0)


def test_everything_wrong_is_named_at_once(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["linear.bias"], tensors["norm.running_var"]
        tensors["linear.extra"] = torch.zeros(1)
        tensors["conv.bias"] = torch.zeros(7)

    with pytest.raises(CheckpointMismatch) as caught:
        change(folder, T3_FILE, spoil).fill(on_meta())
    message = str(caught.value)
    assert str(folder / T3_FILE) in message
    assert "2 missing: linear.bias, norm.running_var;" in message
    assert "1 unexpected: linear.extra;" in message
    assert "1 of another shape: conv.bias (file [7], needed [4])" in message
    assert "config.json" in message


def test_a_long_list_is_cut_after_its_count(folder: Path) -> None:
    extra = {f"extra.{index}": torch.zeros(1) for index in range(40)}
    with pytest.raises(CheckpointMismatch, match=r"40 unexpected: extra\.0, .*, \.\.\.") as caught:
        change(folder, T3_FILE, lambda tensors: tensors.update(extra)).fill(on_meta())
    assert len(str(caught.value)) < 800


def test_a_stranger_beside_the_networks_is_found_whichever_is_filled(folder: Path) -> None:
    checkpoint = change(folder, S3GEN_FILE, lambda tensors: tensors.update({"optimizer.step": torch.zeros(1)}))
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected: optimizer\.step"):
        checkpoint.fill(on_meta(), S3GEN_FILE, "flow.")


def test_each_network_answers_for_its_own_prefix(folder: Path) -> None:
    checkpoint = change(folder, S3GEN_FILE, lambda tensors: tensors.update({"flow.extra": torch.zeros(1)}))
    checkpoint.fill(on_meta(lambda: Part(5)), S3GEN_FILE, "mel2wav.")
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected: flow\.extra"):
        checkpoint.fill(on_meta(), S3GEN_FILE, "flow.")


def test_what_no_network_reads_may_be_there_or_not(folder: Path) -> None:
    part = {"tokenizer.weight": torch.ones(2, 2), "tokenizer.bias": torch.ones(2)}
    unread = {name: torch.zeros(2) for name in IGNORED[S3GEN_FILE]}
    assert unread
    for tensors in (part, unread):
        checkpoint = change(folder, S3GEN_FILE, lambda held, more=tensors: held.update(more))
        checkpoint.fill(on_meta(lambda: nn.Linear(2, 2)), S3GEN_FILE, "tokenizer.")


@pytest.mark.parametrize("kind", ["I32", "F8_E4M3"])
def test_a_quantised_file_is_refused(folder: Path, kind: str) -> None:
    path = folder / T3_FILE
    path.write_bytes(with_header(path.read_bytes(), lambda entries: entries["conv.bias"].update(dtype=kind)))
    with pytest.raises(CheckpointMismatch, match=rf"conv\.bias of .* is stored as {kind}\. .*bfloat16"):
        Checkpoint.open(folder).fill(on_meta())


def test_an_unknown_dtype(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'int4'; choose one of float32, float16, bfloat16"):
        Checkpoint.open(folder).fill(on_meta(), dtype="int4")


def test_a_network_may_not_keep_a_buffer_on_the_meta_device(folder: Path) -> None:
    class Table(Part):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(2), persistent=False)

    with pytest.raises(AssertionError, match="table"):
        Checkpoint.open(folder).fill(on_meta(Table))


# Memory


MEASURE = """
import sys
from pathlib import Path
import safetensors, torch
from safetensors.torch import save_file
from torch import nn
from cf_agents.weights import WeightFile

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

def wide():
    with torch.device("meta"):
        return nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(16))

class Watched:
    open = safetensors.safe_open

    def __init__(self, *args, **options):
        self.file = Watched.open(*args, **options)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        self.file.__exit__(*error)

    def get_tensor(self, name):
        held.append(anonymous())
        return self.file.get_tensor(name)

safetensors.safe_open, held = Watched, []
path = Path(sys.argv[1])
size = 16 * 1024 * 1024
WeightFile(path).fill(wide())  # the first time imports and warms up
for dtype, wanted in ((torch.float32, 0), (torch.float64, 8 * size)):
    held.clear()
    modules, before = wide(), anonymous()
    WeightFile(path).fill(modules, dtype=dtype)
    grown, peak = anonymous() - before, max(held) - before
    assert len(held) == 16
    assert wanted - 2**22 < grown < wanted + 2**22, (dtype, grown)
    assert peak < wanted + 2**22, (dtype, peak)
    assert all(value.dtype == dtype and value[-1, -1] == 1 for value in modules.parameters())
"""


@LINUX
def test_weights_stay_mapped_or_are_converted_one_at_a_time(tmp_path: Path) -> None:
    """In a process of its own, so that what other tests freed does not count."""
    save_file({f"{index}.weight": torch.ones(1024, 1024) for index in range(16)}, tmp_path / T3_FILE)
    child = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / T3_FILE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr


def test_importing_takes_no_tensor_library() -> None:
    code = "import sys, cf_agents.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
