"""Image operations give the reference's numbers; the random ones are in `test_data_util.py`."""

import reference

from tf2 import parity_evaluation


def test_every_deterministic_image_operation():
    results = reference.check(parity_evaluation.preprocessing, at_least=100)
    cases = {r.case.split("/")[0].split(" ")[0] for r in results}
    assert cases == {
        "crop_shape", "center_crop", "eval_nocrop", "blur", "gray", "gray1", "brightness", "jitter",
    }  # fmt: skip
    sizes = next(r for r in results if r.case == "crop_shape")
    assert sizes.reference == 450


def test_a_clone_without_the_whole_pack_compares_them_too():
    golden = reference.parity_data.Pack([reference.GOLDEN])
    results = parity_evaluation.preprocessing(golden)
    assert len(results) >= 100 and all(r.passed for r in results)
