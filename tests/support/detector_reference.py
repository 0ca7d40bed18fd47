"""Write docs/detectors.md from the detectors themselves.

python tests/support/detector_reference.py > docs/detectors.md
"""

from __future__ import annotations

import inspect
import re
import sys

from anomgan.detectors.registry import DETECTORS
from anomgan.literature import FACES

__all__ = ["detector_reference"]

INTRODUCTION = """\
# Detectors

Written by `python tests/support/detector_reference.py > docs/detectors.md` from the detectors'
own documentation.

`anomgan fit normal.csv` trains the flagship, `anomgan` ([how its score
works](how-the-score-works.md)). `anomgan fit normal.csv --detector NAME` trains a detector of
the literature instead, with `--set KEY=VALUE` for its parameters; in Python, `from
anomgan.literature import ALAD`. Everything else is the same for all: kinds of columns,
calibration by held-out rows, contributions, one ONNX file, the model directory, `score`,
`evaluate`, `explain`.

They are here to be right, so that they can be compared with. Each is its paper's method:
networks, losses and score as published, with deviations listed. What all of them have in
common:

- **Rows** are encoded as for the flagship: standardised numbers, phases of dates, categories,
  and indicators of missing cells. A state never seen in training adds log(*n* + 1) to the
  score.
- **Score.** The paper's value *A*(*x*), never negative, is divided by its median over the
  calibration rows (`unit` in the model's facts), and 1 is added: scores rank as the paper's do,
  and a typical normal row has 2. What the formula says of a feature goes to its column, what it
  says of the row as a whole to the place `discriminator`. Some formulas speak of the whole row
  only (ALAD by features or logits, GANomaly, SO-GAAL, MO-GAAL, Fence-GAN): their reasons then name
  "the columns together", and a column only where its state was never seen.
- **Training** is the one training loop of the project. The weights kept are an exponential
  moving average; losses that are not finite lead back to the last good snapshot; averages from
  before a judged generator got clearly worse are used in place of the last ones; the learning
  rate falls along a cosine. Nothing uses batch normalisation or dropout, as a row's score must
  depend on that row alone.
- **One network each**, so `--calibration cross`, which takes an ensemble, is for the flagship
  only.

| name | what it is | paper |
|---|---|---|
"""


def detector_reference() -> str:
    """Return the page."""
    lines = [INTRODUCTION.rstrip()]
    lines += [f"| [`{n}`](#{n}) | {k.summary} | {k.paper} |" for n, k in DETECTORS.items()]
    for name, kind in DETECTORS.items():
        lines += ["", f"## {name}", "", _prose(kind.__doc__ or ""), "", "**Defaults**", ""]
        parameters = FACES[name]().get_params()
        shown = [f"`{key}={value}`" for key, value in parameters.items() if key in kind.names()]
        lines += [", ".join(shown) + "."]
    return "\n".join(lines) + "\n"


def _prose(docstring: str) -> str:
    """Turn a NumPy-style docstring into markdown."""
    text = inspect.cleandoc(docstring)
    text = re.sub(r"^(Parameters|Notes|References)\n-+$", r"**\1**\n", text, flags=re.MULTILINE)
    text = re.sub(r"^([a-z][\w, \n\\]*?) : (.+)$", r"- `\1` : \2", text, flags=re.MULTILINE)
    return re.sub(r"^(n_steps, .*max_calibration_rows)$", r"- `\1`", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.stdout.write(detector_reference())
