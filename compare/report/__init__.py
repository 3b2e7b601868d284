"""The report of a comparison, all from `results.json`: a page, its pictures, a summary for the terminal."""

from write_batcher.compare.report.page import load_results, write_report
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.summary import print_summary

__all__ = ["LIST_PRICE", "Price", "load_results", "print_summary", "write_report"]
