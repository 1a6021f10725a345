"""Messages that do not parse: says which field is to blame, for protobuf itself does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

# The event loop waits while a message is searched: one that is all small fields is not searched to its end.
_MAX_FIELDS = 10_000
_MAX_VARINT = 10  # bytes
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a message that cannot be read: the field's path, or `request` for the whole, and what is wrong."""

    field: str
    description: str


def parse(message_type: Any, data: bytes) -> Any:
    """The message, or Malformed."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        field = _bad_text(data, message_type.DESCRIPTOR, "", iter(range(_MAX_FIELDS)))
    if field is not None:
        return Malformed(field, "is not valid UTF-8")
    return Malformed("request", f"the bytes are no {message_type.DESCRIPTOR.name}")


def _bad_text(data: bytes, descriptor: Descriptor, path: str, steps: Iterator[int]) -> str | None:
    """The path of the first string that is not UTF-8, or None if that is not the trouble, or `steps` ends."""
    seen: Counter[int] = Counter()
    position = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            number, kind = tag >> 3, tag & 7
            if not number or next(steps, None) is None:
                return None
            if kind != _LENGTH:
                position = _skip(data, position, kind)
                continue
            size, position = _varint(data, position)
            chunk, position = data[position : position + size], position + size
            field = descriptor.fields_by_number.get(number)
            if field is None:
                continue
            found = _bad_field(chunk, field, _join(path, field, seen[number]), steps)
            if found is not None:
                return found
            seen[number] += 1
    except (IndexError, ValueError):  # cut short, or no wire format at all
        return None
    return None


def _bad_field(chunk: bytes, field: FieldDescriptor, path: str, steps: Iterator[int]) -> str | None:
    if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
        return _bad_text(chunk, field.message_type, path, steps)
    if field.type != FieldDescriptor.TYPE_STRING:
        return None
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return path
    return None


def _join(path: str, field: FieldDescriptor, position: int) -> str:
    # A field that is not repeated cannot be told apart by an index.
    name = f"{field.name}[{position}]" if _is_repeated(field) else field.name
    return f"{path}.{name}" if path else name


def _is_repeated(field: FieldDescriptor) -> bool:
    # `is_repeated` came with protobuf 6, when `label` was deprecated.
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(getattr(field, "label", 0) == FieldDescriptor.LABEL_REPEATED)


def _skip(data: bytes, position: int, kind: int) -> int:
    if kind == _VARINT:
        return _varint(data, position)[1]
    if kind == _FIXED64:
        return position + 8
    if kind == _FIXED32:
        return position + 4
    raise ValueError(f"wire type {kind}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for count in range(_MAX_VARINT):
        byte = data[position + count]
        value |= (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            return value, position + count + 1
    raise ValueError("a number without end")
