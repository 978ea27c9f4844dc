"""The one strict entrance for bytes: any bytes give a value of the type asked for or `BadMessage`.

cattrs does the walking; its lenient defaults ("7" becomes 7, true becomes 1, NaN passes)
are replaced by hooks that check the exact type and the bounds written in `messages`.
Objects travel as msgpack arrays of their fields; maps and extension types never occur.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import attrs
import msgpack
from cattrs import Converter

from p2pd.errors import BadMessage
from p2pd.wire.messages import TAGS, Message, Range

# msgpack allocates what a length field announces, so a few nested headers could otherwise
# ask for gigabytes. No list in any message is longer than this.
_MAX_ARRAY = 64
# Nor has any message more lists than this in all. Small nested ones would take longer to unpack
# than any valid content, and the event loop waits for that.
_MAX_ARRAYS = 256

StructureHook = Callable[[Any, Any], Any]
UnstructureHook = Callable[[Any], Any]
T = TypeVar("T")


def encode(value: Any) -> bytes:
    """Encode a message or the body of a signed record.

    Bounds are not checked here: code that fills in what a user typed checks it there.
    """
    return cast("bytes", _pack(_converter.unstructure(value)))


def clip(text: str, most: int) -> str:
    """Cut a text to `most` bytes of UTF-8, as bounds count; what UTF-8 can't encode becomes ?."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def encode_message(message: Message) -> tuple[int, bytes]:
    """Return the tag of a message and its payload."""
    ready = _ENCODED.get(type(message))
    if ready is not None:
        return ready
    tag, unstructure = _ENCODERS[type(message)]
    return tag, cast("bytes", _pack(unstructure(message)))


def decode(cls: type[T], data: bytes) -> T:
    """Decode `data` as a `cls`; raises `BadMessage` for anything else."""
    return cast("T", _decode(_converter.get_structure_hook(cls), cls, data))


def decode_message(tag: int, payload: bytes) -> Message:
    """Decode the payload of a frame; raises `BadMessage`, including for an unknown tag."""
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise BadMessage(f"unknown message tag {tag}")
    if payload == _NO_FIELDS and tag in _FIELDLESS:
        return _FIELDLESS[tag]
    return cast("Message", _decode(*decoder, payload))


def _decode(structure: StructureHook, cls: type, data: bytes) -> Any:
    arrays = 0

    def count(array: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal arrays
        arrays += 1
        if arrays > _MAX_ARRAYS:
            raise ValueError(f"more than {_MAX_ARRAYS} lists")
        return array

    try:
        plain = msgpack.unpackb(
            data,
            use_list=False,
            list_hook=count,
            max_array_len=_MAX_ARRAY,
            max_map_len=0,
            max_ext_len=0,
        )
    # ValueError is the base class of msgpack's errors and of UnicodeDecodeError.
    except ValueError as error:
        raise BadMessage(f"{cls.__name__}: not msgpack: {error}") from None
    return structure(plain, cls)


_pack = msgpack.Packer(autoreset=True).pack


def _exactly(kind: type) -> StructureHook:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise BadMessage(f"{type(value).__name__} where {kind.__name__} belongs")
        return value

    return structure


def _annotated(annotation: Any) -> StructureHook:
    inner_type, bound = get_args(annotation)
    inner = _converter.get_structure_hook(inner_type)
    least, most = bound

    def structure_bytes(value: Any, _: Any) -> Any:
        # The bulk of what travels, so without a second call.
        if type(value) is not bytes or not least <= len(value) <= most:
            return structure_sized(value, _)
        return value

    def structure_sized(value: Any, _: Any) -> Any:
        value = inner(value, inner_type)
        size = len(value.encode()) if type(value) is str else len(value)
        if not least <= size <= most:
            raise BadMessage(f"length {size} is not between {least} and {most}")
        return value

    def structure_ranged(value: Any, _: Any) -> Any:
        value = inner(value, inner_type)
        if not least <= value <= most:
            raise BadMessage(f"{value} is not between {least} and {most}")
        return value

    if isinstance(bound, Range):
        return structure_ranged
    return structure_bytes if inner_type is bytes else structure_sized


def _tuple_of(annotation: Any) -> StructureHook:
    item_type = get_args(annotation)[0]
    item = _converter.get_structure_hook(item_type)

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not tuple:
            raise BadMessage(f"{type(value).__name__} where a list belongs")
        return tuple([item(each, item_type) for each in value])

    return structure


def _structure_fields(cls: Any) -> StructureHook:
    hints = get_type_hints(cls, include_extras=True)
    types = [hints[field.name] for field in attrs.fields(cls)]
    hooks = [_converter.get_structure_hook(each) for each in types]
    steps = list(zip(hooks, types, strict=True))

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not tuple or len(value) != len(steps):
            raise BadMessage(f"{cls.__name__}: not a list of {len(steps)} fields")
        try:
            return cls(*[hook(each, t) for each, (hook, t) in zip(value, steps, strict=True)])
        except BadMessage as error:
            raise BadMessage(f"{cls.__name__}: {error}") from None

    return structure


def _unstructure_fields(cls: Any) -> UnstructureHook:
    hints = get_type_hints(cls)
    names = [field.name for field in attrs.fields(cls)]
    if len(names) > 1 and all(hints[name] in _PLAIN for name in names):
        return attrgetter(*names)
    steps = [(name, _converter.get_unstructure_hook(hints[name])) for name in names]

    def unstructure(value: Any) -> Any:
        return [hook(getattr(value, name)) for name, hook in steps]

    return unstructure


def _make_converter() -> Converter:
    converter = Converter()
    for kind in _PLAIN:
        converter.register_structure_hook(kind, _exactly(kind))
    factories: list[tuple[Callable[[Any], bool], Callable[[Any], StructureHook]]] = [
        (lambda t: get_origin(t) is Annotated, _annotated),
        (lambda t: get_origin(t) is tuple, _tuple_of),
        (attrs.has, _structure_fields),
    ]
    for applies, factory in factories:
        converter.register_structure_hook_factory(applies, factory)
    converter.register_unstructure_hook_factory(attrs.has, _unstructure_fields)
    return converter


# Packed as they are, including subclasses such as keys and node IDs.
_PLAIN = {int, str, bytes, bool}
_converter = _make_converter()
_ENCODERS = {cls: (tag, _converter.get_unstructure_hook(cls)) for tag, cls in TAGS.items()}
_NO_FIELDS = _pack([])
# Most messages are probes: they are written and read without a walk.
_FIELDLESS: dict[int, Message] = {
    tag: decode(cls, _NO_FIELDS) for tag, cls in TAGS.items() if not attrs.fields(cls)
}
_ENCODED = {type(message): (tag, _NO_FIELDS) for tag, message in _FIELDLESS.items()}
_DECODERS = {tag: (_converter.get_structure_hook(cls), cls) for tag, cls in TAGS.items()}
