"""Messages of every shape, drawn from the bounds in their annotations."""

from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import strategies as st

from p2pd.wire.messages import TAGS, Length, Message, Range

# Draws of a megabyte each would take all day; the ends of large ranges have tests of their own.
MOST_DRAWN = 70


def of(annotation: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values that an annotation of `messages` allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, bound = get_args(annotation)
        if isinstance(bound, Range):
            return st.integers(*bound)
        assert isinstance(bound, Length)
        return sized(kind, bound.least, min(bound.most, MOST_DRAWN))
    if origin in {Union, UnionType}:
        return st.one_of([of(each) for each in get_args(annotation)])
    if annotation is NoneType:
        return st.none()
    if annotation is bool:
        return st.booleans()
    assert attrs.has(annotation), annotation
    hints = get_type_hints(annotation, include_extras=True)
    return st.builds(annotation, *[of(hints[each.name]) for each in attrs.fields(annotation)])


def sized(kind: Any, least: int, most: int) -> st.SearchStrategy[Any]:
    """Return a strategy for a string, bytes or tuple with so many bytes or items."""
    if kind is bytes:
        return st.binary(min_size=least, max_size=most)
    if kind is str:
        texts = st.text(st.characters(codec="utf-8"), min_size=least, max_size=most)
        return texts.filter(lambda text: len(text.encode()) <= most)
    items = of(get_args(kind)[0])
    return st.lists(items, min_size=least, max_size=min(most, 5)).map(tuple)


messages: st.SearchStrategy[Message] = st.one_of([of(each) for each in TAGS.values()])
