"""Mistakes that the user can mend: commands print them as one line, without a traceback."""


class UserError(Exception):
    """A mistake in what the user asked for. The message is one line that says what is wrong and what to do."""


class DataError(Exception):
    """Input data that cannot be used. The message is one line that names the file or record and says what to do."""


class RecordError(DataError):
    """One record that cannot be read. Others of its source may be: training masks it, counts it and goes on."""


class MissingError(RecordError):
    """An image file, or a key of an LMDB, that is not there."""


class OutsideError(RecordError):
    """The name of an image file, or a link, that leads out of the dataset's folder."""
