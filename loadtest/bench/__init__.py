"""How fast is it, beside others? `scripts/bench`; the results and how they came about are in docs/performance.md."""
