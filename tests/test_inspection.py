"""Duplicates, outliers and doubtful labels, against brute force and hand-counted examples."""

import numpy as np
import pytest

from tf2.inspection import alignment, doubts, duplicates, neighbors


def smooth_images(count, seed=0, side=32):
    """Random images of coarse patches, uint8 (count, side, side, 3)."""
    random = np.random.RandomState(seed)
    coarse = random.uniform(0, 255, (count, 9, 9, 3))
    places = np.linspace(0, 8, side)
    low = np.minimum(places.astype(int), 7)
    share = places - low
    rows = coarse[:, low] * (1 - share)[:, None, None] + coarse[:, low + 1] * share[:, None, None]
    share = share[:, None]
    both = rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
    return both.astype(np.uint8)


def test_neighbors_in_blocks_are_those_of_brute_force():
    features = np.random.RandomState(0).standard_normal((50, 8))
    found = neighbors.nearest(features, 4, block=7)
    for index, row in enumerate(features):
        cosines = features @ row / (np.linalg.norm(features, axis=1) * np.linalg.norm(row))
        cosines[index] = -2
        best = np.argsort(-cosines)[:4]
        np.testing.assert_array_equal(found.indices[index], best)
        np.testing.assert_allclose(found.cosines[index], cosines[best], atol=1e-6)


def test_there_are_never_more_neighbors_than_other_images():
    found = neighbors.nearest(np.eye(3), 10)
    assert found.indices.shape == (3, 2)


def plain_correlation(first, second):
    """The correlation of two images in 8 x 8 blocks without the means of rows and columns."""

    def content(image):
        blocks = np.zeros((8, 8, 3))
        for i in range(8):
            for j in range(8):
                blocks[i, j] = image[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((0, 1))
        for channel in range(3):
            one = blocks[..., channel]
            one += one.mean() - one.mean(0)[None] - one.mean(1)[:, None]
        return blocks.ravel()

    return np.corrcoef(content(first), content(second))[0, 1]


def test_unrelated_images_correlate_at_least_as_whole_images_do():
    images = smooth_images(6).astype(float)
    candidates = np.array([[j for j in range(6) if j != i] for i in range(6)])
    found = alignment.correlations(images, candidates)
    for i in range(6):
        for value, j in zip(found[i], candidates[i], strict=True):
            whole = plain_correlation(images[i], images[j])
            mirrored = plain_correlation(images[i], images[j][:, ::-1])
            assert max(whole, mirrored) - 1e-5 <= value < 0.8


@pytest.mark.parametrize("kind", ["same", "mirrored", "noisy", "brighter", "cropped"])
def test_a_copy_correlates_almost_perfectly(kind):
    image = smooth_images(1, seed=3)[0].astype(float)
    copy = {
        "same": image,
        "mirrored": image[:, ::-1],
        "noisy": image + np.random.RandomState(0).normal(0, 5, image.shape),
        "brighter": 0.8 * image + 40,
        "cropped": np.kron(image[2:30, 3:31], np.ones((8, 8, 1))).reshape(32, 7, 32, 7, 3),
    }[kind]
    copy = copy.mean((1, 3)) if copy.ndim == 5 else copy  # 28 pixels enlarged to 32
    found = alignment.correlations(np.stack([image, copy]), np.array([[1], [0]]))
    assert found.max() > 0.97


def test_light_sky_over_dark_ground_is_no_resemblance():
    random = np.random.RandomState(0)
    sky = np.repeat(np.linspace(255, 0, 32)[:, None], 32, 1)[..., None].repeat(3, -1)
    images = np.stack([np.clip(sky + random.normal(0, 20, sky.shape), 0, 255) for _ in range(2)])
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.9
    assert alignment.correlations(images, np.array([[1], [0]])).max() < 0.6


def test_flat_images_are_no_duplicates_and_have_no_contrast():
    images = np.full((2, 32, 32, 3), 128, np.uint8)
    assert (alignment.correlations(images, np.array([[1], [0]])) == 0).all()
    assert (alignment.contrast(images) < alignment.LEAST_CONTRAST).all()
    assert alignment.contrast(smooth_images(1))[0] > 10


@pytest.mark.parametrize(
    ("usual", "limit"), [(0.0, 0.9), (0.4, 0.925), (0.88, 0.985), (0.999, 0.99)]
)
def test_a_duplicate_is_far_closer_than_the_usual_neighbor(usual, limit):
    values = np.full((30, 10), usual)
    values[:2, 0] = 1.0
    assert duplicates.threshold(values) == pytest.approx(limit)


def test_copies_of_copies_are_one_group():
    assert duplicates.connected([(5, 2), (2, 9), (7, 8), (9, 5)]) == [[2, 5, 9], [7, 8]]
    assert duplicates.connected([]) == []


def test_duplicates_are_found_among_others():
    images = smooth_images(12)
    images = np.concatenate([images, images[[3]], images[[3], :, ::-1], images[[7]]])
    candidates = np.array([[j for j in range(15) if j != i] for i in range(15)])
    found = duplicates.find(images, candidates)
    assert found.groups == [[3, 12, 13], [7, 14]]
    assert (found.correlations > 0).sum() == 5


def test_outlier_scores_are_modified_z_scores_of_log_distances():
    cosines = np.array([[1.0, 1 - 0.1 * 10**e] for e in (-0.2, -0.1, 0.0, 0.1, 0.2, 0.9)])
    # Logarithms -0.2 ... 0.9 in decades: median 0.05; distances from it .25 .15 .05 .05 .15 .85.
    expected = 0.6745 * (np.array([-0.2, -0.1, 0.0, 0.1, 0.2, 0.9]) - 0.05) / 0.15
    np.testing.assert_allclose(doubts.outlier_scores(cosines), expected, rtol=1e-6)
    assert (doubts.outlier_scores(np.full((5, 3), 0.5)) == 0).all()


def test_a_label_is_doubtful_below_a_fifth_of_chance():
    probabilities = np.array(
        [[0.04, 0.06, 0.9], [0.07, 0.03, 0.9], [0.3, 0.3, 0.4], [0.02, 0.9, 0.08]]
    )
    found = doubts.doubtful_labels(probabilities, np.array([0, 0, 2, 0]))  # limit 0.2 / 3
    assert found.indices.tolist() == [3, 0]
    assert found.suggested.tolist() == [1, 2]
    np.testing.assert_allclose(found.probabilities, [0.02, 0.04])
    np.testing.assert_allclose(found.suggested_probabilities, [0.9, 0.9])
