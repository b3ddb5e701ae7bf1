"""Plain words: the verdict, and what may and may not be concluded at this n."""

from dataclasses import replace

import numpy as np
import pytest
from comparisons import HOSTILE, MEASURES, hostile, made_up

from repsim_jax.errors import UnknownNameError
from repsim_jax.report import digest, words


def verdict(values: np.ndarray, measures: tuple[str, ...] = ("linear_cka_unbiased",), **others: object) -> str:
    comparison = made_up(values.shape[-2], values.shape[-1], measures, **others)
    return words.verdict(digest(replace(comparison, values=np.broadcast_to(values, comparison.values.shape))))


def cautions(**others) -> str:
    return " ".join(words.conclusions(digest(made_up(**others))).cautions)


@pytest.mark.parametrize(
    ("value", "degree"),
    [(0.99, "almost the same"), (0.85, "very much alike"), (0.7, "much alike"), (0.5, "partly alike"), (0.3, "weakly"),
     (0.01, "hardly alike"), (-0.2, "hardly alike")],
)  # fmt: skip
def test_the_verdict_says_how_alike_and_on_what_evidence(value: float, degree: str):
    text = verdict(np.full((1, 1), value))
    assert degree in text
    assert "1,000 shared examples (higher = more alike)" in text


def test_models_with_the_same_order_of_layers_are_said_to_correspond():
    near = np.exp(-np.abs(np.subtract.outer(np.arange(8.0), np.arange(8.0))))
    assert "Deeper layers of the first correspond to deeper layers of the second" in verdict(near)
    assert "do not follow depth" in verdict(near[::-1])
    assert "All layers of the first are nearest to one layer" in verdict(np.tile(np.arange(8.0) / 8, (8, 1)))


def test_layers_nearest_to_their_namesake_are_counted():
    near = np.exp(-np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0))))
    names = tuple("abcd")
    assert "4 of 4 layers that both have" in verdict(near, layers_a=names, layers_b=names)


def test_measures_that_rank_alike_are_said_to_agree():
    draws = np.random.default_rng(0).uniform(0.2, 0.8, size=(2, 6, 6))
    assert "rank layer pairs differently" in verdict(draws, ("linear_cka", "rsa"))
    assert "Both measures rank layer pairs much the same way" in verdict(draws[[0, 0]], ("linear_cka", "rsa"))


def test_biased_cka_of_few_examples_is_called_inflated():
    few = {"measures": ("linear_cka",), "num_examples": 100, "width": 768}
    assert "n/d = 0.13) the value is inflated" in cautions(**few)
    assert "chance level" not in cautions(**few)
    assert "inflated" not in cautions(measures=("linear_cka",), num_examples=10_000, width=64)
    assert "inflated" not in cautions(measures=("linear_cka_unbiased",), num_examples=100, width=768)


def test_an_inflated_value_gets_no_everyday_word():
    few = {"num_examples": 100, "width": 768}
    assert "compared: Linear CKA (biased) is 0.90" in verdict(np.full((1, 1), 0.9), ("linear_cka",), **few)
    assert "very much alike" in verdict(np.full((1, 1), 0.9), ("linear_cka",), num_examples=10_000)
    assert "compared: Mutual kNN is 0.90" in verdict(np.full((1, 1), 0.9), ("mutual_knn",))


def test_the_chance_level_is_told_where_it_is_known():
    settings = {"chance": {"linear_cka": [[0.51, 0.52], [0.53, 0.61]]}}
    text = cautions(measures=("linear_cka",), num_examples=100, width=768, settings=settings)
    assert "chance level of biased linear CKA here: 0.51 to 0.61" in text


@pytest.mark.parametrize("chance", [3, {"linear_cka": []}, {"linear_cka": [float("nan")]}])
def test_a_chance_level_that_says_nothing_is_left_out(chance: object):
    text = cautions(measures=("linear_cka",), num_examples=100, width=768, settings={"chance": chance})
    assert "chance level" not in text


def test_canonical_correlation_saturates_where_n_is_near_the_widths():
    assert "saturates towards 1" in cautions(measures=("cca",), num_examples=128, width=64)
    assert "near the widths" in cautions(measures=("cca",), num_examples=129, width=64)
    assert not cautions(measures=("cca",), num_examples=1280, width=64)


def test_thin_margins_are_called_ties():
    comparison = replace(made_up(2, 2, ("rsa",)), values=np.array([[[0.5, 0.501], [0.2, 0.9]]]))
    assert "For 1 of 2 layers" in " ".join(words.conclusions(digest(comparison)).cautions)


def test_notes_of_the_comparison_are_passed_on_in_one_line():
    assert "two lines" in cautions(notes=("two\nlines",), num_examples=10_000)


def test_similarity_is_never_said_to_be_the_same_behavior():
    text = " ".join(words.conclusions(digest(made_up(measures=MEASURES))).may_not)
    assert "do the same work" in text
    assert "point estimate" in text


def test_every_sentence_is_clean_whatever_the_names_are():
    found = digest(hostile())
    conclusions = words.conclusions(found)
    for text in (words.heading(found), words.verdict(found), *conclusions.may, *conclusions.cautions):
        assert not set(text) & set("\x1b\x07\x00\n\u202e")
    assert HOSTILE[1][:10] in words.heading(found)


def test_a_measure_of_unknown_direction_is_refused():
    with pytest.raises(UnknownNameError, match="no measure is called 'my_measure'"):
        digest(made_up(measures=("my_measure",)))
