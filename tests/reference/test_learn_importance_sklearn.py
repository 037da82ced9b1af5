"""Permutation importance against scikit-learn with the same permutations, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance as of_sklearn
from sklearn.metrics import jaccard_score, recall_score

from cryoscale.features.channels import CHANNELS
from cryoscale.learn.importance import GROUPS, Permuting, permutation_importance, permuted
from cryoscale.learn.scores import CLASS_NAMES

NAMES = ("B02", "NDSI", "slope", "coherence")


def samples(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, c) and labels (n,): two channels matter, one a little, one not at all."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    y = (2 * (x[:, 1] > 0) + (x[:, 3] + 0.3 * x[:, 0] > 0.2)).astype(np.uint8)
    return x, y


def forest() -> RandomForestClassifier:
    x, y = samples()
    return RandomForestClassifier(20, max_depth=6, random_state=0).fit(x[:200], y[:200])


def ask_of(model: RandomForestClassifier):
    """The per-pixel model as the callable that importance asks."""

    def ask(x: np.ndarray, _numbers: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        found = model.predict_proba(np.moveaxis(x, 1, -1).reshape(-1, c))
        out = np.zeros((n * h * w, len(CLASS_NAMES)), np.float32)
        out[:, model.classes_] = found
        return np.moveaxis(out.reshape(n, h, w, -1), -1, 1)

    return ask


@pytest.mark.parametrize("batch", [7, 400])
def test_drops_of_accuracy_are_those_of_scikit_learn_with_its_permutations(batch: int) -> None:
    x, y = samples()
    model, repeats, seed = forest(), 4, 11
    expected = of_sklearn(model, x, y, n_repeats=repeats, random_state=seed)
    # sklearn.inspection draws one seed from random_state and shuffles by it, the same for every column;
    # each repeat shuffles what the one before has left.
    state = np.random.RandomState(np.random.RandomState(seed).randint(np.iinfo(np.int32).max + 1))
    order, donors = np.arange(len(x)), [np.arange(len(x))]
    for _ in range(repeats):
        state.shuffle(order)
        donors.append(donors[-1][order])
    held = x[:, :, None, None], y[:, None, None], np.arange(len(x))
    baseline = (model.predict(x) == y).mean()
    for column in range(len(NAMES)):
        confusion = permuted(ask_of(model), held, [column], np.array(donors[1:]), batch=batch)
        accuracy = np.trace(confusion, axis1=1, axis2=2) / len(x)
        np.testing.assert_allclose(baseline - accuracy, expected.importances[column], atol=1e-12)
    assert expected.importances_mean[1] > 0.2


def patch_set(n: int = 7, edge: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Patches (n, c, p, p) and labels with some pixels unknown, of the rule of :func:`samples`."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(n, len(NAMES), edge, edge)).astype(np.float32)
    x += rng.normal(size=(n, len(NAMES), 1, 1)).astype(np.float32)
    y = (2 * (x[:, 1] > 0) + (x[:, 3] + 0.3 * x[:, 0] > 0.2)).astype(np.uint8)
    y[:, 0, :2] = 255
    return x, y


@pytest.mark.parametrize("by", ["planes", "pixels"])
@pytest.mark.parametrize("columns", [(1,), (0, 3)])
def test_planes_and_pixels_are_exchanged_as_a_plain_loop_does(by: str, columns: tuple[int, ...]) -> None:
    x, y = patch_set()
    n, edge = len(x), x.shape[-1]
    rng = np.random.default_rng(1)
    size = n if by == "planes" else y.size
    donors = np.stack([rng.permutation(size) for _ in range(2)])
    got = permuted(ask_of(forest()), (x, y, np.arange(n)), columns, donors, batch=3)
    for row, confusion in zip(donors, got, strict=True):
        changed = x.copy()
        for patch in range(n):
            for r in range(edge):
                for c in range(edge):
                    for column in columns:
                        if by == "planes":
                            changed[patch, column, r, c] = x[row[patch], column, r, c]
                        else:
                            giver = row[(patch * edge + r) * edge + c]
                            other, rest = divmod(giver, edge * edge)
                            changed[patch, column, r, c] = x[other, column, rest // edge, rest % edge]
        labels = ask_of(forest())(changed, np.arange(n)).argmax(1)
        expected = np.zeros_like(confusion)
        np.add.at(expected, (y[y != 255], labels[y != 255]), 1)
        np.testing.assert_array_equal(confusion, expected)


def test_figures_are_scikit_learns_and_patches_are_exchanged_between_others() -> None:
    x, y = patch_set()
    seen: list[np.ndarray] = []

    def ask(part: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        seen.append(numbers)
        return ask_of(forest())(part, numbers)

    found = permutation_importance(
        ask, lambda i: (x[i], y[i]), range(len(x)), NAMES, how=Permuting(repeats=1, seed=3, batch=2)
    )
    labels = ask_of(forest())(x, np.arange(len(x))).argmax(1)[y != 255]
    truth = y[y != 255]
    each = jaccard_score(truth, labels, average=None, labels=[0, 1, 2, 3])
    recall = recall_score(truth, labels, average=None, labels=[0, 1, 2, 3])
    assert found.baseline["overall"] == pytest.approx((each.mean(), (truth == labels).mean()))
    assert found.baseline["clean ice"] == pytest.approx((each[1], recall[1]))
    assert found.baseline["debris-covered ice"] == pytest.approx((each[2], recall[2]))
    assert set(np.concatenate(seen)) == set(range(len(x)))
    assert found.channels["NDSI"]["overall"].accuracy[0] > 0.1


def test_a_channel_that_is_not_looked_at_drops_nothing_and_the_only_one_drops_all() -> None:
    x, _ = patch_set(12)
    y = (x[:, 1] > 0).astype(np.uint8)

    def ask(part: np.ndarray, _numbers: np.ndarray) -> np.ndarray:
        out = np.zeros((len(part), len(CLASS_NAMES), *part.shape[2:]), np.float32)
        out[:, 0], out[:, 1] = part[:, 1] <= 0, part[:, 1] > 0
        return out

    found = permutation_importance(ask, lambda i: (x[i], y[i]), range(12), NAMES, how=Permuting())
    assert found.baseline["overall"] == (1.0, 1.0)
    for name in ("B02", "slope", "coherence"):
        for drop in found.channels[name].values():
            assert all(value == 0 for value in (*drop.iou, *drop.accuracy) if not np.isnan(value))
    # What is left once the plane is another patch's: the chance that two patches agree on a pixel.
    left = 1 - np.mean(found.channels["NDSI"]["overall"].accuracy)
    assert left == pytest.approx((y.mean() ** 2 + (1 - y.mean()) ** 2), abs=0.15)
    assert found.groups["indices"] == found.channels["NDSI"]
    assert str(found.groups["all from optical"]) == str(found.channels["NDSI"])  # NaN is not equal to NaN
    assert "thermal" not in found.groups
    assert [name for name, _ in found.leading("overall", 1)] == ["NDSI"]


def test_two_channels_that_say_the_same_hide_each_other_and_the_group_shows_it() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(40, 1, 4, 4)), 2, axis=1).astype(np.float32)
    x += rng.normal(size=(40, 1, 1, 1)).astype(np.float32)
    y = (x.mean(axis=1) > 0).astype(np.uint8)

    def ask(part: np.ndarray, _numbers: np.ndarray) -> np.ndarray:
        ice = (np.nan_to_num(part).mean(axis=1) > 0).astype(np.float32)
        out = np.zeros((len(part), len(CLASS_NAMES), *part.shape[2:]), np.float32)
        out[:, 0], out[:, 1] = 1 - ice, ice
        return out

    names = ("coherence", "phase")
    found = permutation_importance(ask, lambda i: (x[i], y[i]), range(40), names, how=Permuting(repeats=5))
    alone = max(np.mean(found.channels[name]["overall"].accuracy) for name in names)
    assert np.mean(found.groups["insar"]["overall"].accuracy) > 1.4 * alone


@pytest.mark.parametrize("room", [2, 3, 7, 100])
def test_memory_decides_only_the_groups_and_every_patch_is_read_once(room: int) -> None:
    x, y = patch_set(7)
    reads: list[int] = []

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        reads.append(index)
        return x[index], y[index]

    how = Permuting(repeats=1, hold_bytes=room * x[0].nbytes)
    found = permutation_importance(ask_of(forest()), read, range(7), NAMES, how=how)
    assert sorted(reads[1:]) == list(range(7))  # the first look asks only how large a patch is
    assert found.settings["pixels"] == int((y != 255).sum())
    again = permutation_importance(ask_of(forest()), read, range(7), NAMES, how=how)
    assert again == found


def test_no_patch_keeps_its_own_plane() -> None:
    x, y = patch_set(9)
    x[:] = np.arange(9)[:, None, None, None]
    kept: list[bool] = []

    def ask(part: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        changed = part != numbers[:, None, None, None]
        kept.extend((changed.any(axis=(2, 3)) != changed.all(axis=(2, 3))).ravel())
        if changed.any():
            assert (changed.sum(axis=(1, 2, 3)) > 0).all()
        return np.zeros((len(part), len(CLASS_NAMES), *part.shape[2:]), np.float32)

    for room in (2, 4, 9):
        how = Permuting(repeats=2, hold_bytes=room * x[0].nbytes)
        permutation_importance(ask, lambda i: (x[i], y[i]), range(9), NAMES, how=how)
    assert not any(kept)


def test_the_groups_hold_every_channel_and_no_other() -> None:
    single = [name for group, members in GROUPS.items() if group != "all from optical" for name in members]
    assert sorted(single) == sorted(CHANNELS)
    assert set(GROUPS["all from optical"]) < set(CHANNELS)
