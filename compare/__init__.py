"""The comparison of designs: contenders, scenarios, measurements, and the report."""
