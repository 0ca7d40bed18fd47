"""Reading a report as a browser would: tags balanced, ids unique, nothing fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from anomgan.evaluation.labelled import OURS, LabelledScores

VOID = {"meta", "link", "br", "hr", "img", "input", "area", "base", "col", "embed", "source"}
FETCHING = {
    "script",
    "img",
    "iframe",
    "object",
    "embed",
    "audio",
    "video",
    "source",
    "base",
    "form",
}
EXTERNAL = re.compile(r"url\s*\(|@import|(?:https?|wss?|ftp|file):|//[a-z0-9]", re.IGNORECASE)


class Page(HTMLParser):
    """A parsed page: `text` as read, `tables` as lists of rows, `faults` as sentences."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.faults: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(content)
        self.close()
        if self._open:
            self.faults.append(f"never closed: {self._open}")
        doubled = sorted({i for i in self.ids if self.ids.count(i) > 1})
        if doubled:
            self.faults.append(f"ids more than once: {doubled}")
        known = set(self.ids)
        for tag, name, value in self.attributes:
            if name in {"aria-labelledby", "aria-describedby"}:
                missing = set(value.split()) - known
            elif name == "href" and value.startswith("#"):
                missing = {value[1:]} - known
            else:
                continue
            if missing:
                self.faults.append(f"<{tag} {name}> names no element: {sorted(missing)}")

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def external(self) -> list[str]:
        """Everything that could make a browser ask for more."""
        found = [tag for tag in self.tags if tag in FETCHING]
        for tag, name, value in self.attributes:
            fetches = name in {"src", "srcset", "action", "background", "ping"}
            leads_out = name in {"href", "xlink:href"} and not value.startswith(("#", "data:,"))
            styled = name == "style" and bool(EXTERNAL.search(value))
            if fetches or leads_out or styled or name.startswith("on"):
                found.append(f"{tag} {name}={value}")
        return found

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"<{tag}> has an attribute twice: {names}")
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"td", "th"}:
            self._rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]} closes {self._open[-3:]}")
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "table":
            self.tables[self._caption] = self._rows
            self._rows = []

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside == "style":
            if EXTERNAL.search(data):
                self.attributes.append(("style", "src", data))
            return
        self.texts.append(data)
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data


def made_scores(n=300, n_anomalies=60, *, seed=0, scores=None, threshold=20.0, n_calibration=500):
    """Labelled scores of three detectors; the p-values of normal rows are what they should be."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) >= n - n_anomalies
    if scores is None:
        scores = np.exp(rng.normal(1.0, 1.0, n) + 3.0 * labels)
    order = np.argsort(np.argsort(-scores[~labels]))
    p_values = np.full(n, 1e-4)
    p_values[~labels] = (order + 1) / (order.size + 1)
    others = {"iforest": rng.normal(size=n) + labels, "knn1": np.sqrt(np.abs(scores))}
    return LabelledScores(
        labels=labels,
        scores={OURS: scores, **others},
        p_values=p_values,
        rows=np.arange(1, n + 1),
        rate=0.01,
        threshold=threshold,
        n_calibration=n_calibration,
        source="labelled.csv",
    )
