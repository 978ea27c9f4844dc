"""The versions read last stay, within the bytes allowed."""

from p2pd.core.records import Version, version_of
from p2pd.core.version_cache import VersionCache
from p2pd.ids import Key
from p2pd.wire.messages import Record, Signed


def version(name: int, size: int) -> Version:
    record = Record(name.to_bytes(32), False, bytes(size), bytes(32), bytes(8), 1, (), 0)
    return version_of(Signed(bytes(size), bytes(64)), record)


def test_what_was_used_last_stays() -> None:
    cache = VersionCache(10 * (2 * 1000 + 1024))
    keys = [Key.of(str(number)) for number in range(11)]
    for number, key in enumerate(keys[:10]):
        cache.put(key, [version(number, 1000)])
    assert cache.get(keys[0]) is not None
    assert cache.get(keys[10]) is None
    cache.put(keys[10], [version(10, 1000)])
    assert [cache.get(key) is not None for key in keys] == [True, False, *[True] * 9]


def test_a_key_counts_once_and_not_when_it_is_gone() -> None:
    cache = VersionCache(2 * (2 * 1000 + 1024))
    one, other = Key.of("one"), Key.of("other")
    for number in range(20):
        cache.put(one, [version(number, 1000)])
        cache.put(other, [version(number, 1000)])
        cache.remove(other)
        cache.remove(other)
    cache.put(other, [version(0, 1000)])
    assert cache.get(one) is not None
    assert cache.get(other) is not None


def test_what_is_too_large_is_not_kept() -> None:
    cache = VersionCache(1000)
    cache.put(Key.of("k"), [version(0, 1000)])
    assert cache.get(Key.of("k")) is None
