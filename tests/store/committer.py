"""Commit numbered records without end, telling of each only after the store has; to be killed."""

import sys
from itertools import count
from pathlib import Path

import trio

from p2pd.store.base import Change, Table
from p2pd.store.sqlite import open_sqlite_store


async def main(path: Path) -> None:
    async with open_sqlite_store(path, 1 << 30) as store:
        for number in count():
            pair = [b"%d.a" % number, b"%d.b" % number]
            await store.apply([Change(Table.RECORDS, key, key * 500) for key in pair])
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


trio.run(main, Path(sys.argv[1]))
