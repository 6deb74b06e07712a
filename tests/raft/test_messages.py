"""Messages survive their encoding, whatever is in them."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.raft import ConfChange, Message, decode_conf_change, encode_conf_change

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode


def messages() -> st.SearchStrategy[Message]:
    return st.one_of([st.from_type(kind) for kind in Message.__args__])


unsigned = st.integers(min_value=0, max_value=2**63 - 1)
st.register_type_strategy(int, unsigned)


@given(st.lists(messages(), max_size=5))
def test_messages(batch: list[Message]) -> None:
    assert _decode(_encode(batch)) == batch


@given(st.from_type(ConfChange))
def test_conf_change(change: ConfChange) -> None:
    assert decode_conf_change(encode_conf_change(change)) == change
