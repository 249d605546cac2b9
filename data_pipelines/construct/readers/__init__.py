"""Annotations of whole pictures, as data sets and tools write them: one small reader for each form."""
