"""What streaming the vocoder costs and what it changes: cost per block, pieces against the whole, and the seams as a picture.

    python benchmarks/vocoder.py                            a small model with drawn weights, seconds on a CPU
    python benchmarks/vocoder.py --full                     the released sizes with drawn weights, minutes on a CPU
    python benchmarks/vocoder.py --plot docs/seams.png      the picture too (needs matplotlib)
    python benchmarks/vocoder.py --only quality             one part: cost, quality or flow

Drawn weights make noise, not speech: costs and differences between pieces and whole mean something, how it sounds does not. The
mel is white, every frame unrelated to the last, which is harder on a window than speech is; in the
second table of windows F0 jumps by up to 100 Hz between frames, which is harder still.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cf_agents.config import ModelConfig
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.layout import assign, released_layout
from cf_agents.synthetic import TINY, draw
from cf_agents.vocoder import Vocoder

Net = TypeVar("Net", bound=nn.Module)

BLOCK = 16
SEED = 7
WINDOWS = ((8, 6), (10, 8), (12, 9), (12, 10), (12, 12), (14, 14), (20, 20))


@dataclass(frozen=True)
class Prompt:
    """The parts of a voice that the vocoder reads."""

    flow_tokens: NDArray[np.int64]
    flow_mel: NDArray[np.float32]
    xvector: NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--full", action="store_true", help="the released sizes instead of small ones")
    parser.add_argument("--only", choices=("cost", "quality", "flow"), help="one part instead of all")
    parser.add_argument("--mode", choices=("continue", "chunk"), default="continue", help="how the flow continues")
    parser.add_argument("--blocks", type=int, default=40, help="blocks of 16 tokens in the cost table")
    parser.add_argument("--prompt-s", type=float, default=3.0, help="length of the voice's prompt in seconds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="write the picture of the seams here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = ModelConfig() if args.full else TINY
    vocoder = Vocoder(
        load(Flow(dataclasses.replace(config.flow, mode=args.mode)), "flow.", args.device),
        load(HiFT(config.hift), "mel2wav.", args.device),
    )
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU, {args.threads} thread(s)"
    model = "released sizes" if args.full else "small sizes"
    print(f"{where}, torch {torch.__version__}, float32, {model} with drawn weights, flow mode {args.mode}")
    print(f"held back after a step: {vocoder.latency_samples} samples ({vocoder.latency_samples / 24:.0f} ms)\n")
    parts = {"cost": lambda: cost(vocoder, args.blocks, args.prompt_s), "quality": lambda: quality(vocoder.hift)}
    parts["flow"] = lambda: flow_difference(vocoder, args.prompt_s)
    for name in [args.only] if args.only else parts:
        parts[name]()
        print()
    if args.plot:
        plot(vocoder, args.prompt_s, args.plot)
        print(f"wrote {args.plot}")


def cost(vocoder: Vocoder, blocks: int, prompt_s: float) -> None:
    """Milliseconds of each block of one utterance, flow and HiFT apart; the best of three runs, one run for slow models."""
    started = time.perf_counter()
    voice = vocoder.prepare(make_prompt(prompt_s))
    print(f"prepare a {prompt_s:g} s prompt: {1e3 * (time.perf_counter() - started):.0f} ms")
    tokens = draw_tokens(blocks * BLOCK).to(vocoder.hift.device)
    runs: list[NDArray[np.float64]] = []
    while len(runs) < 3 and (not runs or runs[0].sum() < 10_000):
        state, times = vocoder.open(voice, SEED), np.zeros((blocks, 2))
        for block in range(blocks):
            last = block == blocks - 1
            begin = clock(vocoder)
            (mel,) = vocoder.flow.step([state.flow], [tokens[block * BLOCK : (block + 1) * BLOCK]], [last])
            middle = clock(vocoder)
            vocoder.hift.step([state.hift], [mel], [last])
            times[block] = 1e3 * (middle - begin), 1e3 * (clock(vocoder) - middle)
        runs.append(times)
    best = np.min(runs, 0)
    print(f"{'block':>6} {'flow ms':>9} {'HiFT ms':>9} {'sum':>9} {'x real time':>12}")
    shown = sorted({0, 1, 3, 9, 19, 29, blocks - 2, blocks - 1} & set(range(blocks)))
    for block in shown:
        flow, hift = best[block]
        print(f"{block + 1:>6} {flow:>9.1f} {hift:>9.1f} {flow + hift:>9.1f} {1e3 * BLOCK / 25 / (flow + hift):>12.2f}")
    if blocks >= 8:
        # The last block also gives out what was held back: the one before it is the one to compare.
        late, early = best[-4:-1].sum(1), best[3:6].sum(1)
        print(f"late blocks / blocks 4 to 6: {np.median(late) / np.median(early):.2f}")


def quality(hift: HiFT) -> None:
    """HiFT in pieces of one block against the whole, for several windows and two tempers of F0."""
    frames = 2 * BLOCK * 6
    mel = torch.from_numpy(2.0 * draw("benchmark.mel", (hift.config.mel_bins, frames)) - 5.0).to(hift.device)
    original, weight = hift.config, hift.f0_predictor.classifier.weight
    for factor in (1, 10):
        weight *= factor
        f0 = hift.f0_predictor(mel[None])[0]
        (whole,) = hift.step([hift.open(SEED)], [mel], [True])
        print(f"HiFT, {frames} frames in pieces of {2 * BLOCK} against the whole, F0 {f0.min():.0f} to {f0.max():.0f} Hz:")
        print(f"{'left':>5} {'right':>6} {'held ms':>8} {'max abs':>9} {'dB':>7} {'ms per piece':>13}")
        for left, right in WINDOWS:
            hift.config = dataclasses.replace(original, left_frames=left, right_frames=right)
            begin = time.perf_counter()
            pieces = torch.cat(in_pieces(hift, mel, 2 * BLOCK))
            spent = 1e3 * (time.perf_counter() - begin) / (frames / (2 * BLOCK))
            error = pieces - whole
            chosen = "  (default)" if (left, right) == (original.left_frames, original.right_frames) else ""
            level = 20 * torch.log10(error.square().mean().sqrt() / whole.square().mean().sqrt())
            print(f"{left:>5} {right:>6} {20 * right:>8} {error.abs().max():>9.1e} {level:>7.1f} {spent:>13.1f}{chosen}")
        weight /= factor
    hift.config = original


def flow_difference(vocoder: Vocoder, prompt_s: float) -> None:
    """The flow's mel in pieces against the same flow over the whole utterance with full attention, same noise."""
    voice, tokens = vocoder.prepare(make_prompt(prompt_s)), draw_tokens(8 * BLOCK).to(vocoder.hift.device)
    (whole,) = vocoder.flow.step([vocoder.open(voice, SEED).flow], [tokens], [True])
    state = vocoder.open(voice, SEED).flow
    pieces = [vocoder.flow.step([state], [part], [i == 7])[0] for i, part in enumerate(tokens.split(BLOCK))]
    error = (torch.cat(pieces, 1) - whole).abs()
    print(
        f"flow, 8 blocks in pieces against one step: mean abs {error.mean():.2e}, max {error.max():.2e} "
        f"(mel std {whole.std():.2f})"
    )


def plot(vocoder: Vocoder, prompt_s: float, path: Path) -> None:
    """Draw the sound around a seam, its distance from the whole, and how far samples jump at seams and inside pieces."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    hift, original = vocoder.hift, vocoder.hift.config
    voice, parts = vocoder.prepare(make_prompt(prompt_s)), draw_tokens(40 * BLOCK).to(vocoder.hift.device).split(BLOCK)
    flow = vocoder.open(voice, SEED).flow
    mel = torch.cat([vocoder.flow.step([flow], [part], [i == len(parts) - 1])[0] for i, part in enumerate(parts)], 1)
    whole = hift.step([hift.open(SEED)], [mel], [True])[0].cpu().numpy()
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    for right, colour in ((0, "tab:orange"), (original.right_frames, "tab:blue")):
        hift.config = dataclasses.replace(original, right_frames=right)
        pieces = [piece.cpu().numpy() for piece in in_pieces(hift, mel, 2 * BLOCK)]
        sound, seams = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])[:-1]
        name = f"{right} frames held back"
        span = np.arange(-72, 72) + seams[len(seams) // 2]
        axes[0].plot(np.arange(-72, 72) / 24, sound[span], color=colour, linewidth=1.2, label=name)
        around = np.stack([np.square(sound - whole)[seam - 4800 : seam + 4800] for seam in seams[1:-1]]).mean(0)
        level = 10 * np.log10(around.reshape(-1, 120).mean(1) / np.square(whole).mean() + 1e-14)
        axes[1].plot(np.arange(-4800, 4800, 120) / 24, level, color=colour, label=name)
    hift.config = original
    axes[0].plot(np.arange(-72, 72) / 24, whole[span], color="black", linestyle=":", linewidth=1.2, label="whole")
    axes[0].set(title=f"a seam, at {seams[len(seams) // 2] / 24000:.2f} s", xlabel="ms", ylabel="amplitude")
    axes[1].set(title="distance from the whole", xlabel="ms from a seam", ylabel="dB")
    jumps = np.abs(np.diff(sound))
    at, inside = jumps[seams - 1], np.delete(jumps, seams - 1)
    bins = np.linspace(0.0, max(at.max(), np.quantile(inside, 0.9999)), 50).tolist()
    axes[2].hist(inside, bins, density=True, color="lightgrey", label=f"inside pieces ({len(inside)})")
    axes[2].hist(at, bins, density=True, histtype="step", color="tab:blue", label=f"at seams ({len(at)})")
    axes[2].axvline(np.quantile(inside, 0.999), color="black", linestyle=":", linewidth=1, label="99.9 % inside")
    axes[2].set(title="jump from one sample to the next", xlabel="amplitude", ylabel="density")
    for axis in axes:
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"largest jump at {len(at)} seams {at.max():.3f}; inside pieces 99.9 % are below {np.quantile(inside, 0.999):.3f}")


def in_pieces(hift: HiFT, mel: Tensor, size: int) -> list[Tensor]:
    state, parts = hift.open(SEED), mel.split(size, 1)
    return [hift.step([state], [part], [i == len(parts) - 1])[0] for i, part in enumerate(parts)]


def make_prompt(seconds: float) -> Prompt:
    tokens = round(25 * seconds)
    mel = 2.0 * draw("benchmark.prompt", (2 * tokens, 80)) - 5.0
    return Prompt(draw_tokens(tokens).numpy(), mel, draw("benchmark.xvector", (192,)))


def draw_tokens(count: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(count).randint(0, 6561, count))


def load(module: Net, prefix: str, device: str) -> Net:
    layout = released_layout(module, prefix)
    kinds = {prefix + name: value.dtype for name, value in module.state_dict().items()}
    assign(module, lambda name: torch.from_numpy(draw(name, layout[name])).to(device, kinds.get(name, torch.float32)), prefix)
    return module


def clock(vocoder: Vocoder) -> float:
    if vocoder.hift.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
