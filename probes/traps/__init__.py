"""Traps: pictures that prove, by an exact test, whether a model was trained on them.

Meeus, Shilov, Faysse and de Montjoye, "Copyright Traps for Large Language Models", ICML 2024, arXiv 2402.09363, put
sentences that nobody else writes into a text, a known number of times; "Proving membership in LLM pretraining data via
data watermarks" (Wei, Wang and Jia, ACL Findings 2024, arXiv 2402.10892) and ghost sentences (Zhao et al., 2024, arXiv
2403.15740) decide by rank among sentences that were made alike and never used. Ours are pictures with captions: half
of the proof is made before they are published (`make`), the other half reads a model (`test`).

Who holds a random half of traps back knows exactly how scores are distributed if the model saw none: the published and
the held-back ones are then exchangeable, whatever the model and whatever the score.
"""
