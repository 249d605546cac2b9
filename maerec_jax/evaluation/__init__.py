"""Measuring recognisers: readings of labelled words, tables of accuracies, reports, and comparisons of two runs."""
