"""Word images in ArrayRecord shards: how they are written, and how they are read."""

from data_pipelines.prepared.source import Records, RecordSource

__all__ = ["RecordSource", "Records"]
