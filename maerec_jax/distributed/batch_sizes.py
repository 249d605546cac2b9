"""How many images are computed at once."""


def batch_ladder(batch_size: int, parts: int) -> tuple[int, ...]:
    """Batch sizes to choose from for any number of images: the largest, a fourth of it, a sixteenth ..., and 1.

    At most three quarters of a batch are filled up, and few programs are compiled.

    Args:
      batch_size: the largest.
      parts: all are multiples of this number.
    """
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 4))
    return tuple(sorted({-(-size // parts) * parts for size in sizes}))
