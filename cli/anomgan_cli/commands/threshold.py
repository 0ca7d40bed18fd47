"""``anomgan threshold``: show or change what a model flags, without fitting it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import (
    Debug,
    Delimiter,
    Encoding,
    FalseAlarmRate,
    Model,
    NormalLabels,
    Provider,
    ProviderOption,
    Quiet,
)
from anomgan_cli.terminal import echo, echo_json

if TYPE_CHECKING:
    from anomgan.decision import Decision, GroupDecision
    from anomgan.evaluation.bootstrap import Estimate
    from anomgan.evaluation.operating_point import OperatingPoint

__all__ = ["threshold"]

FromLabels = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE",
        help="Choose the rate by labelled rows: CSV, Parquet or Arrow file; - is stdin.",
    ),
]
Label = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column that tells anomalies from normal rows."),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="What labelled rows are to show: precision=0.9, recall=0.9, or f1 (the largest).",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change; store nothing.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the bootstrap intervals.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the decision as JSON.")]


@guarded
def threshold(
    model: Model = "anomgan-model",
    false_alarm_rate: FalseAlarmRate = None,
    from_labels: FromLabels = None,
    label: Label = None,
    normal: NormalLabels = None,
    target: TargetOption = None,
    dry_run: DryRun = False,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    provider: ProviderOption = Provider.AUTO,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show or change the stored decision: which share of normal rows may be flagged."""
    _require_fitting(
        false_alarm_rate, from_labels, label=label, normal=normal, target=target, dry_run=dry_run
    )
    from anomgan.decision import read_decision, store_rate

    if false_alarm_rate is None and from_labels is None:
        _show(read_decision(model), model, as_json=as_json)
        return
    choice: OperatingPoint | None = None
    if from_labels is not None:
        choice = _choose(
            *(model, from_labels, label or "", normal or [], target or ""),
            delimiter=delimiter,
            encoding=encoding,
            provider=provider,
            seed=seed,
            quiet=quiet,
        )
    rate = choice.rate if choice is not None else false_alarm_rate
    if dry_run or rate is None:
        former, renewed = read_decision(model), read_decision(model, rate)
    else:
        former, renewed = store_rate(model, rate)
    if as_json:
        content: dict[str, Any] = {"former": former.to_dict(), "new": renewed.to_dict()}
        content |= {"stored": not dry_run, "choice": None if choice is None else choice.to_dict()}
        echo_json(content)
    if not quiet:
        _say_change(former, renewed, model, stored=not dry_run)
        if choice is not None:
            _say_choice(choice)


def _require_fitting(
    rate: float | None,
    table: str | None,
    *,
    label: str | None,
    normal: list[str] | None,
    target: str | None,
    dry_run: bool,
) -> None:
    """Refuse options that contradict each other, all faults together."""
    from anomgan.errors import UsageError

    faults = []
    if rate is not None and table is not None:
        faults.append("--false-alarm-rate and --from-labels both give a rate: leave one out")
    if table is None:
        alone = [("--label", label), ("--normal", normal), ("--target", target)]
        faults += [f"{option} is for --from-labels TABLE" for option, given in alone if given]
    else:
        if not label:
            faults.append("--from-labels needs --label COLUMN: the column that tells normal rows")
        if not target:
            faults.append("--from-labels needs --target: precision=0.9, recall=0.9 or f1")
    if dry_run and rate is None and table is None:
        faults.append("--dry-run has nothing to try: give --false-alarm-rate or --from-labels")
    if faults:
        raise UsageError("; ".join(faults), faults)


def _choose(
    model: str,
    table: str,
    label: str,
    normal: list[str],
    target: str,
    *,
    delimiter: str | None,
    encoding: str | None,
    provider: Provider,
    seed: int,
    quiet: bool,
) -> OperatingPoint:
    """Score the labelled rows, and choose a rate by them."""
    from anomgan.evaluation.labelled import score_labelled
    from anomgan.evaluation.operating_point import Target, choose_rate
    from anomgan.serving import Scorer
    from anomgan.tables import LabelReader, open_table
    from anomgan_cli.render import scoring_progress

    aim = Target.parse(target)  # a fault in it is told before a long table is scored
    scorer = Scorer.open(model, providers=provider.value)
    with (
        open_table(table, delimiter=delimiter, encoding=encoding) as reader,
        scoring_progress(reader, quiet=quiet) as progress,
    ):
        labels = LabelReader(label, normal, reader.source)
        scored = score_labelled(
            *(scorer, reader, labels), label=label, known=None, progress=progress
        )
    return choose_rate(scored.labels, scored.p_values, aim, seed=seed)


def _show(decision: Decision, model: str, *, as_json: bool) -> None:
    from anomgan_cli.render import table

    if as_json:
        echo_json(decision.to_dict())
        return
    echo(f"{model} flags {_meaning(decision.false_alarm_rate)}")
    rows = [
        ["false-alarm rate", f"{decision.false_alarm_rate:.6g}"],
        ["score threshold", f"{decision.threshold:.6g}"],
        ["calibration rows", f"{decision.n_calibration} held-out normal rows"],
        ["resolution", f"{decision.resolution:.4g}, the smallest rate that they count"],
        ["below it", _below(decision)],
    ]
    table(["decision", "value"], rows)
    if decision.groups:
        echo(f"\nWithin the groups of {decision.by}; all other rows as above:")
        table(
            [str(decision.by), "calibration rows", "score threshold", "rate"],
            [[*_group(group), _how(group)] for group in decision.groups],
        )


def _group(group: GroupDecision) -> tuple[str, str, str]:
    return group.name, str(group.n_calibration), f"{group.threshold:.6g}"


def _how(group: GroupDecision) -> str:
    return "extrapolated" if group.extrapolated else "counted"


def _below(decision: Decision) -> str:
    if not decision.has_tail:
        return "no rate: no tail could be fitted to so few rows"
    present = ", as the present rate is" if decision.extrapolated else ""
    return f"extrapolated by an extreme-value tail{present}"


def _meaning(rate: float) -> str:
    """Say what a rate is in rows."""
    if rate > 0.2:
        return f"about {100 * rate:.3g} in 100 normal rows"
    return f"about 1 in {round(1 / rate):,} normal rows".replace(",", " ")


def _say_change(former: Decision, renewed: Decision, model: str, *, stored: bool) -> None:
    from anomgan_cli.render import say

    verb = "now flags" if stored else "would flag"
    say(
        f"{model} {verb} {_meaning(renewed.false_alarm_rate)}: scores of at least "
        f"{renewed.threshold:.4g}, a false-alarm rate of {renewed.false_alarm_rate:.6g}. "
        f"{'Before' if stored else 'At present'}: {former.threshold:.4g} at "
        f"{former.false_alarm_rate:.6g}."
    )
    if renewed.extrapolated:
        say(
            f"Note: {renewed.n_calibration} calibration rows count rates down to "
            f"{renewed.resolution:.2g}; below that the threshold is extrapolated.",
            "yellow",
        )
    if renewed.groups:
        _say_groups(former, renewed)
    if not stored:
        say("Nothing was stored (--dry-run).")


def _say_groups(former: Decision, renewed: Decision) -> None:
    """Say what the one rate means in each group; the sentence before is of all other rows."""
    from anomgan_cli.render import say, table

    say(f"That is for rows of no group; within the groups of {renewed.by}:")
    table(
        [str(renewed.by), "calibration rows", "score threshold", "before", "rate"],
        [
            [*_group(new), f"{old.threshold:.6g}", _how(new)]
            for old, new in zip(former.groups, renewed.groups, strict=True)
        ],
        on_stderr=True,
    )


def _say_choice(choice: OperatingPoint) -> None:
    from anomgan_cli.render import say, table

    n_anomalous = choice.true_positives + choice.false_negatives
    n_normal = choice.false_positives + choice.true_negatives
    flagged = choice.true_positives + choice.false_positives
    rate_low, rate_high = choice.rate_interval
    told = f"{rate_low:.3g} to {rate_high:.3g}" if choice.n_reached else "unknown"
    rows = [
        ["precision", *_figures(choice.precision), f"{choice.true_positives} of {flagged} flagged"],
        ["recall", *_figures(choice.recall), f"{choice.true_positives} of {n_anomalous} anomalies"],
        ["F1", *_figures(choice.f1), ""],
        [
            *("normal rows flagged", *_figures(choice.false_alarms)),
            f"{choice.false_positives} of {n_normal}",
        ],
        ["false-alarm rate", f"{choice.rate:.3g}", told, f"chosen for {choice.target}"],
    ]
    table(["on the labelled rows", "value", "95 % interval", ""], rows, on_stderr=True)
    if choice.n_reached < choice.n_draws:
        say(
            f"Note: only {choice.n_reached} of {choice.n_draws} bootstrap draws of these rows "
            f"reach {choice.target} at all; the interval of the rate is of those.",
            "yellow",
        )
    say(
        "Note: these figures are optimistic, because the threshold was chosen on the same rows: "
        "check with rows that had no part in it. Precision and F1 also hold only where anomalies "
        f"are as frequent as in this table ({n_anomalous} of {n_anomalous + n_normal} rows).",
        "yellow",
    )


def _figures(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.3g}", f"{estimate.low:.3g} to {estimate.high:.3g}"
