"""Feature visualisation against lucent's published loop, and attribution against captum.

    python benchmarks/interpret_vision.py [repeats]

Times are of the processor, one thread: they hold on a busy machine too.

Feature visualisation: seconds until a planted reward (red in the upper left quarter of s' pays, green in its lower half costs; 64
pixels) is 95 % of what lucent's settings reach. "lucent's loop" is this file's own reading of what torch-lucent 0.1.8 publishes: an
image of 0.01 sd in the Fourier basis, four transforms (padding by 12, jitter 8, scales of 1 ± 0.1, turns of up to 10 degrees, jitter 4),
every one of them anew at each step, Adam 0.05, 512 steps, hooks on every layer; its package, which needs torchvision, is not run. Ours:
the defaults of method=feature_visualisation. Both rewards are those of the images as they are, not moved about.

Attribution: the same quantity of the same network by captum and here, in the same numbers of forward passes.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rhtool.interpret import attribute
from rhtool.interpret import visualise as v
from rhtool.interpret.nets import CnnReward

SIZE = 64
STEPS = 512
SHARE = 0.95


class Planted(CnnReward):
    """Mean red of the upper left quarter minus mean green of the lower half of s', seen through convolutions that average nothing."""

    def __init__(self):
        super().__init__((SIZE, SIZE, 3), {"n": 1}, ["obs", "next_obs"], hidden=(32, 32))
        half = SIZE // 2
        self.register_buffer("mask", torch.zeros(6, SIZE, SIZE))
        self.mask[3, :half, :half], self.mask[4, half:] = 1 / half**2, -1 / (half * SIZE)

    def of_visible(self, x: Tensor, action: Tensor | None = None, terminated: Tensor | None = None) -> Tensor:
        """As `CnnReward.of_visible`, plus the planted reward; the convolutions are there for their cost, and weigh 1e-3."""
        return (x * self.mask).flatten(1).sum(1) + 1e-3 * super().of_visible(x, action, terminated)


def lucents_loop(net: CnnReward, seed: int) -> list[tuple[float, float]]:
    """`(seconds, reward)` after every sixteenth step."""
    generator = torch.Generator().manual_seed(seed)
    images = v.Fourier((1, *net.image), generator, sd=0.01)
    pad = nn.ReflectionPad2d(12)
    moves = [v.jitter(8), v.affine(scale=0.1), v.affine(degrees=10), v.jitter(4)]
    outputs: dict[str, Tensor] = {}
    hooks = [
        m.register_forward_hook(lambda m, i, o, n=n: outputs.__setitem__(n, o)) for n, m in net.named_modules() if n
    ]
    optimizer = torch.optim.Adam(images.parameters(), lr=0.05)
    history, spent = [], 0.0
    for step in range(STEPS):
        start = time.process_time()
        optimizer.zero_grad()
        moved = pad(images())
        for move in moves:
            moved = move(moved, generator)
        moved = nn.functional.interpolate(moved, size=SIZE, mode="bilinear", align_corners=False)
        (-net.of_visible(moved).sum()).backward()
        optimizer.step()
        spent += time.process_time() - start
        if step % 16 == 15:
            with torch.no_grad():
                history.append((spent, float(net.of_visible(images())[0])))
    for hook in hooks:
        hook.remove()
    return history


def ours(net: CnnReward, seed: int, start: str) -> list[tuple[float, float]]:
    """The same of `visualise.maximise`, run anew for ever more steps: its time includes all that a call costs."""
    history = []
    for steps in range(16, 257, 16):
        made = STARTS[start]((1, *net.image), torch.Generator().manual_seed(seed))
        begin = time.process_time()
        found = v.maximise(net, v.reward(), made, [v.jitter(8)], steps, 0.05, seed)
        history.append((time.process_time() - begin, float(found.objective[-1, 0])))
        if history[-1][1] >= TARGET[0]:
            break
    return history


TARGET = [float("inf")]


STARTS = {
    "fourier": v.Fourier,
    "fourier, sd 1": lambda shape, generator: v.Fourier(shape, generator, sd=1.0),
    "pixel": v.Pixels,
}


def until(history: list[tuple[float, float]], reward: float) -> float:
    """Seconds until the reward is reached; infinite if it is not."""
    return next((seconds for seconds, found in history if found >= reward), float("inf"))


def timed(function: Callable[[], object], repeats: int) -> float:
    """Least seconds of some calls."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def visualisation(repeats: int) -> None:
    net = Planted().eval().requires_grad_(False)
    lines: dict[str, list[float]] = {"lucent's loop": [], **{start: [] for start in STARTS}}
    for seed in range(repeats):
        theirs = lucents_loop(net, seed)
        reached = max(reward for _, reward in theirs)
        TARGET[0] = SHARE * reached
        lines["lucent's loop"].append(until(theirs, TARGET[0]))
        for start in STARTS:
            lines[start].append(until(ours(net, seed, start), TARGET[0]))
        print(f"seed {seed}: lucent's loop reaches {reached:.3f} in {theirs[-1][0]:.1f} s of {STEPS} steps")
    base = lines["lucent's loop"]
    for name, seconds in lines.items():
        ratios = sorted(b / s for b, s in zip(base, seconds, strict=True))
        print(f"{name:>16}: {SHARE:.0%} of that after {min(seconds):6.2f} s  {ratios[len(ratios) // 2]:6.1f} x")


def attributions(repeats: int) -> None:
    from captum import attr

    torch.manual_seed(0)
    net = CnnReward((SIZE, SIZE, 3), {"n": 4}, ["obs", "action", "next_obs"]).eval().requires_grad_(False)
    x, action = torch.rand(16, 6, SIZE, SIZE), torch.eye(4)[torch.arange(16) % 4]
    f, zero = (lambda x: net.of_visible(x, action)), torch.zeros_like(x)
    groups = attribute.blocks((6, SIZE, SIZE), 16)
    mask = groups.expand(1, 6, SIZE, SIZE).contiguous()
    more = {"additional_forward_args": (action,)}
    pairs = {
        "integrated gradients, 32 points": (
            lambda: attribute.integrated_gradients(f, x, zero, 32),
            lambda: attr.IntegratedGradients(net.of_visible).attribute(
                x, zero, n_steps=32, method="riemann_middle", internal_batch_size=16, **more
            ),
        ),
        "occlusion, 16 squares": (
            lambda: attribute.occlusion(f, x, zero, groups),
            lambda: attr.FeatureAblation(net.of_visible).attribute(x, zero, feature_mask=mask, **more),
        ),
        "shapley, 4 orders": (
            lambda: attribute.shapley(f, x, zero, groups, 4),
            lambda: attr.ShapleyValueSampling(net.of_visible).attribute(
                x, zero, feature_mask=mask, n_samples=4, **more
            ),
        ),
    }
    for name, (own, theirs) in pairs.items():
        a, b = timed(own, repeats), timed(theirs, repeats)
        print(f"{name:>32}: captum {b:6.2f} s  rhtool {a:6.2f} s  {b / a:5.2f} x")


def main() -> None:
    torch.set_num_threads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    visualisation(repeats)
    attributions(repeats)


if __name__ == "__main__":
    main()
