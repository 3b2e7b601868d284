"""The comparison of designs: contenders, scenarios, what they measured, and a report of it."""
