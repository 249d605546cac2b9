"""Collectives in the text of a compiled program: fixtures/hlo holds lines that libtpu 0.0.42 wrote."""

import pytest

from maerec_jax.ahead.collectives import Collective, read_program


@pytest.fixture
def text(fixtures):
    return (fixtures / "hlo" / "slices_and_fusions.txt").read_text()


def test_each_collective_is_found_with_its_size(text):
    found = set(read_program(text, devices=8, slices=2, turns=3)[0])
    in_loop = (94 * 64 + 128 + 256 * 64) * 4
    assert found == {
        # Inside the loop: three times.
        Collective("all-reduce", "f32", 4, 3, 3 * in_loop),
        # Between slices: one in the loop, one outside; what is received is not counted again.
        Collective("all-reduce", "f32", 2, 4, (3 * 12 + 4) * 8 * 128 * 4, between_slices=True),
        # One fusion that keeps a part of a sum, and one written as such, of which the result is a quarter.
        Collective("reduce-scatter", "f32", 4, 2, 64 * 64 * 4 + 4 * 16 * 64 * 4),
        # Written in two fusions, with one channel.
        Collective("all-gather", "bf16", 2, 1, 64 * 128 * 2),
        Collective("collective-permute", "bf16", 2, 1, 32 * 94 * 2),
        Collective("all-to-all", "pred", 2, 1, 2 * 4 * 704),
        Collective("all-reduce", "bf16", 2, 2, 2 * 8 * 257 * 64 * 2),
    }


def test_the_largest_come_first(text):
    sizes = [c.size for c in read_program(text, devices=8, slices=2)[0]]
    assert sizes == sorted(sizes, reverse=True)


def test_cycles_are_added_up_loops_included(text):
    assert read_program(text, devices=8, slices=2, turns=1)[1] == 500 + 300 + 1000
    assert read_program(text, devices=8, slices=2, turns=3)[1] == 3 * 500 + 300 + 1000


def test_operations_without_an_estimate_are_not_added_up(text):
    unknown = text.replace('"estimated_cycles":"300"', f'"estimated_cycles":"{2**63 - 1}"')
    assert read_program(unknown, devices=8, slices=2, turns=1)[1] == 500 + 1000


def test_a_known_number_of_turns_is_taken(text):
    told = text.replace(", body=%body.1", ', body=%body.1, backend_config={"known_trip_count":{"n":"7"}}')
    assert read_program(told, devices=8, slices=2, turns=3)[1] == 7 * 500 + 300 + 1000


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2,3,4,5,6,7}}", 8),
        ("{{0,4},{1,5},{2,6},{3,7}}", 2),
        ("{}", 8),
        ("[1,8]<=[8]", 8),
        ("[2,4]<=[2,2,2]T(2,1,0)", 4),
        ("mesh['axis_0'=8] {'axis_0'}", 8),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", 4),
        ("mesh['a'=8] {'a':(2)4}", 4),
        ("mesh['a'=4,'b'=2], device_ids=([4,2]<=[2,4]T(1,0)) {'b','a':(1)2}", 4),
        ("mesh[a=4,b=2] {a}", 4),
    ],
)
def test_groups_are_read_however_they_are_written(groups, size):
    text = f"""
ENTRY %main (p: f32[10]) -> f32[10] {{
  %p = f32[10]{{0}} parameter(0)
  ROOT %r = f32[10]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, use_global_device_ids=true
}}
"""
    ((found,), _) = read_program(text, devices=8)
    assert found == Collective("all-reduce", "f32", size, 1, 40.0)


def test_what_cannot_be_read_is_named():
    text = "ENTRY %m (p: f32[]) -> f32[] {\n  %r = f32[] all-reduce(%p), replica_groups=@elsewhere, to_apply=%a\n}\n"
    with pytest.raises(ValueError, match="@elsewhere"):
        read_program(text, devices=8)
    with pytest.raises(ValueError, match="no HLO module"):
        read_program("nothing of the kind", devices=8)


def test_a_collective_of_one_device_is_none():
    text = (
        "ENTRY %m (p: f32[4]) -> f32[4] {\n  %r = f32[4]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%a\n}\n"
    )
    assert read_program(text, devices=2)[0] == ()


def test_started_collectives_are_counted_by_what_they_give():
    text = """
ENTRY %main (p: f32[10]) -> f32[40] {
  %s = (f32[10]{0:T(128)S(1)}, f32[40]{0:T(128)}) all-gather-start(%p), channel_id=1, replica_groups=[1,4]<=[4]
  %d = f32[40]{0:T(128)} all-gather-done(%s)
  %t = f32[10]{0:T(128)} all-reduce-start(%p), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%a
}
"""
    assert set(read_program(text, devices=4)[0]) == {
        Collective("all-gather", "f32", 4, 1, 160.0),
        Collective("all-reduce", "f32", 4, 1, 40.0),
    }
