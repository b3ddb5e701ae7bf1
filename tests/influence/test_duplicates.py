"""Copies are found and others are not, without a label or a chosen cosine; pruning of pairs misses none."""

import io

import jax
import numpy as np
import pytest

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence.curation import appearance, close, close_pairs, find_duplicates, leaks, looks, to_drop
from repsim_jax.influence.curation.gaps import gap_pairs, largest_p_value
from repsim_jax.linalg import nearest_by_views

N, D = 400, 10


def spread_rows(seed: int = 0, n: int = N, d: int = D) -> np.ndarray:
    """Points whose density differs a thousandfold: no single distance separates copies from neighbors."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((8, d))
    size = np.geomspace(0.05, 0.5, 8)[np.arange(n) % 8, None]
    return centers[np.arange(n) % 8] + size * generator.standard_normal((n, d))


def with_copies(seed: int = 0, count: int = 40, share: float = 0.02) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Copies as far from their originals as a small share of the spread of their own cluster."""
    x, generator = spread_rows(seed), np.random.default_rng(seed + 100)
    size = np.geomspace(0.05, 0.5, 8)[np.arange(count) % 8, None]
    copies = x[:count] + share * size * generator.standard_normal((count, D))
    return np.concatenate([x, copies]).astype(np.float32), {(i, N + i) for i in range(count)}


def as_set(pairs: np.ndarray) -> set[tuple[int, int]]:
    return set(map(tuple, pairs.tolist()))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().images, np.float32)


def test_nearest_by_views_is_brute_force_whatever_the_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((60, 3, 5)).astype(np.float32)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    alike = np.stack([x[:, 0] @ x[:, v].T for v in range(3)])
    alike = np.maximum(alike, alike.transpose(0, 2, 1)).max(0).astype(np.float64)
    np.fill_diagonal(alike, -np.inf)
    order = np.argsort(-alike, axis=1)[:, :4]
    for elements in (2**22, 60 * 7):
        monkeypatch.setattr("repsim_jax.linalg.nearest._BLOCK_ELEMENTS", elements)
        nearest_by_views.clear_cache()  # pyright: ignore[reportFunctionMemberAccess]
        found = nearest_by_views(jax.numpy.asarray(x), k=4)
        np.testing.assert_array_equal(found.rows, order)
        np.testing.assert_allclose(
            found.distances, np.sqrt(2 - 2 * np.take_along_axis(alike, order, axis=1)), atol=1e-3
        )


def test_copies_are_found_where_density_differs_and_hardly_anything_else():
    found_all, false_all, true_all = 0, 0, 0
    for seed in range(3):
        x, truth = with_copies(seed)
        found = as_set(find_duplicates(x).pairs)
        found_all, true_all, false_all = found_all + len(found & truth), true_all + 40, false_all + len(found - truth)
    assert found_all >= 0.95 * true_all
    assert false_all <= 0.1 * (found_all + false_all)


def test_one_cosine_does_not_separate_them():
    """The same copies by one cosine, the best that labels could choose: worse than the rule without labels."""
    x, truth = with_copies(share=0.1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    rows, columns = np.triu_indices(len(x), 1)
    order = np.argsort(-(unit @ unit.T)[rows, columns])[:2000]
    hits = np.cumsum([(a, b) in truth for a, b in zip(rows[order], columns[order], strict=True)])
    best = (2 * hits / (np.arange(1, 2001) + len(truth))).max()
    found = as_set(find_duplicates(x).pairs)
    assert 2 * len(found & truth) / (len(found) + len(truth)) > best


def test_where_there_are_no_copies_hardly_any_are_found():
    """By the rule's promise, data without copies give any pair at all in at most one case of twenty."""
    generator = np.random.default_rng(0)
    with_some = [
        len(find_duplicates(generator.standard_normal((N + 40, D)).astype(np.float32)).pairs) > 0 for _ in range(20)
    ]
    assert np.mean(with_some) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20)


def test_p_values_of_points_without_copies_are_those_of_chance():
    """Before mutual neighbors are taken, a p-value below u comes up in at most a share u of rows."""
    from repsim_jax.influence.curation.gaps import _row_p_values

    x = np.random.default_rng(1).standard_normal((3000, 5)).astype(np.float32)
    distances = np.sqrt(np.maximum(((x[:, None, :] - x[None]) ** 2).sum(-1), 0))
    p_values = _row_p_values(np.sort(distances, axis=1)[:, 1:21])[:, 0]
    for u in (0.1, 0.01):
        assert np.mean(p_values <= u) <= u + 3 * np.sqrt(u / 3000)


def test_the_false_share_is_benjamini_and_hochbergs():
    p_values = np.asarray([0.001, 0.008, 0.039, 0.041, 0.042, 0.06])
    for tests, share in ((6, 0.05), (6, 0.1), (20, 0.05), (1000, 0.05)):
        expected = max([p for k, p in enumerate(p_values, 1) if p <= share * k / tests], default=0.0)
        assert largest_p_value(p_values, tests=tests, false_share=share) == expected
    assert largest_p_value(np.zeros(0), tests=5, false_share=0.05) == 0


def test_pairs_are_mutual_and_stand_once():
    neighbors = np.asarray([[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]])
    distances = np.sort(np.random.default_rng(0).uniform(1, 2, (4, 3)), axis=1)
    assert as_set(gap_pairs(neighbors, distances).pairs) == {(0, 1)}


def test_scale_of_rows_and_order_and_dtype_change_nothing():
    x, _ = with_copies()
    found = find_duplicates(x)
    lengths = np.random.default_rng(3).uniform(0.1, 10, (len(x), 1)).astype(np.float32)
    assert as_set(find_duplicates(x * lengths).pairs) == as_set(found.pairs)
    order = np.random.default_rng(4).permutation(len(x))
    back = np.sort(order[find_duplicates(x[order]).pairs], axis=1)
    assert as_set(back) == as_set(found.pairs)
    assert as_set(find_duplicates(x.astype(np.float64)).pairs) == as_set(found.pairs)
    half = as_set(find_duplicates(x.astype(np.float16)).pairs)
    assert len(half & as_set(found.pairs)) >= 0.9 * len(found.pairs)


def test_copies_of_digits_are_found_by_their_looks(digits):
    """Equal, darker and noisy: without an encoder."""
    generator = np.random.default_rng(0)
    base = np.kron(digits[:300], np.ones((4, 4), np.float32)) * 15
    darker = (0.6 * base[:20]).astype(np.uint8)
    noisy = np.clip(base[20:40] + generator.normal(0, 6, base[20:40].shape), 0, 255).astype(np.uint8)
    found = find_duplicates(images=[*base.astype(np.uint8), *base[60:80].astype(np.uint8), *darker, *noisy])
    truth = {(60 + i, 300 + i) for i in range(20)} | {(i, 320 + i) for i in range(40)}
    pairs = as_set(found.pairs)
    assert len(pairs & truth) >= 0.95 * len(truth)
    assert len(pairs & truth) >= 0.9 * len(pairs)
    assert set(found.kinds[found.p_values == 0]) == {"exact"}
    assert set(found.kinds) == {"exact", "perceptual"}


def test_windows_find_crops_that_whole_images_do_not(monkeypatch):
    """Patches of scikit-learn's two photographs, much of them sky and water; copies keep nine tenths of each side."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    patches = [
        photograph[y : y + 48, x : x + 48]
        for photograph in load_sample_images().images
        for y in range(0, 427 - 48, 48)
        for x in range(0, 640 - 48, 48)
    ]
    corners = np.random.default_rng(0).uniform(0, 4.8, (len(patches), 2))
    chosen = np.random.default_rng(1).permutation(len(patches))[:40]
    cropped = [
        Image.fromarray(patches[row]).resize((48, 48), Image.Resampling.BICUBIC, box=(*corner, *(corner + 43.2)))
        for row, corner in zip(chosen, corners[chosen], strict=True)
    ]
    truth = {(row, len(patches) + i) for i, row in enumerate(chosen.tolist())}
    found = as_set(find_duplicates(images=[*patches, *cropped]).pairs)
    monkeypatch.setattr(appearance, "_POSITIONS", ())
    by_whole = as_set(find_duplicates(images=[*patches, *cropped]).pairs)
    assert len(found & truth) >= max(12, 2 * len(by_whole & truth))
    assert len(found & truth) >= 0.9 * len(found)


def test_looks_are_the_same_in_other_sizes_colors_and_contrasts(digits):
    image = np.kron(digits[0], np.ones((4, 4))) * 10 + 20
    colored = np.stack([0.9 * image, 0.9 * image, 0.9 * image], axis=2).astype(np.uint8)
    larger = np.kron(image, np.ones((2, 2))).astype(np.uint8)
    described = looks([image.astype(np.uint8), colored, larger])
    assert described.shape == (3, 10, 64)
    np.testing.assert_allclose(np.linalg.norm(described, axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(described.sum(2), 0, atol=1e-4)
    assert (described[:, 0] @ described[0, 0]).min() > 0.999
    assert not looks([np.full((9, 9), 77, np.uint8)]).any()


def test_equal_rows_are_one_group_however_many_there_are():
    x = spread_rows().astype(np.float32)
    x[50:90] = x[3]
    found = find_duplicates(x)
    assert found.groups[0].tolist() == [3, *range(50, 90)]
    assert len(find_duplicates(x, exact_hashes=[str(row.tobytes()) for row in x]).groups[0]) == 41


def test_all_rows_equal_is_one_group_and_is_told():
    found = find_duplicates(np.ones((30, 4), np.float16))
    assert [len(group) for group in found.groups] == [30]
    assert "One group holds 30 of 30 examples" in found.notes[0]


def test_a_chain_is_told():
    angles = np.linspace(0, 3, 400)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = find_duplicates(x, threshold=float(np.cos(0.0076)))
    assert len(found.groups) == 1
    assert any("chains" in note for note in found.notes)
    assert any("One group holds 400 of 400" in note for note in found.notes)


@pytest.mark.parametrize("n", [1, 2, 11])
def test_few_rows_have_no_threshold_but_equal_ones_are_found(n: int):
    found = find_duplicates(spread_rows(n=n))
    assert found.groups == ()
    assert "too few" in found.notes[0]
    twice = find_duplicates(np.repeat(spread_rows(n=n), 2, axis=0)[: 2 * n])
    assert len(twice.groups) == n


def test_rows_without_direction_are_told_and_match_nothing():
    x, truth = with_copies()
    x[[100, 200]] = 0
    found = find_duplicates(x)
    assert found.undefined.tolist() == [100, 200]
    assert not np.isin(found.pairs, [100, 200]).any()
    assert len(as_set(found.pairs) & truth) >= 0.95 * len(truth)
    blank = [np.full((8, 8), 9, np.uint8), np.full((8, 8), 7, np.uint8), *[np.eye(8, dtype=np.uint8) * 255] * 2]
    found = find_duplicates(images=blank)
    assert found.undefined.tolist() == [0, 1]
    assert [group.tolist() for group in found.groups] == [[2, 3]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got nothing"),
        ({"embeddings": np.ones((3, 2)), "exact_hashes": ["a"]}, "got 3 embeddings, 1 exact_hashes"),
        ({"embeddings": np.ones((0, 2))}, "got 0 embeddings"),
        ({"embeddings": np.ones(3)}, r"embeddings \(n, d\)"),
        ({"embeddings": np.ones((3, 2), int)}, "floating-point"),
        ({"embeddings": np.asarray([[1.0, 2], [np.nan, 1]])}, "1 embeddings hold NaN or infinity, the first is row 1"),
        ({"embeddings": np.ones((3, 2)), "threshold": 1.5}, "a threshold that is a cosine"),
        ({"exact_hashes": ["a", "b"], "threshold": 0.5}, "no embeddings"),
        ({"embeddings": np.ones((3, 2)), "false_share": 0.0}, "false_share between 0 and 1"),
    ],
)
def test_bad_input_is_refused(given, message: str):
    with pytest.raises(BadArrayError, match=message):
        find_duplicates(**given)


def test_a_given_threshold_takes_all_pairs_above_it():
    x, _ = with_copies()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = find_duplicates(x, threshold=0.999)
    rows, columns = np.nonzero(np.triu(unit @ unit.T >= 0.999, k=1))
    assert as_set(found.pairs) == set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert found.threshold == 0.999
    assert found.threshold_by == "cosine 0.999, given"


@pytest.mark.parametrize("cells", [1, 7, 40])
@pytest.mark.parametrize("threshold", [0.7, 0.99])
def test_no_close_pair_is_missed_whatever_the_cells(monkeypatch, cells: int, threshold: float):
    monkeypatch.setattr(close, "_BLOCK", 64)
    x = spread_rows(n=500)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    told = []
    found = close_pairs(x, threshold, cells=cells, on_progress=lambda done, all_: told.append((done, all_)))
    products = x.astype(np.float64) @ x.T.astype(np.float64)
    rows, columns = np.nonzero(np.triu(products >= threshold, k=1))
    np.testing.assert_array_equal(found.pairs, np.stack([rows, columns], axis=1))
    np.testing.assert_allclose(found.similarities, products[rows, columns], atol=1e-5)
    assert told == [(i + 1, cells) for i in range(cells)]
    assert found.compared == 1 if cells == 1 else found.compared < 1.5
    if cells == 40 and threshold == 0.99:
        assert found.compared < 0.4


def test_close_pairs_wants_rows_of_length_one():
    with pytest.raises(BadArrayError, match="length one"):
        close_pairs(np.full((3, 2), 5.0, np.float32), 0.9)
    with pytest.raises(BadArrayError, match="threshold 2"):
        close_pairs(np.ones((3, 2), np.float32), 2.0)
    assert close_pairs(np.zeros((0, 2), np.float32), 0.9).pairs.shape == (0, 2)


def test_who_stays_is_who_was_asked_for():
    x, _ = with_copies(count=3)
    x = np.concatenate([x, x[:1]])  # rows 0, 400 and 403 are one group
    found = find_duplicates(x)
    assert [group.tolist() for group in found.groups] == [[0, 400, 403], [1, 401], [2, 402]]
    values = np.zeros(len(x))
    values[[400, 1, 402]] = -1
    values[[403, 401, 2]] = 1
    assert to_drop(found).tolist() == [400, 401, 402, 403]
    assert to_drop(found, keep="influence", self_influence=values).tolist() == [0, 2, 401, 403]
    assert to_drop(found, keep="easy", difficulty=values).tolist() == [0, 2, 401, 403]
    assert to_drop(found, keep="hard", difficulty=values).tolist() == [0, 1, 400, 402]
    assert to_drop(found, keep="hard", self_influence=values).tolist() == [0, 1, 400, 402]
    random = to_drop(found, keep="random", key=jax.random.key(0))
    assert len(random) == 4
    assert all(len(np.setdiff1d(group, random)) == 1 for group in found.groups)
    assert to_drop(find_duplicates(spread_rows(n=5))).tolist() == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"keep": "random"}, BadArrayError, "needs a random key"),
        ({"keep": "influence"}, BadArrayError, "needs self_influence"),
        ({"keep": "hard"}, BadArrayError, "needs difficulty, or self_influence"),
        ({"keep": "easy", "difficulty": np.ones(5)}, BadArrayError, "one finite value for each"),
        ({"keep": "centre"}, UnknownNameError, "Did you mean 'central'"),
    ],
)
def test_a_policy_without_what_it_needs_is_refused(given, error, message: str):
    x, _ = with_copies(count=3)
    with pytest.raises(error, match=message):
        to_drop(find_duplicates(x), **given)


def test_leaks_are_the_copies_across_the_two_sides():
    x, _ = with_copies()
    train, test = x[:N], x[N:]
    test = np.concatenate([test, test[:1]])  # twice in the test set: both have leaked
    found = leaks(train, test)
    expected = {(i, i) for i in range(40)} | {(0, 40)}
    assert len(as_set(found.pairs) & expected) >= 0.95 * len(expected)
    assert len(as_set(found.pairs) - expected) <= 2
    assert (np.diff(found.pairs[:, 1]) > 0).all()
    assert dict(zip(found.pairs[:, 1].tolist(), found.kinds.tolist(), strict=True))[40] == "group"


def test_leaks_of_files_alone_need_no_embeddings():
    found = leaks(exact_hashes=(["a", "b", "c", "b"], ["x", "b", "b"]))
    assert found.pairs.tolist() == [[1, 1], [1, 2]]
    assert found.kinds.tolist() == ["exact", "exact"]
    assert leaks(exact_hashes=(["a"], ["b"])).pairs.shape == (0, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": np.ones((3, 2))}, r"half of \['embeddings'\]"),
        ({"train": np.ones((3, 2)), "test": np.ones((3, 4))}, r"widths \[\(2,\), \(4,\)\]"),
        (
            {"train": np.ones((3, 2)), "test": np.ones((3, 2)), "exact_hashes": (["a"], ["b"])},
            "same n training examples",
        ),
        ({}, "same n training examples"),
    ],
)
def test_half_a_comparison_is_refused(given, message: str):
    with pytest.raises(BadArrayError, match=message):
        leaks(**given)


def test_images_as_files_hold_them_are_compared(digits):
    """PIL images, JPEG files of them, and arrays of other sizes in one list."""
    from PIL import Image

    base = [Image.fromarray((digits[i] * 15).astype(np.uint8)).resize((32, 32)) for i in range(60)]

    def reencoded(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60)
        return Image.open(buffer)

    images = [*base, *(reencoded(one) for one in base[:10]), *(np.asarray(one.resize((48, 48))) for one in base[10:20])]
    found = as_set(find_duplicates(images=images).pairs)
    assert len(found & {(i, 60 + i) for i in range(20)}) >= 19
