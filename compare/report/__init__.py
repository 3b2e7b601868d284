"""The report of a comparison, drawn from `results.json` alone: a page, its charts as PNGs, and a summary."""
