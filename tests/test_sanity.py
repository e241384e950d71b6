"""Each sign that a training goes wrong is one sentence with its numbers and a flag that exists."""

import re

import pytest

from tf2 import config, sanity

HALF = (0.5, (0.45, 0.55))
HIGHER = (0.6, (0.55, 0.65))
EVEN = {"embedding_std": 0.9, "uniformity": -3.5}


def test_features_are_compared_with_untrained_ones_after_a_third_of_the_steps():
    said = sanity.untrained_features(0.218, 0.224, 0.34, 400)
    assert "kNN 21.8 % against 22.4 %" in said and "34 %" in said
    assert sanity.untrained_features(0.218, 0.224, 0.33, 400) is None  # too early to say
    assert sanity.untrained_features(0.362, 0.224, 0.34, 400) is None
    assert sanity.untrained_features(0.218, 0.224, 0.34, 49) is None  # too few images to say
    assert sanity.untrained_features(0.23, 0.224, 1.0, 400)  # a gain that is noise


@pytest.mark.parametrize("scalars", [{"embedding_std": 0.02}, {"uniformity": -0.01}])
def test_a_collapsed_embedding_is_seen_by_its_spread_or_its_uniformity(scalars):
    assert "collapsed" in sanity.collapsed_embedding({**EVEN, **scalars}, 0.5)
    assert sanity.collapsed_embedding({**EVEN, **scalars}, 0.1) is None
    assert sanity.collapsed_embedding(EVEN, 0.5) is None
    assert sanity.collapsed_embedding({"total_loss": 1.0}, 0.5) is None


def test_a_student_is_compared_with_its_teacher_by_its_interval():
    said = sanity.below_teacher(HALF, HIGHER)
    assert "The student, 50.0 % (45.0 to 55.0), is below its teacher, 60.0 %" in said
    assert sanity.below_teacher(HALF, (0.54, None)) is None
    assert sanity.below_teacher(HIGHER, HALF) is None
    assert "distilled network" in sanity.below_teacher(HALF, HIGHER, same_network=True)
    assert sanity.below_teacher((0.5, None), (0.51, None))


def test_the_baseline_is_compared_with_the_fine_tuned_network():
    assert "baseline, 60.0 % (55.0 to 65.0), is above" in sanity.baseline_above(HALF, HIGHER)
    assert "by less than its interval" not in sanity.baseline_above(HALF, HIGHER)
    assert "by less than its interval" in sanity.baseline_above(HALF, (0.54, (0.5, 0.6)))
    assert sanity.baseline_above(HALF, HALF) is None
    assert sanity.baseline_above(HIGHER, HALF) is None


def test_stages_are_compared_where_they_were_measured():
    assert sanity.compare_stages({}) == []
    assert sanity.compare_stages({"finetune": HALF}) == []
    good = {"finetune": HIGHER, "distill": HIGHER, "student": HIGHER, "supervised": HALF}
    assert sanity.compare_stages(good) == []
    found = sanity.compare_stages({**good, "student": HALF})
    assert len(found) == 1 and "student" in found[0]
    found = sanity.compare_stages({**good, "distill": HALF})
    assert len(found) == 1 and "distilled network" in found[0]
    found = sanity.compare_stages(
        {"finetune": HALF, "student": (0.3, (0.2, 0.4)), "supervised": HIGHER}
    )
    assert len(found) == 2


def test_every_flag_that_a_sentence_names_exists_for_its_stage():
    text = " ".join(
        filter(
            None,
            [
                sanity.untrained_features(0, 0, 1, 50),
                sanity.collapsed_embedding({"embedding_std": 0, "uniformity": 0}, 1),
                sanity.below_teacher(HALF, HIGHER),
                sanity.below_teacher(HALF, HIGHER, same_network=True),
                sanity.baseline_above(HALF, HIGHER),
            ],
        )
    )
    flags = re.findall(r"--((?:\w+\.)?\w+)", text)
    known = {field.name for field in config.flag_fields()}
    assert len(flags) > 8
    for flag in flags:
        stage, _, name = flag.rpartition(".")
        assert name in known, flag
        assert not stage or config.may_differ(name, stage), flag
