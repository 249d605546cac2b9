"""A contender for tests, in a module that a process of its own imports at once."""


class Runner:
    """Takes as long as it is told, and cannot bear the number 3."""

    def __init__(self, seconds):
        self.seconds = seconds

    def run(self, number):
        if number == self.seconds == 3:
            raise ValueError("three\nis too many")
        return (float(self.seconds),)
