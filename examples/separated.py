"""How well a scan's scores tell memorized prompts from others, beside what the text alone tells.

    python examples/separated.py OUT/scan-memorized OUT/scan-others

Scores of several seeds are averaged for each prompt. Prints AUROC with its 95 % interval over prompts, and the true
positive rate at a false positive rate of at most 1 %. The text's row is a trigram classifier, trained on half of the
prompts and tested on the other half and the other way round; a detector that doesn't beat it shows nothing of memory.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from probes.bench.text_control import TrigramBayes
from probes.metrics import auroc, bootstrap_auroc, tpr_at_fpr
from probes.runs.folder import Run

Scores = dict[str, dict[str, float]]


def scores(folder: Path) -> tuple[Scores, int]:
    """Detector -> prompt -> mean score, of a scan's run folder; and how many scores were none."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    missing = 0
    for record in Run.open(folder).records():
        for name, value in record["scores"].items():
            missing += value is None
            if value is not None:
                found[name][record["prompt"]].append(value)
    means = {name: {p: sum(values) / len(values) for p, values in by.items()} for name, by in found.items()}
    return means, missing


def text_auroc(memorized: Sequence[str], others: Sequence[str]) -> float:
    """Mean AUROC of two classifiers, each tested on the half of the prompts that the other was trained on."""
    found = []
    for half in (0, 1):
        model = TrigramBayes.trained(memorized[half::2], others[half::2])
        found.append(
            auroc([model.score(p) for p in memorized[1 - half :: 2]], [model.score(p) for p in others[1 - half :: 2]])
        )
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="AUROC of two scans.")
    parser.add_argument("memorized", type=Path, help="run folder of a scan of memorized prompts")
    parser.add_argument("others", type=Path, help="run folder of a scan of prompts that aren't")
    asked = parser.parse_args()
    (ones, lost), (twos, also) = scores(asked.memorized), scores(asked.others)
    for name in [name for name in ones if name in twos]:
        high, low = list(ones[name].values()), list(twos[name].values())
        rate, _ = tpr_at_fpr(high, low, 0.01)
        area = bootstrap_auroc(high, low)
        print(
            f"{name}: AUROC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}), TPR {rate:.3f} at 1% FPR, "
            f"{len(high)} against {len(low)} prompts"
        )
    prompts = [sorted({prompt for by in means.values() for prompt in by}) for means in (ones, twos)]
    print(f"text alone: AUROC {text_auroc(*prompts):.3f}")
    print(f"not scored: {lost + also}")


if __name__ == "__main__":
    main()
