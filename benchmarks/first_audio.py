"""First audio and whole utterance, the published package's `generate` and our stream in turn on the same full-size weights.

    python benchmarks/first_audio.py --peer-python PEER/bin/python [--repeats 3] [--dtype float32] [--threads 1]
    python benchmarks/first_audio.py --step          # a denoising step beside the bare matrix products of its forward
    python benchmarks/first_audio.py --ours          # without the published package
    python benchmarks/first_audio.py --device cuda --dtype bfloat16   # ours on what suits it, the package on FlashInfer

Weights are random, drawn by tensor name into a folder of the released layout (3.2 GB, kept between runs): cost carries over to
the released weights, sound does not. Both get one segment of text, the same voice (a prompt of 3 s), the same decoding
parameters and exactly the same number of speech tokens. The two programs stay loaded and take turns, so that the machine's
moods hit both alike; what counts is the ratio. PEER is made by `benchmarks/peer_environment.sh`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe  # noqa: E402

if TYPE_CHECKING:
    from cf_agents.voice import Voice

TEXT = "the train to the harbour leaves in a quarter of an hour from the platform behind you"
PROMPT_TOKENS = 75


def voice_arrays() -> dict[str, np.ndarray]:
    """A voice out of nowhere, the same in both programs: 3 s of prompt."""
    random = np.random.RandomState(7)
    speaker = random.standard_normal(256).astype(np.float32)
    return {
        "speaker": speaker / np.linalg.norm(speaker),
        "prompt_tokens": random.randint(0, 6561, 150),
        "flow_tokens": random.randint(0, 6561, PROMPT_TOKENS),
        "flow_mel": (random.standard_normal((2 * PROMPT_TOKENS, 80)) * 2 - 6).astype(np.float32),
        "xvector": random.standard_normal(192).astype(np.float32),
    }


def checkpoint(folder: Path) -> Path:
    if not (folder / "config.json").exists():
        from cf_agents.config import ModelConfig
        from cf_agents.synthetic import write_checkpoint

        print(f"writing random weights of the released sizes to {folder} ...", flush=True)
        write_checkpoint(folder, ModelConfig(), dtype="float32")
    return folder


def drawn_voice() -> Voice:
    """The voice as ours."""
    from cf_agents.engines.base import Conditioning
    from cf_agents.voice import Voice

    given = voice_arrays()
    told = Conditioning(given["speaker"], given["prompt_tokens"])
    return Voice(told, given["flow_tokens"], given["flow_mel"], given["xvector"])


# The two programs: read how many are to speak at once, let them speak, answer with a line of JSON. Ours is asked for one.


def serve_peer(folder: Path, dtype: str, threads: int, tokens: int, device: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the package prints
    spec = importlib.util.find_spec("chatterbox")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = types.ModuleType("chatterbox")  # its __init__ imports a watermarker
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["chatterbox"] = package

    import torch
    from chatterbox.models.t3.modules.cond_enc import T3Cond  # type: ignore[import-not-found]
    from chatterbox_flash.tts import ChatterboxFlashTTS, Conditionals  # type: ignore[import-not-found]

    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    tts = ChatterboxFlashTTS.from_local(folder, device, dtype=kind)
    given = {name: torch.from_numpy(array) for name, array in voice_arrays().items()}
    tts.conds = Conditionals(
        T3Cond(
            speaker_emb=given["speaker"][None].to(kind),
            cond_prompt_speech_tokens=given["prompt_tokens"][None],
            emotion_adv=0.5 * torch.ones(1, 1, 1, dtype=kind),
        ),
        {
            "prompt_token": given["flow_tokens"][None],
            "prompt_token_len": torch.tensor([PROMPT_TOKENS]),
            "prompt_feat": given["flow_mel"][None],
            "prompt_feat_len": None,
            "embedding": given["xvector"][None],
        },
    ).to(device)
    print("ready", file=answers, flush=True)
    backend = "torch" if device == "cpu" else "flashinfer"
    for line in sys.stdin:
        count = int(line)
        start = time.perf_counter()
        if count == 1:
            waves = [tts.generate(TEXT, max_speech_tokens=tokens, backend=backend)]
        else:
            given = {"conds_list": [tts.conds] * count, "max_speech_tokens": tokens, "backend": backend}
            waves = tts.generate_batch([TEXT] * count, **given)
        total = time.perf_counter() - start
        seconds = sum(wave.shape[-1] for wave in waves) / 24000
        print(json.dumps({"first": total, "total": total, "seconds": seconds}), file=answers, flush=True)


def serve_ours(folder: Path, dtype: str, threads: int, tokens: int, device: str) -> None:
    import anyio

    from cf_agents.backends import choose
    from cf_agents.checkpoint import Checkpoint
    from cf_agents.config import DecodeParams
    from cf_agents.links.base import Audio, Closed, Event, Failed, Segment
    from cf_agents.loading import thread_link

    voice = drawn_voice()
    link = thread_link(Checkpoint.open(folder), choose("auto", device, dtype, threads=threads), 1, lambda _: None)

    async def speak(seed: int) -> dict[str, float]:
        arrived: list[tuple[float, int]] = []
        over = anyio.Event()

        def receive(event: Event) -> None:
            match event:
                case Audio():
                    if event.pcm:
                        arrived.append((time.perf_counter() - start, len(event.pcm)))
                    if event.last:
                        session.close()
                case Failed():
                    raise event.error
                case Closed():
                    over.set()

        start = time.perf_counter()
        session = link.open(voice, 1e9, receive)
        session.submit(Segment(0, TEXT, DecodeParams(max_tokens=tokens), seed))
        await over.wait()
        seconds = sum(size for _, size in arrived) / 2 / link.sample_rate
        return {"first": arrived[0][0], "total": arrived[-1][0], "seconds": seconds, "chunks": len(arrived)}

    async def serve() -> None:
        print("ready", flush=True)
        for seed, _ in enumerate(sys.stdin):
            print(json.dumps(await speak(seed)), flush=True)
        await link.aclose()

    anyio.run(serve)


class Program:
    """One of the two, loaded and waiting for its turn."""

    def __init__(self, python: str, side: str, args: argparse.Namespace) -> None:
        command = [python, str(Path(__file__).resolve()), "--serve", side, "--weights", str(args.weights)]
        command += ["--dtype", args.dtype, "--threads", str(args.threads), "--tokens", str(args.tokens)]
        command += ["--device", args.device]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._read()

    def speak(self, count: int = 1) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with {self._process.wait()}; run it by hand to see why.")
        return line


def in_turn(args: argparse.Namespace) -> None:
    sides = {"ours": sys.executable} if args.ours else {"ours": sys.executable, "peer": args.peer_python}
    programs = {side: Program(python, side, args) for side, python in sides.items()}
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in programs}
    try:
        for turn in range(args.repeats + 1):
            for side, program in programs.items():
                spoken = program.speak()
                print(f"{'warm-up' if turn == 0 else turn} {side}: {json.dumps(spoken)}", flush=True)
                if turn:
                    taken[side].append(spoken)
    finally:
        for program in programs.values():
            program.close()
    print(f"\n{'':8}{'first audio s':>15}{'whole s':>10}{'real-time factor':>18}")
    median = {
        side: {key: statistics.median(each[key] for each in runs) for key in ("first", "total", "seconds")}
        for side, runs in taken.items()
    }
    for side, each in median.items():
        print(f"{side:8}{each['first']:15.2f}{each['total']:10.2f}{each['total'] / each['seconds']:18.2f}")
    if "peer" in median:
        for key, name in (("first", "first audio"), ("total", "whole utterance")):
            ratios = [ours[key] / peer["total"] for ours, peer in zip(taken["ours"], taken["peer"], strict=True)]
            print(
                f"{name}: ours / peer = {statistics.median(ratios):.3f} (turn by turn {min(ratios):.3f} to {max(ratios):.3f})"
            )


def step(args: argparse.Namespace) -> None:
    import torch

    from cf_agents.checkpoint import T3_FILE, Checkpoint
    from cf_agents.config import DecodeParams
    from cf_agents.decode import Decoder
    from cf_agents.engines.base import Conditioning, Prefix
    from cf_agents.engines.dense import DenseEngine
    from cf_agents.models.layout import without_storage
    from cf_agents.models.t3 import T3, Layer

    torch.set_num_threads(args.threads)
    source = Checkpoint.open(args.weights)
    config = source.config.t3
    with without_storage():
        t3 = T3(config)
    source.fill(t3, T3_FILE, dtype=args.dtype, device="cpu")
    layers = [layer for layer in t3.tfmr.layers if isinstance(layer, Layer)]
    assert len(layers) == len(t3.tfmr.layers), "a step has products that would not be counted"
    weights = [layer.mlp.up_proj.weight for layer in layers]
    plain = torch.randn(2 * config.block_size, config.hidden_size).to(t3.dtype)
    given = voice_arrays()
    conditioning = Conditioning(given["speaker"], given["prompt_tokens"])
    unfused = seconds(lambda: [torch.nn.functional.linear(plain, weight) for weight in weights], args.repeats)
    decoder = Decoder(DenseEngine(t3, max_rows=2, max_length=512))
    decoding = decoder.open(Prefix(conditioning, (255, *range(3, 63), 0)), DecodeParams(max_tokens=400), 0)
    hidden = torch.randn(2 * config.block_size, config.hidden_size).to(t3.dtype)
    inner = torch.randn(2 * config.block_size, config.intermediate_size).to(t3.dtype)

    def bare() -> None:
        for layer in layers:
            for product, of in zip(layer.products, (hidden, hidden, hidden, inner), strict=True):
                product(of)
        t3.head(hidden)

    with torch.inference_mode():
        packed = seconds(lambda: [layer.products[2](hidden) for layer in layers], args.repeats)
        ratios = []
        for block in range(1, args.repeats + 1):
            while decoding.block < block or decoding.step == 0:
                decoder.step([decoding])
            denoise = [seconds(lambda: decoder.step([decoding]), 1) for _ in range(6)]
            products = seconds(bare, 6)
            ratios.append(statistics.median(denoise) / products)
            print(
                f"block {block}, cache of {decoding.rows[0].length}: step {statistics.median(denoise) * 1e3:.1f} ms, "
                f"bare products {products * 1e3:.1f} ms, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"a denoising step takes {statistics.median(ratios):.3f} x the bare matrix products of its forward")
    rows = 2 * config.block_size
    print(f"a packed product of {rows} rows (gate and up) takes {packed / 2 / unfused:.2f} x the plain one of the same size")


def seconds(call: Callable[[], object], times: int) -> float:
    """Median wall time of a call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path.home() / ".cache" / "cf_agents" / "benchmark-weights")
    parser.add_argument("--peer-python", help="a Python that has chatterbox-flash 0.1.0")
    parser.add_argument("--ours", action="store_true", help="leave the published package out")
    parser.add_argument("--step", action="store_true", help="time a denoising step beside its bare products")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", choices=["ours", "peer"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve = serve_peer if args.serve == "peer" else serve_ours
        serve(args.weights, args.dtype, args.threads, args.tokens, args.device)
        return
    if not (args.step or args.ours or args.peer_python):
        parser.error("give --peer-python, --ours or --step")
    checkpoint(args.weights)
    print(f"{describe()}; {args.threads} thread(s), {args.dtype}, random weights of the released sizes, {args.tokens} tokens")
    if args.step:
        step(args)
    else:
        in_turn(args)


if __name__ == "__main__":
    main()
