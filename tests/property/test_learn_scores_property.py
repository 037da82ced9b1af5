"""Scores of parts add up to the scores of the whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cryoscale.learn.scores import Scores, score_arrays

labels = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.just(9)), elements=st.sampled_from([0, 1, 2, 3, 4, 255])
)


@given(data=st.data(), truth=labels)
def test_scores_of_blocks_add_up_to_the_scores_of_the_whole(data, truth):
    predicted = data.draw(hnp.arrays(np.uint8, truth.shape, elements=st.sampled_from([0, 1, 2, 3, 4, 255])))
    cut = data.draw(st.integers(0, truth.shape[0]))
    whole = score_arrays([(truth, predicted)])
    parts = [(truth[:cut], predicted[:cut]), (truth[cut:], predicted[cut:])]
    assert score_arrays(parts) == whole
    assert score_arrays(parts[:1]) + score_arrays(parts[1:]) == whole


@given(hnp.arrays(np.int64, (5, 5), elements=st.integers(0, 1000)))
def test_every_score_lies_between_zero_and_one_and_iou_is_the_smallest(confusion):
    scores = Scores.from_confusion(confusion)
    for values in (scores.iou, scores.precision, scores.recall):
        known = values[np.isfinite(values)]
        assert ((known >= 0) & (known <= 1)).all()
    both = np.isfinite(scores.precision) & np.isfinite(scores.recall)
    assert (scores.iou[both] <= np.minimum(scores.precision, scores.recall)[both] + 1e-12).all()
