"""What things cost: ``make bench``, or ``python -m benchmarks copy_scores``. Figures hold for the machine they name."""
