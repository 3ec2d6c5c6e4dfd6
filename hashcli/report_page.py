"""`eval --report report.html`: how well search works on the user's own photos, as one page of words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hashcli import __version__, codes, figures
from hashcli.document import document, frame, photo_link, text
from hashcli.evidence import DENSE, Curve, Evidence, Example
from hashcli.findings import Told, best_method, tell
from hashcli.thumbnails import Thumbnail, thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hashcli.eval_report import EvalRow, Summary
    from hashcli.progress import Progress

SIZE = 160  # of thumbnails, in pixels
EXAMPLES = 8


@dataclass(frozen=True)
class Report:
    """What a page is made of; `folders` are --src and --tgt where methods were compared."""

    summaries: Sequence[Summary]
    evidence: Evidence
    by_length: Sequence[EvalRow] = ()
    notes: Sequence[str] = ()
    folders: tuple[str, str] | None = None
    workers: int | None = field(default=None, compare=False)


def report_page(report: Report, progress: Progress) -> str:
    """The whole page. Raises MachineError when decoders cannot be started."""
    evidence, best = report.evidence, best_method(report.summaries)
    with progress.task("drawing figures", 9) as task:
        curves = {}
        for name in [*evidence.codes, DENSE]:
            curves[name] = evidence.curve(name)
        task.advance()
        lengths = _by_length(report, best.protocol)
        told = tell(report.summaries, evidence, curves, lengths, evidence.times(best.method), report.folders)
        task.advance()
        drawn = []
        for figure in _figures(report, best.method, curves, lengths):
            drawn.append(figure)
            task.advance()
    examples = evidence.examples(best.method, EXAMPLES)
    pictures = thumbnails(_photos(evidence, examples), SIZE, report.workers, progress)
    what = f"{len(evidence.queries.paths):,} queries, {len(evidence.gallery.paths):,} photos searched"
    body = "\n".join(
        [
            f'<header class="top"><h1>hashcli eval</h1><p>{text(what)}, {len(evidence.classes):,} classes</p></header>',
            '<main class="report">',
            _words(told),
            f"<h2>Measures</h2>{_table(report.summaries, best)}",
            f'<h2>Figures</h2><div class="figures">{"".join(drawn)}</div>',
            f"<h2>Examples</h2>{_examples(evidence, examples, pictures, best.method)}",
            _method(report),
            f"</main>\n<footer>hashcli {__version__}</footer>",
        ]
    )
    return document("hashcli eval", body, styles=("page.css", "report.css"))


def _words(told: Told) -> str:
    findings = "".join(f"<li>{text(sentence)}</li>" for sentence in told.findings)
    advice = "".join(f"<li>{text(sentence)}</li>" for sentence in told.advice)
    commands = "".join(f"<pre>{text(command)}</pre>" for command in told.commands)
    return (
        f'<h2>In short</h2><ul class="told">{findings}</ul><h2>What to do next</h2>'
        + (f'<ul class="told">{advice}</ul>' if advice else "")
        + commands
    )


def _table(summaries: Sequence[Summary], best: Summary) -> str:
    columns = {
        "map": "mAP", "precision_at_k": "precision@100", "recall_at_k": "recall@100",
        "map_radius_2": "mAP, radius 2", "share_of_empty_balls": "empty balls",
    }  # fmt: skip
    head = "".join(f"<th>{text(name)}</th>" for name in ("method", "protocol", "bits", "seeds", *columns.values()))
    rows = []
    for s in summaries:
        cells = [text(s.method), text(s.protocol), str(s.n_bits), str(s.n_seeds)]
        for name in columns:
            deviation = f" ± {s.deviation[name]:.3f}" if s.deviation else ""
            cells.append(f"{s.mean[name]:.3f}{deviation}")
        chosen = ' class="best"' if s == best else ""
        rows.append(f"<tr{chosen}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _figures(
    report: Report, best: str, curves: Mapping[str, Curve], lengths: Mapping[str, Mapping[int, float]]
) -> list[str]:
    evidence = report.evidence
    drawn = [
        _figure(figures.precision_recall(curves), "Precision and recall",
                "Higher and further right is better: recall is the share of the right photos that have been found, "
                "precision the share of those found that are right."),
        _figure(figures.top_n(curves, "precision"), "Precision of the first N",
                "How many of the first N photos are right: what a person sees on the first screens."),
        _figure(figures.top_n(curves, "recall"), "Recall of the first N",
                "How much of the right class is among the first N photos."),
    ]  # fmt: skip
    if any(len(row) > 1 for row in lengths.values()):
        about = (
            "Where a line turns flat, longer codes only cost memory. Each point is one training, with the first seed."
        )
        drawn.append(_figure(figures.by_length(lengths), "mAP by code length", about))
    drawn += [
        _figure(figures.distances(*evidence.pair_shares(best)), f"Distances ({best})",
                "The less the two hills overlap, the better a distance tells right from wrong."),
        _figure(figures.correlation(evidence.bit_correlation(best)), f"Correlation of the bits ({best})",
                "Bright squares off the diagonal are bits that say the same; gray ones never change."),
        _map(evidence, best),
    ]  # fmt: skip
    return drawn


def _map(evidence: Evidence, best: str) -> str:
    asked, given = evidence.codes[best]
    n_bits = 8 * asked.shape[1]
    drawn = figures.code_map(
        codes.unpack(asked, n_bits),
        codes.unpack(given, n_bits),
        _class_names(evidence.queries.labels, evidence.classes),
        _class_names(evidence.gallery.labels, evidence.classes),
    )
    about = (
        "Photos with near codes lie near each other (t-SNE, a sample). Triangles are queries, dots the photos "
        "searched: classes should be islands, and triangles should lie on the islands of their own color."
    )
    return _figure(drawn, f"Map of the codes ({best})", about, broad=True)


def _figure(svg: str, title: str, about: str, *, broad: bool = False) -> str:
    kind = ' class="broad"' if broad else ""
    labeled = svg.replace("<svg", f'<svg role="img" aria-label="{text(title)}"', 1)
    return f"<figure{kind}><figcaption><b>{text(title)}</b>{text(about)}</figcaption>{labeled}</figure>"


def _examples(evidence: Evidence, examples: Sequence[Example], pictures: Mapping[bytes, Thumbnail], best: str) -> str:
    asked = _class_names(evidence.queries.labels, evidence.classes)
    given = _class_names(evidence.gallery.labels, evidence.classes)
    rows = []
    for example in examples:
        path = evidence.queries.paths[example.query]
        tiles = [_tile(path, pictures, "asked-for", "looked for", asked[example.query])]
        for row, distance, right in zip(example.found, example.distances, example.right, strict=True):
            mark = '<span class="mark">✓</span>' if right else '<span class="mark">✗</span>'
            kind, said = "right" if right else "wrong", f"{mark} {distance} bits"
            tiles.append(_tile(evidence.gallery.paths[row], pictures, kind, said, given[row]))
        rows.append(f'<div class="example">{"".join(tiles)}</div>')
    about = (
        f"From the query that {best} answers best to the one it answers worst. ✓ is of the same class, ✗ of another; "
        "photos at equal distance are ordered by look."
    )
    return f"<p>{text(about)}</p>{''.join(rows)}"


def _tile(path: bytes, pictures: Mapping[bytes, Thumbnail], kind: str, said: str, label: str) -> str:
    """`said` is HTML, `label` text."""
    name = path.rpartition(b"/")[2]
    return (
        f'<a class="{kind}" href="{photo_link(path)}" target="_blank" title="{text(path)}">'
        f'{frame(pictures.get(path), name)}<span class="said">{said}</span><span class="said">{text(label)}</span></a>'
    )


def _method(report: Report) -> str:
    protocol = (
        "Query photos were held out: no training saw them, and no training saw a label of the target. Labels of the "
        "target serve here, for scoring, and nowhere else."
        if report.folders
        else "The hasher in use was measured on the photos that were given."
    )
    notes = "".join(f"<li>{text(note)}</li>" for note in report.notes)
    return (
        f"<h2>How it was measured</h2><p>{protocol} A photo is right when it is of the query's class. mAP is the mean "
        "average precision over the whole ranking; photos at equal distance count by expectation over their random "
        "order. A ball of radius 2 holds the photos whose codes differ in at most two bits. Dense features are the "
        "backbone's, ranked by cosine.</p>" + (f"<ul>{notes}</ul>" if notes else "")
    )


def _by_length(report: Report, protocol: str) -> dict[str, dict[int, float]]:
    """mAP by method and code length, with the first seed's value for the length of the other figures."""
    lengths: dict[str, dict[int, float]] = {}
    for row in report.by_length:
        if row.protocol == protocol:
            lengths.setdefault(row.method, {})[row.n_bits] = row.measures.map
    return lengths


def _class_names(labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    if labels.ndim == 1:
        return [classes[label] if label >= 0 else "" for label in labels]
    return ["; ".join(classes[int(i)] for i in np.flatnonzero(row)) for row in labels]


def _photos(evidence: Evidence, examples: Sequence[Example]) -> list[bytes]:
    asked = [evidence.queries.paths[example.query] for example in examples]
    return asked + [evidence.gallery.paths[row] for example in examples for row in example.found]
