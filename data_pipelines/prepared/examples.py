"""Reading tf.train.Examples without TensorFlow: the few lines of protocol buffers that they need."""

# Numbers of fields with their wire type, which is 2 for everything here: a length and so many bytes.
_FIRST, _SECOND = 0x0A, 0x12


def read_bytes_feature(data: bytes, name: bytes) -> bytes:
    """The first value of the bytes feature ``name`` of a serialized tf.train.Example; what follows it is not looked at.

    Raises ``ValueError`` where it has none, and for anything else. Faster than the protobuf library, without bringing
    TFDS into the workers.
    """
    try:
        place, end = _enter(data, 0, _FIRST, len(data))  # Example.features
        while place < end:
            place, entry_end = _enter(data, place, _FIRST, end)  # an entry of the map Features.feature
            place, key_end = _enter(data, place, _FIRST, entry_end)
            key = data[place:key_end]
            place, value_end = _enter(data, key_end, _SECOND, entry_end)  # Feature
            if key == name:
                place, list_end = _enter(data, place, _FIRST, value_end)  # bytes_list
                place, item_end = _enter(data, place, _FIRST, list_end)
                return data[place:item_end]
            place = entry_end
    except IndexError:
        pass
    raise ValueError(f"it is no tf.train.Example with bytes called {name.decode()}")


def _enter(data: bytes, place: int, tag: int, limit: int) -> tuple[int, int]:
    """Where the content of the field at ``place`` starts and ends."""
    if data[place] != tag:
        raise ValueError("it is no tf.train.Example")
    size, shift, place = data[place + 1], 7, place + 2
    if size >= 0x80:
        size &= 0x7F
        while True:
            byte = data[place]
            place += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
    if place + size > limit:
        raise ValueError("it is no tf.train.Example")
    return place, place + size
