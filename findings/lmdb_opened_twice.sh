#!/usr/bin/env bash
# lmdb: a second Environment of a folder in the same process works up to 1.x, and is refused from 2.0 on.
#
# Expected: two read-only readers of a set, such as training and validation on one LMDB, open it independently.
# Seen:     1.7.5 opens it twice; 2.x raises lmdb.Error for the second, even with readonly=True and lock=False.
# So:       keep one environment for each path and process, and share it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 1.7.5 2.1.1 3.0.0; do
  python3 -m pip install --quiet --disable-pip-version-check --target "$version" lmdb=="$version"
  PYTHONPATH=$version python3 -c '
import lmdb

with lmdb.open("words") as written, written.begin(write=True) as transaction:
    transaction.put(b"label-000000001", b"word")
first = lmdb.open("words", readonly=True, lock=False)
try:
    second = lmdb.open("words", readonly=True, lock=False)
    seen = second.begin().get(b"label-000000001").decode()
except lmdb.Error as error:
    seen = f"lmdb.Error: {error}"
print(f"lmdb {lmdb.__version__}: {seen}")
assert (seen == "word") == (lmdb.__version__ == "1.7.5"), "the behaviour has changed"
'
done
