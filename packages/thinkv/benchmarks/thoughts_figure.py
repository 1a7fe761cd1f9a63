"""The figure of workload C: final answers that are right against peak bytes, every method."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crosslayer.intervals import mean_interval

STYLES = {"thinkv": "-", "oracle": "-", "shuffled": "-", "one-type": "-", "tbe": "-"}


def draw(file: Path, found: dict[str, list[tuple[float, list[float]]]]) -> None:
    """{method: [(share of the full bytes, accuracy of each seed)]} -> a picture at file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout="constrained")
    markers = "osv^D<>PX*hpdH8s^v"
    taken: list[tuple[float, float]] = []
    for i, (name, unsorted) in enumerate(found.items()):
        points = []
        for share, values in sorted(unsorted):
            mean = float(np.mean(values))
            while any(abs(share / x - 1) < 0.02 and abs(mean - y) < 0.04 for x, y in taken):
                share *= 1.025  # beside the point that is there, not over it
            taken.append((share, mean))
            points.append((share, values))
        shares = [share for share, _ in points]
        means = [float(np.mean(values)) for _, values in points]
        ends = [
            mean_interval(values)[1] or (m, m) for m, (_, values) in zip(means, points, strict=True)
        ]
        below = [max(0.0, m - max(0.0, low)) for m, (low, _) in zip(means, ends, strict=True)]
        above = [max(0.0, min(1.0, high) - m) for m, (_, high) in zip(means, ends, strict=True)]
        axes.errorbar(
            shares,
            means,
            [below, above],
            marker=markers[i % len(markers)],
            linestyle=STYLES.get(name, "--") if len(points) > 1 else "none",
            color=pyplot.get_cmap("tab20")(i % 20),
            capsize=2,
            elinewidth=0.7,
            label=name,
        )
    first = min(0.15, *(share * 0.9 for share, _ in taken))
    where = (
        "peak bytes, share of the full cache in fp16 (measured; equal points are set side by side)"
    )
    axes.set(xscale="log", xlabel=where, xlim=(first, 1.3))
    axes.set(ylabel="final answers right", ylim=(-0.03, 1.03))
    ticks = [t for t in (0.05, 0.1, 0.2, 0.3, 0.5, 1) if t >= first]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    pyplot.close(figure)
