"""Words rendered on the fly: training pictures without any files."""

from data_pipelines.rendering.source import RenderedSource, RenderedWords

__all__ = ["RenderedSource", "RenderedWords"]
