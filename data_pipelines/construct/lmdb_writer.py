"""Writing words to an LMDB with the keys of Union14M-U, and going on where a killed run has stopped."""

import json
from collections import Counter
from functools import partial

import lmdb
from etils import epath

from data_pipelines.construct.images import read_images
from data_pipelines.construct.records import Span
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.steps import Work
from data_pipelines.errors import DataError
from data_pipelines.storage import write_whole

_SIZE = 2**40  # bytes that an LMDB may grow to; its file has those that are used
_STATE = b"state"  # how many parts are written, and their counts; not in a finished LMDB


def write_lmdb(spans: list[Span], labelled: bool, work: Work) -> Counter[str]:
    """Write the words of a list to an LMDB, left at ``work.made``; returns the counts.

    Words whose images cannot be used, and in a labelled LMDB those without a label, take no number. What is there is
    always some whole parts; ``num-samples`` is written last. Raises ``DataError`` where there is no room.
    """
    kept, bar = work.folder / "counts.json", work.progress.add_task("LMDB", total=sum(span.lines for span in spans))
    try:
        with lmdb.open(str(work.made), map_size=_SIZE, max_dbs=0) as environment:
            with environment.begin() as transaction:
                if transaction.get(b"num-samples"):  # the run was killed at its very end
                    return Counter(json.loads(kept.read_text()))
                done, told = json.loads(transaction.get(_STATE, b"[0, {}]"))
            counts = Counter[str](told)
            work.progress.advance(bar, sum(span.lines for span in spans[:done]))
            parts = work.results(partial(_read_part, labelled), ((span,) for span in spans[done:]))
            for number, (records, of_part) in enumerate(parts, done):
                with environment.begin(write=True) as transaction:
                    for index, (image, label) in enumerate(records, counts[OUT] + 1):
                        transaction.put(b"image-%09d" % index, image)
                        if labelled:
                            transaction.put(b"label-%09d" % index, label.encode())
                    counts += of_part
                    transaction.put(_STATE, json.dumps([number + 1, counts]).encode())
                work.progress.advance(bar, spans[number].lines)
            if not counts[OUT]:
                raise DataError(f"{spans[0].path}: none of its {counts[IN]:,} words can be used")
            write_whole(epath.Path(kept), json.dumps(counts))
            with environment.begin(write=True) as transaction:
                transaction.delete(_STATE)
                transaction.put(b"num-samples", str(counts[OUT]).encode())
    except lmdb.Error as error:
        raise DataError(f"{work.made}: {error}; make room, and repeat the command") from error
    (work.made / "lock.mdb").unlink()
    return counts


def _read_part(labelled: bool, span: Span) -> tuple[list[tuple[bytes, str]], Counter[str]]:
    counts = Counter[str]()
    return [(image, word.text or "") for word, image in read_images(labelled, span, counts)], counts
