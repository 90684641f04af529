import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.zoo import pickles
from datafree.zoo.pickles import Suspicious, inspect

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(max_size=2), inner, max_size=4)
    ),
)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_any_pickle_of_python_is_inspected_to_its_end(value, protocol):
    file = io.BytesIO(pickle.dumps(value, protocol=protocol) + b"rest")
    inspect(file)
    assert file.read() == b"rest"


@given(st.binary(max_size=60))
def test_any_bytes_raise_only_suspicious(content):
    try:
        inspect(io.BytesIO(content))
    except Suspicious as error:
        assert "\n" not in str(error)


def size_of(value) -> int:
    return 1 + sum(size_of(item) for item in value) if isinstance(value, tuple) else 1


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL), st.integers(1, 12))
def test_the_size_of_a_tuple_includes_nested_tuples(value, protocol, most):
    tuples = []

    def collect(value):
        if isinstance(value, tuple):
            tuples.append(size_of(value))
        if isinstance(value, (tuple, list)):
            for item in value:
                collect(item)
        if isinstance(value, dict):
            for item in value.values():
                collect(item)

    collect(value)
    content = io.BytesIO(pickle.dumps(value, protocol=protocol))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickles, "MAX_TUPLE", most)
        if max(tuples, default=0) > most:
            with pytest.raises(Suspicious, match=f"a tuple of more than {most} values"):
                inspect(content)
        else:
            inspect(content)


def test_a_tuple_that_is_used_twice_counts_twice(monkeypatch):
    inner = (1, 2, 3)
    content = pickle.dumps((inner, inner), protocol=2)  # the second is a reference
    monkeypatch.setattr(pickles, "MAX_TUPLE", 9)
    inspect(io.BytesIO(content))
    monkeypatch.setattr(pickles, "MAX_TUPLE", 8)
    with pytest.raises(Suspicious):
        inspect(io.BytesIO(content))


def test_a_pickle_with_too_many_operations_is_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 100)
    with pytest.raises(Suspicious, match="more than 100 pickle operations"):
        inspect(io.BytesIO(b"\x80\x02" + b"N0" * 200 + b"N."))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"\x80\x02t.", b"\x80\x02h\x05.", b"\x80\x02q\x05.", b"\x80\x02(.", b"<html>", b"I1x\n."]
)
def test_a_damaged_pickle_is_refused(content):
    if content == b"\x80\x02(.":  # a mark is not a value, but inspect does not use it as one
        inspect(io.BytesIO(content))
        return
    with pytest.raises(Suspicious, match="damaged pickle: "):
        inspect(io.BytesIO(content))
