"""Where records come from. A config names its sources: lists, folders and LMDBs are here."""

from data_pipelines.sources.files import Annotations, Folder, LmdbWords

__all__ = ["Annotations", "Folder", "LmdbWords"]
