"""The report in a real browser: light, dark, phone and print; no error, no request."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, browser, find_browser

WIDE, PHONE = 1280, 360

_OVERFLOW = """
(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (e.closest('.unseen') || e.closest('.scroll > *') || !box.width) continue;
    if (box.right > width + 0.5 || box.left < -0.5)
      found.push(e.tagName + '.' + e.getAttribute('class'));
  }
  return [document.documentElement.scrollWidth, width, found.join(' ')];
})()
"""

# Texts of a chart that leave their drawing, or that lie across each other.
_CHARTS = """
[...document.querySelectorAll('svg.chart')].flatMap(svg => {
  const field = svg.getBoundingClientRect(), found = [];
  const texts = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
  for (const [t, box] of texts) {
    if (box.left < field.left - 0.5 || box.right > field.right + 0.5
        || box.top < field.top - 0.5 || box.bottom > field.bottom + 0.5)
      found.push('outside: ' + t.textContent);
    if (box.height < 8) found.push('too small: ' + t.textContent);
  }
  const ticks = texts.filter(([t]) => t.classList.contains('tick'));
  ticks.forEach(([a, p], i) => ticks.slice(i + 1).forEach(([b, q]) => {
    if (p.left < q.right && q.left < p.right && p.top + 2 < q.bottom && q.top + 2 < p.bottom)
      found.push('overlap: ' + a.textContent + ' / ' + b.textContent);
  }));
  return found;
})
"""

# WCAG contrast of every text with the first opaque ground behind it.
_CONTRAST = """
(() => {
  const light = c => {
    const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2];
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(c) && c !== 'transparent') return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.tagName === 'title' || e.tagName === 'desc') continue;
    const style = getComputedStyle(e);
    const a = light(e.closest('svg') ? style.fill : style.color), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(ratio.toFixed(2) + ' ' + e.textContent.slice(0, 40));
  }
  return found;
})()
"""

_SHAPES = """
['.bar.normal', '.bar.anomalous', '.bar.ours', '.line.anomgan', '.line.iforest', '.line.knn1',
 '.band', '.dot', '.threshold'].filter(s => document.querySelector('svg.chart ' + s)).map(s => {
  const style = getComputedStyle(document.querySelector('svg.chart ' + s));
  return s + ' ' + (style.fill === 'none' ? style.stroke : style.fill) + ' ' + style.stroke;
})
"""


@pytest.fixture(scope="module")
def program() -> str:
    found = find_browser()
    if found is None:
        if "CI" in os.environ and "ANOMGAN_NO_BROWSER" not in os.environ:
            pytest.fail("no browser to look at the report with: install chromium (apt-get install)")
        pytest.skip("no chromium or google-chrome on the PATH")
    return found


def _evaluation(folder: Path, machine_model: Path, machine_files: tuple[Path, Path]) -> Path:
    """Everything in it: all kinds of columns, long names, an identifier, labels."""
    import polars as pl

    from anomgan.bundle import Bundle
    from anomgan.calibration import Calibrator
    from anomgan.evaluation.known import KnownRows
    from anomgan.evaluation.labelled import evaluate_scores, score_labelled
    from anomgan.report.evaluated import EvaluationReport
    from anomgan.serving import Scorer
    from anomgan.tables import LabelReader
    from anomgan.tables.readers import open_table

    table, output = str(folder / ("long-name-" * 12 + ".csv")), folder / "report.html"
    state = ["ok"] * 100 + ["a fault with a long name that does not end " * 3] * 100
    frame = pl.read_csv(machine_files[1], infer_schema=False)
    frame.with_columns(state=pl.Series(state)).write_csv(table)
    bundle, scorer = Bundle.open(machine_model), Scorer.open(machine_model, providers="cpu")
    report = EvaluationReport(
        str(output), table=table, model=machine_model, scorer=scorer, label="state"
    )
    with report, open_table(table) as reader:
        scored = score_labelled(
            *(scorer, reader, LabelReader("state", ["ok"], table)),
            label="state",
            known=KnownRows.of(bundle),
            calibrator=Calibrator.from_arrays(bundle.arrays("calibration.npz")),
            observe=report.add,
        )
        made_at = datetime(2026, 3, 1, tzinfo=UTC)
        report.write(scored, evaluate_scores(scored), made_at=made_at, seed=0)
    return output


def _scores(folder: Path, machine_model: Path, machine_files: tuple[Path, Path]) -> Path:
    """Scored rows without labels: drift in several columns, columns ignored, flags by FDR."""
    import polars as pl

    from anomgan.report.scored import ScoreReport
    from anomgan.serving import Scorer
    from anomgan.serving.files import score_table
    from anomgan.tables.readers import open_table

    table, scores = str(folder / ("long-name-" * 12 + ".csv")), str(folder / "scores.csv")
    frame = pl.read_csv(machine_files[1], infer_schema=False)
    third = pl.int_range(pl.len()) % 3 == 0
    moved = frame.with_columns(
        load_pct=pl.when(third).then(None).otherwise("load_pct"),
        mode=pl.when(third).then(pl.lit("a mode with a long name " * 6)).otherwise("mode"),
        **{"a column that nobody knows " * 8: pl.lit("x")},
    )
    pl.concat([moved] * 5).write_csv(table)
    scorer = Scorer.open(machine_model, providers="cpu")
    report = ScoreReport(
        str(folder / "report.html"),
        table=table,
        scores=scores,
        model=machine_model,
        scorer=scorer,
        false_discovery_rate=0.1,
    )
    with report, open_table(table) as reader:
        options = {"false_discovery_rate": 0.1, "observe": report.add}
        summary = score_table(scorer, reader, scores, **options)  # type: ignore[arg-type]
        assert summary.drift is not None
        assert len(summary.drift.departures) >= 2
        report.write(summary, made_at=datetime(2026, 3, 1, tzinfo=UTC))
    return folder / "report.html"


@pytest.fixture(scope="module", params=[_evaluation, _scores], ids=["evaluation", "scores"])
def page(
    request: pytest.FixtureRequest,
    machine_model: Path,
    machine_files: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A report of each kind."""
    made: Path = request.param(tmp_path_factory.mktemp("report"), machine_model, machine_files)
    return made


@pytest.fixture(scope="module")
def shown(program: str, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(program, tmp_path_factory.mktemp("browser") / "profile") as opened:
        opened.open(page)
        yield opened


def _pixels(png: bytes) -> np.ndarray:
    """The pixels of an eight-bit PNG without interlacing, [height, width, channels]."""
    at, data = 8, b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            data += body
        at += size + 12
    channels = {2: 3, 6: 4}[colour]
    raw = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, -1)
    rows, above = [], np.zeros(width * channels, np.int64)
    for filter_, *line in raw[:40].tolist():  # the head of the page is enough
        row = np.zeros(width * channels, np.int64)
        for i, value in enumerate(line):
            left = row[i - channels] if i >= channels else 0
            corner = above[i - channels] if i >= channels else 0
            guess = [0, left, above[i], (left + above[i]) // 2, _paeth(left, above[i], corner)]
            row[i] = (value + guess[filter_]) % 256
        rows.append(row)
        above = row
    return np.array(rows).reshape(len(rows), width, channels)


def _paeth(a: int, b: int, c: int) -> int:
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_nothing_leaves_the_page_or_is_hard_to_read(shown: Browser, width: int, dark: bool) -> None:
    shown.show(width=width, dark=dark)
    scroll, client, found = shown.evaluate(_OVERFLOW)
    assert (client, found) == (width, "")
    assert scroll == width
    assert shown.evaluate(_CHARTS.strip()) == []
    assert shown.evaluate(_CONTRAST) == []


@pytest.mark.slow
def test_page_and_charts_follow_light_and_dark(shown: Browser) -> None:
    grounds, shapes = [], []
    for dark in (False, True):
        shown.show(width=WIDE, dark=dark)
        grounds.append(_pixels(shown.screenshot(whole=False))[..., :3].mean())
        shapes.append(shown.evaluate(_SHAPES))
    assert grounds[0] > 230
    assert grounds[1] < 40
    assert len(shapes[0]) >= 5
    assert all(light != dark for light, dark in zip(*shapes, strict=True)), shapes


@pytest.mark.slow
def test_wide_tables_scroll_in_their_own_place(shown: Browser) -> None:
    shown.show(width=PHONE)
    wider = shown.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".map(e => [getComputedStyle(e).overflowX, e.tabIndex, e.getAttribute('aria-label')])"
    )
    assert len(wider) >= 2
    assert all(overflow == "auto" and index == 0 and label for overflow, index, label in wider)


@pytest.mark.slow
def test_charts_and_rows_are_whole_on_paper(shown: Browser) -> None:
    shown.show(width=WIDE)
    pdf = shown.print()
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    shown.call("Emulation.setEmulatedMedia", media="print", features=[])
    kept = shown.evaluate(
        "[...document.querySelectorAll('figure, tbody tr')]"
        ".every(e => getComputedStyle(e).breakInside === 'avoid')"
    )
    assert kept
    assert shown.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    shown.call(
        "Emulation.setEmulatedMedia",
        media="print",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.slow
def test_the_browser_has_nothing_to_say_and_asks_for_nothing(shown: Browser, page: Path) -> None:
    said = [
        event
        for event in shown.events
        if event.get("method")
        in {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
    ]
    assert said == []
    asked = [
        event["params"]["request"]["url"]
        for event in shown.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert asked
    assert {url for url in asked if not url.startswith("data:")} == {page.resolve().as_uri()}


@pytest.mark.slow
def test_a_script_would_not_run(program: str, page: Path, tmp_path: Path) -> None:
    """The page's own policy holds where escaping would have failed, and this test can fail."""
    content = page.read_text("utf-8")
    evil = "<script>document.title = 'broken'</script><img src='http://nowhere.invalid/x.png'>"
    altered = tmp_path / "altered.html"
    altered.write_text(content.replace("</body>", evil + "</body>"), "utf-8")
    with browser(program, tmp_path / "profile") as opened:
        opened.open(altered)
        assert opened.evaluate("document.title") != "broken"
        said = [e for e in opened.events if e.get("method") == "Log.entryAdded"]
    assert len(said) >= 2
