"""BGP's decoders in Python on bytes that nobody would send: an answer or MalformedError; what is read can be told."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from vrouter.wire.bgp import capabilities, message, text, update
from vrouter.wire.bgp.attributes import Attributes, MalformedError, Outcome, Segment, SegmentKind, decode, encode

ASN = st.integers(1, 2**32 - 1)
NUMBER = st.integers(0, 2**32 - 1)
SEGMENTS = st.lists(
    st.builds(Segment, st.sampled_from(SegmentKind), st.lists(ASN, min_size=1, max_size=255).map(tuple)), max_size=3
).map(tuple)
ATTRIBUTES = st.builds(
    Attributes,
    origin=st.integers(0, 2),
    as_path=SEGMENTS,
    med=st.none() | NUMBER,
    local_pref=st.none() | NUMBER,
    atomic_aggregate=st.booleans(),
    aggregator=st.none() | st.tuples(ASN, NUMBER),
    communities=st.lists(NUMBER, max_size=80).map(tuple),
    originator_id=st.none() | NUMBER,
    cluster_list=st.lists(NUMBER, max_size=5).map(tuple),
    extended=st.lists(st.binary(min_size=8, max_size=8), max_size=40).map(tuple),
    large=st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=30, unique=True).map(tuple),
    otc=st.none() | NUMBER,
)
# Bytes that look like attributes: flags, type, a length that may lie, a value.
ATTRIBUTE = st.builds(
    lambda flags, kind, value, lie: bytes([flags, kind, (len(value) + lie) % 256]) + value,
    st.sampled_from([0x40, 0x80, 0xC0, 0xE0, 0x50, 0x00]),
    st.integers(0, 40),
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 0, 1, 255]),
)
BODY = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda attributes, nlri: b"\0\0" + len(b"".join(attributes)).to_bytes(2, "big") + b"".join(attributes) + nlri,
        st.lists(ATTRIBUTE, max_size=6),
        st.sampled_from([b"", bytes.fromhex("180a0000"), bytes.fromhex("21ffffffff")]),
    ),
)


@given(ATTRIBUTES)
def test_attributes_come_back(attributes: Attributes) -> None:
    decoded = decode(encode(attributes), as4=True, external=False)
    assert decoded.attributes == attributes
    assert decoded.outcome is Outcome.NONE
    text.describe(encode(attributes))


@given(body=BODY, as4=st.booleans(), external=st.booleans(), paths=st.booleans())
def test_updates_are_read_or_malformed(body: bytes, as4: bool, external: bool, paths: bool) -> None:
    context = update.Context(
        as4=as4, external=external, add_path=frozenset({1, 2} if paths else ()), extended_next_hop=paths
    )
    with contextlib.suppress(MalformedError):
        found = update.decode_update(body, context)
        text.describe_attributes(found.attributes)
        if found.outcome is Outcome.WITHDRAW:
            assert not found.announced
        again = decode(encode(found.attributes), as4=True, external=False)
        assert again.outcome is Outcome.NONE, "what is passed on is well-formed"


@given(st.binary(max_size=120))
def test_other_messages_are_read_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        capabilities.decode(message.decode_open(body).capabilities)
    with contextlib.suppress(MalformedError):
        message.decode_refresh(body)
    assert message.decode_notification(body).reason().isprintable()
    with contextlib.suppress(MalformedError):
        message.next_message(body, 0)
    text.describe(body)
