"""The figures of a report, drawn with matplotlib, each as one `<svg>` that takes its ink from the page around it."""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import MachineError
from hashcli.evidence import DENSE, Curve, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # becomes the page's text color, so that figures fit light and dark
COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ec4899", "#8b5cf6", "#14b8a6", "#ef4444", "#84cc16")
STYLES = ("-", "--", "-.", ":")
DENSE_COLOR = "#8a8f98"
GOOD, BAD = "#10a35a", "#e5533d"
MOST_POINTS = 900  # of a t-SNE map
SIZE = (5.4, 3.7)  # inches


def check() -> None:
    """Raises MachineError when what draws is not installed."""
    missing = [name for name in ("matplotlib", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"a report needs matplotlib and scikit-learn to draw; missing: {', '.join(missing)}",
            "pip install 'hashcli[report]'",
        )


class Sheet:
    """One figure in the making: `axes` to draw on, then `svg`."""

    axes: Axes
    svg: str = ""


@contextmanager
def sheet(name: str, size: tuple[float, float] = SIZE) -> Iterator[Sheet]:
    """Axes in the report's style; when the block ends, `svg` is set. `name` keeps the ids of two figures apart."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": name,
        "font.family": "sans-serif", "font.size": 10,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.grid": True,
        "grid.color": DENSE_COLOR, "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
        "lines.linewidth": 1.8, "savefig.transparent": True,
    }  # fmt: skip
    result = Sheet()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that matplotlib's own font lacks: the page's has them
        figure = Figure(figsize=size, layout="constrained")
        result.axes = figure.add_subplot()
        yield result
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # text in the page's own font; the ids of groups, which no figure needs, repeat from figure to figure
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    result.svg = re.sub(r'<g id="[^"]+"', "<g", re.sub(r"(?s)<metadata>.*?</metadata>", "", svg))


def precision_recall(curves: Mapping[str, Curve]) -> str:
    """Precision over recall as ever more of the nearest photos are looked at."""
    with sheet("precision-recall") as drawn:
        for (name, curve), line in zip(curves.items(), _lines(curves), strict=True):
            drawn.axes.plot(curve.recall, curve.precision, label=name, **line)
        _frame(drawn.axes, "recall", "precision")
        drawn.axes.set_xlim(0, 1)
    return drawn.svg


def top_n(curves: Mapping[str, Curve], what: str) -> str:
    """`what`, precision or recall, of the first N photos."""
    with sheet(f"top-n-{what}") as drawn:
        for (name, curve), line in zip(curves.items(), _lines(curves), strict=True):
            drawn.axes.plot(curve.cuts, getattr(curve, what), label=name, **line)
        _frame(drawn.axes, "first N photos", what)
        drawn.axes.set_xscale("log")
        drawn.axes.xaxis.set_major_formatter("{x:g}")
    return drawn.svg


def by_length(values: Mapping[str, Mapping[int, float]]) -> str:
    """mAP over code length, by method."""
    lengths = sorted({n_bits for row in values.values() for n_bits in row})
    with sheet("by-length") as drawn:
        for (name, row), line in zip(values.items(), _lines(values), strict=True):
            known = sorted(row)
            drawn.axes.plot([lengths.index(n) for n in known], [row[n] for n in known], marker="o", label=name, **line)
        _frame(drawn.axes, "bits of a code", "mAP")
        drawn.axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    return drawn.svg


def distances(matching: Floats, others: Floats) -> str:
    """How far matching pairs of photos, and others, lie apart."""
    with sheet("distances") as drawn:
        places = np.arange(len(matching))
        drawn.axes.fill_between(places, matching, step="mid", color=GOOD, alpha=0.45, lw=0, label="same class")
        drawn.axes.fill_between(places, others, step="mid", color=BAD, alpha=0.45, lw=0, label="other class")
        drawn.axes.set(
            xlabel="Hamming distance (bits that differ)", ylabel="share of pairs", xlim=(0, len(matching) - 1)
        )
        drawn.axes.set_ylim(bottom=0)
        drawn.axes.legend()
    return drawn.svg


def correlation(matrix: Floats) -> str:
    """Correlation of each bit with each other, without its sign: bright squares are bits that say the same."""
    from matplotlib import colormaps

    with sheet("correlation") as drawn:
        colors = colormaps["magma"].with_extremes(bad=DENSE_COLOR)
        shown = drawn.axes.imshow(np.abs(matrix), cmap=colors, vmin=0, vmax=1, interpolation="nearest")
        drawn.axes.grid(visible=False)
        drawn.axes.set(xlabel="bit", ylabel="bit")
        drawn.axes.figure.colorbar(shown, ax=drawn.axes, label="|correlation|")
    return drawn.svg


def code_map(
    query_bits: NDArray[np.uint8],
    gallery_bits: NDArray[np.uint8],
    query_classes: Sequence[str],
    gallery_classes: Sequence[str],
) -> str:
    """t-SNE of codes by Hamming distance (van der Maaten and Hinton, JMLR 2008); bits (q, n_bits), (n, n_bits)."""
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    kept = [_spread(len(query_bits), MOST_POINTS // 3), _spread(len(gallery_bits), 2 * MOST_POINTS // 3)]
    bits = np.concatenate([query_bits[kept[0]], gallery_bits[kept[1]]]).astype(np.float32)
    # codes that are equal would fall on one point; half a bit apart they show how many they are
    bits += np.random.default_rng(0).uniform(-0.25, 0.25, bits.shape).astype(np.float32)
    perplexity = min(30.0, (len(bits) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(bits)
    n_queries = len(kept[0])
    sides = [
        (places[:n_queries], [query_classes[i] for i in kept[0]], "^", 16, "queries"),
        (places[n_queries:], [gallery_classes[i] for i in kept[1]], "o", 9, "searched"),
    ]
    names = sorted({*sides[0][1], *sides[1][1]})
    colors = {name: _class_color(i, len(names)) for i, name in enumerate(names)}
    with sheet("code-map", (7.2, 5.2)) as drawn:
        for points, labels, marker, size, _ in sides:
            for name in names:
                own = points[[label == name for label in labels]]
                if len(own):
                    drawn.axes.scatter(
                        own[:, 0], own[:, 1], s=size, marker=marker, color=colors[name], alpha=0.75, lw=0
                    )
        drawn.axes.set(xticks=[], yticks=[])
        drawn.axes.spines[:].set_visible(False)
        if len(names) <= 20:
            for name in names:
                drawn.axes.scatter([], [], color=colors[name], label=f" {name[:24]}", s=22)
            drawn.axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return drawn.svg


def _class_color(place: int, n: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](place) if n <= 10 else colormaps["hsv"](0.95 * place / n)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _lines(names: Sequence[str] | Mapping[str, Any]) -> list[dict[str, Any]]:
    """Color and stroke of each line; no two lines are told apart by color alone."""
    lines = []
    for i, name in enumerate(names):
        if name == DENSE:
            lines.append({"color": DENSE_COLOR, "linestyle": (0, (1, 1))})
        else:
            lines.append({"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i % len(STYLES)]})
    return lines


def _frame(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(0, 1.02)
    axes.legend()
