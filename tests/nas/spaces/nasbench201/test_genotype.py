from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.errors import UserError
from datafree.nas.spaces.nasbench201.genotype import EDGES, OPERATIONS, decode, encode

genotypes = st.tuples(*[st.sampled_from(OPERATIONS)] * len(EDGES))


@given(genotypes)
def test_decode_inverts_encode(genotype):
    assert decode(encode(genotype)) == genotype


def test_encode_names_each_operation_with_its_source_node():
    text = encode(("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none"))
    assert text == "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "searched",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|\n",
    ],
)
def test_a_malformed_string_is_refused(text):
    with pytest.raises(UserError, match="genotype: expected the form") as caught:
        decode(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_operation_is_refused_by_name():
    with pytest.raises(UserError, match="got the operation 'max_pool_3x3'.*allowed: none, skip_connect"):
        decode("|max_pool_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|")
