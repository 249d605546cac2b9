"""Sources that fail, in a module that workers import in no time."""

import os
import signal

from data_pipelines.sources.records import Record


class Failing:
    """A source whose tenth record raises what no source should."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        if index == 10:
            return self.divide_by(0)
        return Record(b"", "word")

    def divide_by(self, number):
        return 1 / number

    def text(self, index):
        return "word"

    def name(self, index):
        return str(index)


class Deadly(Failing):
    """A source whose worker is killed, as by a machine that has no memory left."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)
