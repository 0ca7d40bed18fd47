"""The encoder's statistics in plain Python, exact where fractions allow."""

import math
from fractions import Fraction
from statistics import median

PERIODS_S = {"day": 86_400.0, "week": 604_800.0, "year": 31_556_952.0}
LEAST_DEVIATION = 0.1


def standardise(training, values, far=1e6):
    """Standardised values of one numeric column; None or NaN is missing."""
    present = [Fraction(v) for v in training if v is not None and not math.isnan(v)]
    if not present:
        return [min(max(0.0 if _absent(v) else v, -far), far) for v in values]
    mean = sum(present) / len(present)
    variance = sum((v - mean) ** 2 for v in present) / len(present)
    scale = _square_root(variance) if variance else max(abs(mean), Fraction(1))
    fill = median(present)
    out = [((fill if _absent(v) else Fraction(v)) - mean) / scale for v in values]
    return [float(min(max(v, -Fraction(far)), Fraction(far))) for v in out]


def phase(training, values, period):
    """Standardised sine and cosine of one period, pairs; missing cells stand at (0, 0)."""

    def wave(seconds):
        if _absent(seconds):
            return 0.0, 0.0
        turn = 2.0 * math.pi * ((seconds / PERIODS_S[period]) % 1.0)
        return math.sin(turn), math.cos(turn)

    known = [wave(s) for s in training]
    out = []
    for seconds in values:
        pair = []
        for part, value in enumerate(wave(seconds)):
            column = [w[part] for w in known]
            mean = math.fsum(column) / len(column)
            variance = math.fsum((v - mean) ** 2 for v in column) / len(column)
            pair.append((value - mean) / max(math.sqrt(variance), LEAST_DEVIATION))
        out.append(tuple(pair))
    return out


def category_weight(training, members):
    """Feature of a row whose category is one of `members`."""
    share = sum(text in members for text in training) / len(training)
    return math.sqrt(0.5) / max(math.sqrt(share * (1.0 - share)), LEAST_DEVIATION)


def surprise(n_rows):
    """Nats of a state that n_rows training rows never showed."""
    return math.log(n_rows + 1)


def _absent(value):
    return value is None or math.isnan(value)


def _square_root(value):
    """Square root of a fraction of any size, to about 60 digits."""
    shift = 10**120
    return Fraction(math.isqrt(value.numerator * shift // value.denominator), 10**60)
