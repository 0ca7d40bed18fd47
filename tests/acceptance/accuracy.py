"""Write docs/accuracy.md from the results in docs/accuracy/, and name the command behind each.

    python tests/acceptance/accuracy.py            writes the page
    python tests/acceptance/accuracy.py --check    fails if the page does not say what the files say

The page has a section for every results file that is there.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from papers import PRINTED as PRINTED_F1
from papers import SLACK
from papers import table as papers_table

from anomgan.evaluation.benchmark import Run, read_runs
from anomgan.evaluation.summary import markdown_table, summarise
from anomgan.presets import FlagshipParameters
from anomgan_datasets import card

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "accuracy"
FAST_SLACK = 0.5
MANY_ROWS = 1000  # training rows from which the spread over seeds is judged
# Means of the printed table over these 23 sets ("On Diffusion Modeling for Anomaly Detection",
# semi-supervised); the best three of its 26 methods.
PRINTED = {"DTE-NP": 81.84, "KNN": 81.14, "DTE-C": 81.12}

HEAD = """# Accuracy

What the default detector reaches, beside what a user would pick instead, and what each of its parts
is worth. This page is written by `python tests/acceptance/accuracy.py` from the files in
`docs/accuracy/`; each of them was made by the command that stands above its table. AUROC and
average precision are points out of 100. The splits and protocols are described in
`datasets/anomgan_datasets/splits.py`. Timings are of one thread on a shared machine: read their
ratios only.

The runs were made in parts (`--sets`, several processes) and put together; runs that two sections
share, such as `clean` with seed 0, were made once. All of anomgan's flagship were made with one
commit's defaults, on a processor that multiplies bfloat16 in units of its own. Those of the
literature's detectors are of an earlier commit, and nothing of theirs has changed since; those of
other methods owe nothing to this code. Rows a second in `cost.csv` were measured beside other work:
[performance](performance.md) has better ones.
"""


def by_set(runs: Iterable[Run], method: str, protocol: str | None = None) -> dict[str, list[float]]:
    """AUROC of one method by set, a value a seed, in points."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run.method == method and protocol in (None, run.protocol) and not run.error:
            found[run.set].append(100 * run.auroc)
    return found


def mean(found: dict[str, list[float]]) -> float:
    """Mean over sets of the mean over seeds."""
    return float(np.mean([np.mean(values) for values in found.values()]))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; floats with two decimals."""
    cells = [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def per_set(runs: Sequence[Run], shown: Sequence[str]) -> str:
    """AUROC by set and method, and our lead over the first of the others."""
    columns = {method: by_set(runs, method) for method in shown}
    rows = []
    for name in columns[shown[0]]:
        values = [float(np.mean(columns[m][name])) for m in shown]
        rows.append([name, *values, f"{values[0] - values[1]:+.2f}"])
    return table(["set", *shown, f"lead over {shown[1]}"], rows)


def clean(path: Path) -> str:
    """Line-up on the ADBench sets."""
    runs = read_runs(path)
    summary = markdown_table(summarise(runs, against="anomgan")[0])
    sets = per_set(runs, ["anomgan", "knn1", "knn5mean", "lof", "iforest", "ocsvm"])
    return f"{summary}\n{_concentration(runs)}\n\n{sets}"


def _concentration(runs: Sequence[Run]) -> str:
    """How much of the lead comes from few sets."""
    ours, nearest = by_set(runs, "anomgan"), by_set(runs, "knn1")
    leads = {name: float(np.mean(ours[name]) - np.mean(nearest[name])) for name in ours}
    order = sorted(leads, key=leads.__getitem__, reverse=True)
    first, rest = order[:3], order[3:]
    gains = ", ".join(f"{name} {leads[name]:+.1f}" for name in first)
    return (
        f"The largest leads over knn1 are {gains}. On the other {len(rest)} sets the mean lead is "
        f"{np.mean([leads[name] for name in rest]):+.2f}; the median over all {len(order)} is "
        f"{np.median(list(leads.values())):+.2f}."
    )


def published(path: Path) -> str:
    """Against printed means."""
    runs = read_runs(path)
    rows = [["anomgan (ours)", mean(by_set(runs, "anomgan"))]]
    rows += [[f"{name} (printed)", value] for name, value in PRINTED.items()]
    others = sorted({run.method for run in runs} - {"anomgan"})
    rows += [[f"{name} (measured here)", mean(by_set(runs, name))] for name in others]
    means = table(["method", "mean AUROC"], rows)
    return f"{means}\n\n{per_set(runs, ['anomgan', *others])}"


def tables(path: Path) -> str:
    """Raw tables."""
    runs = read_runs(path)
    quality = [run for run in runs if "quality" in card(run.set).use]
    reading = [run for run in runs if "quality" not in card(run.set).use]
    methods = ["anomgan", "knn1", "iforest"]
    return (
        f"Tables that their card marks for quality:\n\n{per_set(quality, methods)}\n\n"
        f"{markdown_table(summarise(quality, against='anomgan')[0])}\n"
        f"Tables that are there to be read, with little or no signal:\n\n"
        f"{per_set(reading, methods)}"
    )


def spread(path: Path) -> str:
    """Standard deviation over seeds of the model."""
    runs = read_runs(path)
    sizes = {run.set: run.rows for run in runs}
    rows = [
        [name, sizes[name], len(values), float(np.mean(values)), float(np.std(values, ddof=1))]
        for name, values in by_set(runs, "anomgan").items()
    ]
    many = [row for row in rows if int(row[1]) > MANY_ROWS]
    worst, second = sorted(many, key=lambda row: -float(row[4]))[:2]
    return (
        table(["set", "rows", "seeds", "mean AUROC", "standard deviation"], rows)
        + f"\n\nLargest on sets with over {MANY_ROWS} training rows: {worst[4]:.2f} ({worst[0]}), "
        f"then {second[4]:.2f} ({second[0]}). Of 34_smtp a single anomaly is among the test rows "
        "of this split: its AUROC is the percentile of one row, and tells little of a ranking."
    )


NAMESAKES = {
    "alad": "pyod-alad",
    "anogan": "pyod-anogan",
    "so-gaal": "pyod-so_gaal",
    "mo-gaal": "pyod-mo_gaal",
}


def literature(path: Path) -> str:
    """Detectors of the literature, beside PyOD's namesakes."""
    runs = [run for run in read_runs(path) if not run.error]
    found = {m: by_set(runs, m) for m in dict.fromkeys(run.method for run in runs)}
    ours = [m for m in found if not m.startswith("pyod-")]
    rows = [[m, len(found[m]), mean(found[m])] for m in sorted(ours, key=lambda m: -mean(found[m]))]
    pairs: list[list[object]] = []
    for own, theirs in NAMESAKES.items():
        both = sorted(set(found.get(own, {})) & set(found.get(theirs, {})))
        if both:
            means = [float(np.mean([found[m][s] for s in both])) for m in (own, theirs)]
            pairs.append([own, theirs, len(both), *means, f"{means[0] - means[1]:+.2f}"])
    text = table(["detector", "sets", "mean AUROC"], rows)
    if pairs:
        headers = ["ours", "PyOD's, as shipped", "common sets", "ours", "theirs", "lead"]
        text += "\n\n" + table(headers, pairs)
        text += (
            "\n\nPyOD's AnoGAN takes some 0.13 s a training row and fit, so it was fitted once a "
            "set, without the second fit that its false alarms would cost. It takes no seed: "
            "another run gives other figures."
        )
    return (
        f"{text}\n\nSettings of AnoGAN, f-AnoGAN, SO-GAAL, MO-GAAL, Fence-GAN, imputation and the "
        "conditional GAN were chosen with a look at up to four of these sets (cardio, Wilt, "
        f"thyroid, annthyroid), so their means flatter them.\n\n{_by_set_table(found, ours)}"
    )


def _by_set_table(found: dict[str, dict[str, list[float]]], methods: Sequence[str]) -> str:
    names = list(dict.fromkeys(name for method in methods for name in found[method]))
    rows = [[n, *(float(np.mean(found[m].get(n, [np.nan]))) for m in methods)] for n in names]
    return table(["set", *methods], rows)


def budget(path: Path) -> str:
    """More and less training."""
    runs = read_runs(path)
    default = FlagshipParameters().n_steps
    steps = {
        method: int((re.findall(r"n_steps=(\d+)", method) or [default])[0])
        for method in {run.method for run in runs}
    }
    rows = [[steps[m], mean(by_set(runs, m))] for m in sorted(steps, key=steps.__getitem__)]
    return table(["steps", "mean AUROC"], rows) + f"\n\nThe default is {default} steps."


def contamination(path: Path) -> str:
    """Anomalies among the training rows."""
    runs = read_runs(path)
    share = {
        p: float((re.findall(r"\+([\d.]+)%", p) or ["0"])[0]) for p in {r.protocol for r in runs}
    }
    protocols = sorted(share, key=share.__getitem__)
    methods = sorted({run.method for run in runs})
    clean_mean = {m: mean(by_set(runs, m, "clean")) for m in methods}
    rows: list[list[object]] = []
    for protocol in protocols:
        means = [mean(by_set(runs, m, protocol)) for m in methods]
        losses = [clean_mean[m] - value for m, value in zip(methods, means, strict=True)]
        rows.append([protocol, *means, *losses])
    return (
        table(["training rows", *methods, *[f"loss of {m}" for m in methods]], rows)
        + "\n\nAt most half of a set's anomalies go to the training rows, the others are tested: "
        "sets with few anomalies are contaminated less, and each line tests other anomalies."
    )


def ablation(path: Path) -> str:
    """Parts left out."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        pair = (100 * float(row["auroc"]), 100 * float(row["average_precision"]))
        parts[row["part"]][row["set"]].append(pair)
    values = {
        part: np.array([np.mean(pairs, axis=0) for pairs in found.values()])
        for part, found in parts.items()
    }
    full = values["anomgan"]
    lines = []
    for part, found in values.items():
        lead = full[:, 0] - found[:, 0]
        counts = f"{int((lead > 0.5).sum())}-{int((lead < -0.5).sum())}"
        lines.append(
            [
                part,
                *found.mean(axis=0).tolist(),
                f"{0.0 - lead.mean():+.2f}",
                counts if any(lead) else "-",
            ]
        )
    seeds = len({row["seed"] for row in rows})
    return (
        table(["score", "AUROC", "average precision", "difference", "full wins-loses"], lines)
        + f"\n\n{len(full)} sets, seeds: {seeds}; wins and losses by more than half a point."
    )


def cost(path: Path) -> str:
    """Fit seconds, scoring speed, size and parity."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = ["set", "rows", "columns", "fit_s", "onnx_rows_s", "model_mb", "p99", "max"]
    first = {r.set: 100 * r.auroc for r in read_runs(RESULTS / "clean.csv") if _is_first(r)}
    same = sum(abs(float(row["anomgan"]) - first[row["set"]]) < 1e-3 for row in rows)
    return (
        table(shown, [[_short(row[c]) for c in shown] for row in rows])
        + f"\n\nThe AUROC of these runs is that of `clean.csv`, seed 0, on {same} of {len(rows)} "
        "sets."
    )


def fast(path: Path) -> str:
    """The student of `export --fast` beside the score that taught it."""
    students = {run.set: 100 * run.auroc for run in read_runs(path) if not run.error}
    full = {r.set: 100 * r.auroc for r in read_runs(RESULTS / "clean.csv") if _is_first(r)}
    alarms = {run.set: run.false_alarm_rate for run in read_runs(path)}
    rows = [
        [name, full[name], value, f"{value - full[name]:+.2f}", f"{alarms[name]:.4f}"]
        for name, value in students.items()
    ]
    means = [float(np.mean([source[name] for name in students])) for source in (full, students)]
    difference = means[1] - means[0]
    verdict = "within" if difference >= -FAST_SLACK else "not within"
    return (
        table(["set", "full", "fast", "difference", "false alarms at 0.01"], rows)
        + f"\n\nMean AUROC over {len(students)} sets: full {means[0]:.2f}, fast {means[1]:.2f}, "
        f"difference {difference:+.2f}: {verdict} {FAST_SLACK} points of the full score, or above."
    )


def half(path: Path) -> str:
    """Networks in float16, of `export --precision fp16`, beside the score in float32."""
    runs = [run for run in read_runs(path) if not run.error]
    full = {r.set: r for r in read_runs(RESULTS / "clean.csv") if _is_first(r)}
    rows = [
        [
            *(run.set, 100 * full[run.set].auroc, 100 * run.auroc),
            f"{100 * (run.auroc - full[run.set].auroc):+.3f}",
            *(f"{r.false_alarm_rate:.4f}" for r in (full[run.set], run)),
        ]
        for run in runs
    ]
    gaps = [100 * (run.auroc - full[run.set].auroc) for run in runs]
    headers = ["set", "fp32", "fp16", "difference", "false alarms, fp32", "fp16"]
    return (
        table(headers, rows)
        + f"\n\nEvery value is rounded as a GPU does it. Mean AUROC over {len(runs)} sets: the "
        f"difference is {float(np.mean(gaps)):+.4f} points, at most {max(map(abs, gaps)):.3f} on "
        "one set. False alarms are those at 0.01."
    )


def rounded(path: Path) -> str:
    """Today's defaults beside float32 products in training."""
    runs = [run for run in read_runs(path) if not run.error]
    ours = {r.set: 100 * r.auroc for r in read_runs(RESULTS / "clean.csv") if _is_first(r)}
    gaps = {run.set: ours[run.set] - 100 * run.auroc for run in runs}
    rows = [[r.set, 100 * r.auroc, ours[r.set], f"{gaps[r.set]:+.2f}"] for r in runs]
    means = [float(np.mean([row[i] for row in rows])) for i in (1, 2)]
    sets = {run.set for run in runs}
    seeds = by_set(read_runs(RESULTS / "spread.csv"), "anomgan")
    shared = [name for name in seeds if name in sets]
    deviation = float(np.mean([np.std(seeds[name], ddof=1) for name in shared]))
    of_gaps = float(np.mean([abs(gaps[name]) for name in shared]))
    return (
        table(["set", "float32", "bfloat16", "difference"], rows)
        + f"\n\nMean AUROC over {len(runs)} sets: {means[0]:.2f} and {means[1]:.2f}, difference "
        f"{means[1] - means[0]:+.2f}. On the {len(shared)} sets of the section on seeds the two "
        f"differ by {of_gaps:.2f} on average; the standard deviation over seeds is {deviation:.2f}."
    )


def _is_first(run: Run) -> bool:
    return run.method == "anomgan" and run.seed == 0


def _short(text: str) -> str:
    try:
        return f"{float(text):.3g}" if not text.isdigit() else text
    except ValueError:
        return text


_BENCHMARK = "anomgan benchmark accuracy"


def papers(path: Path) -> str:
    """Precision, recall and F1 on the papers' halves, beside printed ones."""
    lines, means = papers_table([run for run in read_runs(path) if not run.error])
    kdd = "kdd99_10percent"
    alad, ours = (means[kdd, method] for method in ("alad", "anomgan"))
    printed = PRINTED_F1[kdd, "alad"][2]
    verdict = "within" if abs(alad - printed) <= SLACK or alad > printed else "not within"
    return "\n".join(
        [
            *lines,
            "",
            f"On KDD-99 ALAD's mean F1 of {alad:.4f} is {verdict} {SLACK} of the printed "
            f"{printed:.4f} or above it; the default detector has {ours:.4f}. Two of three rows of "
            "KDD-99 are copies, and copies were scored once.",
        ]
    )


def longer(path: Path) -> str:
    """EGBAD by length of training."""
    with path.open(encoding="utf-8", newline="") as file:
        found = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    rows = [
        [
            f"{f['epochs']:g}",
            f"{f['epochs_run']:.1f}",
            f"{f['minutes']:.1f}",
            *(f"{f[name]:.4f}" for name in ("precision", "recall", "f1", "auroc")),
        ]
        for f in found
    ]
    headers = ["epochs", "epochs run", "minutes", "precision", "recall", "F1", "AUROC"]
    return table(headers, rows) + (
        "\n\nA training ends where its time does, the learning rate having decayed to its end by "
        "then: `epochs run` says how far it came."
    )


_TEN_SEEDS = f"{_BENCHMARK} --suite papers --seeds 0,1,2,3,4,5,6,7,8,9"

SECTIONS: dict[str, tuple[str, str, Callable[[Path], str]]] = {
    "clean": (
        "ADBench development sets, protocol `clean`",
        f"{_BENCHMARK} --methods anomgan,knn1,knn5mean,knn5max,lof,iforest,ocsvm",
        clean,
    ),
    "published": (
        "Protocol `published`, beside printed means",
        f"{_BENCHMARK} --protocol published --seeds 0,1,2,3,4 --methods anomgan,knn1,knn5mean",
        published,
    ),
    "tables": (
        "Raw tables",
        f"{_BENCHMARK} --suite tables --seeds 0 --methods anomgan,knn1,iforest",
        tables,
    ),
    "ablation": (
        "What each part is worth",
        "python tests/acceptance/ablation.py --seeds 0",
        ablation,
    ),
    "spread": (
        "Spread over seeds of the model, same split",
        f"{_BENCHMARK} --split-seed 0 --seeds 0,1,2,3,4 --methods anomgan",
        spread,
    ),
    "budget": (
        "Fewer and more steps",
        "; ".join(
            f"{_BENCHMARK} --seeds 0 --methods anomgan{option}"
            for option in ("", *(f" --set n_steps={n}" for n in (500, 2000)))
        ),
        budget,
    ),
    "contamination": (
        "Contaminated training rows",
        f"{_BENCHMARK} --contamination 0,0.01,0.05,0.1 --seeds 0 --methods anomgan,knn1",
        contamination,
    ),
    "detectors": (
        "Detectors of the literature, protocol `clean`",
        f"{_BENCHMARK} --seeds 0 --methods alad,anogan,egbad,f-anogan,ganomaly,so-gaal,mo-gaal,"
        f"fence-gan,imputation,conditional; {_BENCHMARK} --seeds 0 "
        f"--methods pyod-so_gaal,pyod-mo_gaal,pyod-alad; {_BENCHMARK} --seeds 0 "
        "--methods pyod-anogan --no-false-alarms",
        literature,
    ),
    "papers": (
        "Papers' halves: KDD-99 and Arrhythmia, ten seeds",
        f"{_TEN_SEEDS} --methods anomgan,alad,egbad,ganomaly; "
        f"{_TEN_SEEDS} --methods anogan --exported; "
        f"{_TEN_SEEDS} --sets arrhythmia_odds --methods alad --set spectral_norm=False",
        papers,
    ),
    "longer": (
        "EGBAD on KDD-99, trained longer",
        "python tests/acceptance/longer_training.py --minutes 25",
        longer,
    ),
    "fast": (
        "The fast scorer, protocol `clean`, seed 0",
        f"{_BENCHMARK} --seeds 0 --methods anomgan --fast",
        fast,
    ),
    "fp16": (
        "Networks in float16, protocol `clean`, seed 0",
        f"{_BENCHMARK} --seeds 0 --methods anomgan --precision fp16",
        half,
    ),
    "rounded": (
        "Products of bfloat16 in training, protocol `clean`, seed 0",
        f"{_BENCHMARK} --seeds 0 --methods anomgan --set bfloat16=False",
        rounded,
    ),
    "cost": ("Cost and parity, one thread", "python tests/acceptance/adbench.py", cost),
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for stem, (title, command, write) in SECTIONS.items():
        path = RESULTS / f"{stem}.csv"
        if path.exists():
            commands = "\n".join(
                f"    {c} -o docs/accuracy/{stem}.csv" for c in command.split("; ")
            )
            parts.append(f"## {title}\n\n{commands}\n\n{write(path).rstrip()}\n")
    return "\n".join(parts)


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    target, text = DOCS / "accuracy.md", page()
    if not parser.parse_args().check:
        target.write_text(text, encoding="utf-8")
    elif target.read_text(encoding="utf-8") != text:
        sys.exit(f"{target} does not say what {RESULTS} says: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
