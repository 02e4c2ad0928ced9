"""One HTML page about a data set, complete in itself: images, class balance, levels, train against test."""

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

from vdm_lib.files.records import Manifest, Record
from vdm_lib.images import picture

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } img { image-rendering: pixelated; width: 100%; max-width: 44rem }
svg { background: #fafafa; margin: .3rem 0; width: 100%; max-width: 44rem; font-size: 11px }
code { font-size: 85%; overflow-wrap: anywhere }
"""
_RGB = ("#c33", "#292", "#36c")
_WIDTH, _HEIGHT = 640, 120
# Of the width of a letter below a chart, in its units.
_LETTER = 6.2


def _picture(samples: list[Record], num_levels: int) -> str:
    canvas = picture(np.stack([record.image for record in samples]), num_levels)
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if canvas.shape[-1] == 1 else canvas).save(buffer, "PNG")
    return f'<img alt="sample images" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _chart(marks: list[str], below: list[tuple[float, str]], top: str) -> str:
    """Return a chart: its marks, words below at places across (0 to 1), and the value of its upper edge."""
    words = "".join(
        f'<text x="{place * _WIDTH:.1f}" y="{_HEIGHT + 14}" text-anchor="middle">{html.escape(word)}</text>'
        for place, word in below
    )
    scale = f'<text x="{_WIDTH + 4}" y="10">{html.escape(top)}</text>'
    box = f"-12 0 {_WIDTH + 70} {_HEIGHT + 20}"
    return f'<svg viewBox="{box}" role="img">{"".join(marks)}{scale}{words}</svg>'


def _bars(counts: list[int], names: tuple[str, ...]) -> str:
    """Return one bar for each class; the names stand below where there is room, and pop up with the count."""
    width, top = _WIDTH / len(counts), max(counts) or 1
    bars = [
        f'<rect x="{i * width:.2f}" y="{_HEIGHT * (1 - count / top):.2f}" width="{width * 0.9:.2f}" '
        f'height="{_HEIGHT * count / top:.2f}" fill="#579"><title>{html.escape(name)}: {count:,}</title></rect>'
        for i, (count, name) in enumerate(zip(counts, names, strict=True))
    ]
    fits = max(map(len, names)) * _LETTER < width
    below = [((i + 0.45) / len(names), name) for i, name in enumerate(names)] if fits else []
    return _chart(bars, below, f"{top:,}")


def _lines(histograms: dict[str, list[list[int]]]) -> str:
    """Return the share of each level: a line for each channel, dashed for every split but the first."""
    shares = {split: np.array(counts, float) for split, counts in histograms.items()}
    shares = {split: counts / counts.sum(axis=1, keepdims=True) for split, counts in shares.items()}
    top = max(float(rows.max()) for rows in shares.values())
    lines = []
    for number, (split, rows) in enumerate(shares.items()):
        colors = _RGB if len(rows) == 3 else ("#444",) * len(rows)
        dashes = ' stroke-dasharray="5 4"' if number else ""
        for row, color in zip(rows, colors, strict=True):
            points = " ".join(
                f"{i * _WIDTH / (len(row) - 1):.1f},{_HEIGHT * (1 - share / top):.1f}" for i, share in enumerate(row)
            )
            lines.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}>'
                f"<title>{html.escape(split)}</title></polyline>"
            )
    levels = next(iter(shares.values())).shape[1]
    marks = sorted({0, levels // 4, levels // 2, 3 * levels // 4, levels - 1})
    return _chart(lines, [(level / (levels - 1), str(level)) for level in marks], f"{100 * top:.2g} %")


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for row, tag in _tagged(rows)]
    return "<table><tr>" + "</tr><tr>".join([head, *body]) + "</tr></table>"


def _tagged(rows: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], str]]:
    return [(row, "td" if number else "th") for number, row in enumerate(rows)]


def _numbers(values: list[float], digits: int = 4) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def _split(name: str, manifest: Manifest, statistics: dict[str, Any], samples: list[Record]) -> str:
    info, values = manifest.splits[name], statistics["splits"][name]
    facts = [
        ("measured", "value"),
        ("images", f"{info.num_images:,}"),
        ("rejected", f"{info.num_rejected:,}"),
        ("duplicates in this split", f"{values['duplicates']:,}"),
        ("mean of each channel (0 to 1)", _numbers(values["mean"])),
        ("standard deviation", _numbers(values["std"])),
        ("least level of each channel", " / ".join(map(str, values["min_level"]))),
        ("greatest level", " / ".join(map(str, values["max_level"]))),
    ]
    return (
        f"<h2>{html.escape(name)}</h2>{_table(facts)}<p>fingerprint <code>{info.fingerprint}</code></p>"
        f"{_picture(samples, manifest.num_levels) if samples else ''}"
        f"<h3>images of each class</h3>{_bars(values['class_counts'], manifest.class_names)}"
        f"<h3>share of each level</h3>{_lines({name: values['level_histogram']})}"
    )


def page(manifest: Manifest, statistics: dict[str, Any], samples: dict[str, list[Record]]) -> str:
    """Return the page.

    Args:
        manifest: the data set.
        statistics: what `stats.json` holds.
        samples: some images of each split.
    """
    parts = [_split(name, manifest, statistics, samples[name]) for name in manifest.splits]
    if "train_and_test" in statistics:
        between = statistics["train_and_test"]
        rows = [
            ("test against train", "difference"),
            ("mean of each channel", _numbers(between["mean_difference"], 5)),
            ("standard deviation", _numbers(between["std_difference"], 5)),
            ("distance of the levels (0 equal, 1 disjoint)", _numbers(between["level_distance"])),
            ("distance of the classes", _numbers([between["class_distance"]])),
            ("test images whose pixels are in train", f"{between['test_images_in_train']:,}"),
        ]
        histograms = {split: statistics["splits"][split]["level_histogram"] for split in ("train", "test")}
        parts.append(
            f"<h2>train against test</h2>{_table(rows)}"
            f"<h3>share of each level, train and test (dashed)</h3>{_lines(histograms)}"
        )
    title = html.escape(manifest.name)
    shape = " x ".join(map(str, manifest.image_shape))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{html.escape(manifest.source)}; {html.escape(manifest.data_version)}; "
        f"{shape}, {manifest.num_levels} levels, {manifest.num_classes} classes</p>{''.join(parts)}</html>\n"
    )
