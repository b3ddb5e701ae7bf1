"""The safety catch: a policy that cannot fail is an error, and what was not shown never passes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparisons import made_up
from hypothesis import given
from hypothesis import strategies as st

from repsim_jax import similarity
from repsim_jax.errors import PolicyError, RepsimError
from repsim_jax.evaluation import GateResult, check, load_policy
from repsim_jax.evaluation.gate import LEARNED as LEARNED_NAMES

LAYERS = ("block_0", "block_1", "head")
VALUES = np.array([[0.95, 0.5, 0.1], [0.5, 0.85, 0.2], [0.1, 0.2, 0.99]])
COMPARISON = replace(
    made_up(layers_a=LAYERS, layers_b=LAYERS, measures=("linear_cka",), num_examples=600), values=VALUES[None]
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def judged(tmp_path: Path, rule: str) -> GateResult:
    return check(COMPARISON, load_policy(written(tmp_path, f'[[rule]]\nmeasure = "linear_cka"\n{rule}')))


def test_an_update_that_meets_its_policy_passes(tmp_path: Path):
    result = judged(tmp_path, "min = 0.8\n[policy]\nmin_examples = 500")
    assert result.passed
    assert result.findings == ()
    assert len(result.checks) == 4


def test_a_finding_names_rule_layers_measure_value_and_threshold(tmp_path: Path):
    result = judged(tmp_path, "min = 0.9")
    (finding,) = result.findings
    assert not result.passed
    assert finding._asdict() == {
        "rule": "rule 1", "layer_a": "block_1", "layer_b": "block_1", "measure": "linear_cka", "value": 0.85,
        "bound": ">=", "threshold": 0.9, "passed": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ('layers = "block_*"\nmin = 0.85', True),
        ('layers = "block_*"\nmin = 0.8500001', False),
        ('layers = "head"\nmax = 0.98', False),
        ('layers = "head"\nmin = 0.9\nmax = 0.995', True),
        ('pairs = "all"\nmin = 0.1', True),
        ('pairs = "all"\nmin = 0.11', False),
        ('pairs = "best"\nmin = 0.85', True),
        ('pairs = {a = "block_0", b = "head"}\nmax = 0.1', True),
        ('pairs = {a = "block_0", b = "head"}\nmax = 0.09', False),
        ('aggregate = "mean"\nmin = 0.93', True),
        ('aggregate = "mean"\nmin = 0.931', False),
        ('aggregate = "min"\nmin = 0.85', True),
        ('aggregate = "min"\nmin = 0.86', False),
        ("min = 0.5\n[policy]\nmin_examples = 601", False),
    ],
)
def test_every_threshold_bites_at_its_value(tmp_path: Path, rule: str, passed: bool):
    assert judged(tmp_path, rule).passed is passed


def test_a_value_that_is_not_a_number_never_passes(tmp_path: Path):
    broken = replace(COMPARISON, values=np.full((1, 3, 3), np.nan))
    policy = load_policy(written(tmp_path, '[[rule]]\nmeasure = "linear_cka"\nmin = 0.1\nmax = 0.9'))
    assert len(check(broken, policy).findings) == 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   # nothing\n", "empty"),
        ("min = ", "not valid TOML"),
        ("[policy]\nmin_examples = 5", "no rule"),
        ("rule = []", "no rule"),
        ("rule = 3", "no rule"),
        ("rule = [3]", "must be a table"),
        ("policy = 3\n[[rule]]\nmeasure = 'rsa'\nmin = 0.5", "must be a table"),
        ("[policy]\nmin_example = 5\n[[rule]]\nmeasure = 'rsa'\nmin = 0.5", "unknown keys 'min_example'"),
        ("[policy]\nmin_examples = 0\n[[rule]]\nmeasure = 'rsa'\nmin = 0.5", "whole number >= 1"),
        ("[policy]\nmin_examples = true\n[[rule]]\nmeasure = 'rsa'\nmin = 0.5", "whole number >= 1"),
        ("[other]\n[[rule]]\nmeasure = 'rsa'\nmin = 0.5", "unknown keys 'other'"),
        ("[[rule]]\nmeasure = 'rsa'\nmni = 0.5", "unknown keys 'mni'"),
        ("[[rule]]\nmin = 0.5", "measure must be one of"),
        ("[[rule]]\nmeasure = 'linear_kca'\nmin = 0.5", "measure must be one of"),
        ("[[rule]]\nmeasure = ['rsa']\nmin = 0.5", "measure must be one of"),
        ("[[rule]]\nmeasure = 'rsa'", "could never fail"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = nan", "finite number"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = -inf", "finite number"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = '0.5'", "finite number"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = true", "finite number"),
        (f"[[rule]]\nmeasure = 'rsa'\nmin = {'9' * 400}", "finite number"),
        ("[[rule]]\nmeasure = 'linear_cka'\nmin = 90", "outside 0 to 1"),
        ("[[rule]]\nmeasure = 'linear_cka'\nmin = 0", "can never fail"),
        ("[[rule]]\nmeasure = 'linear_cka'\nmax = 1.0", "can never fail"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.6\nmax = 0.5", "nothing could pass"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.5\nlayers = ''", "glob on layer names"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.5\nlayers = 3", "glob on layer names"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.5\naggregate = 'max'", "aggregate must be one of"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.5\npairs = 'same'", "pairs must be"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.5\npairs = {a = 'x'}", "pairs must be"),
        ("[[rule]]\nmeasure = 'rsa'\nmin = 0.5\nlayers = '*'\npairs = {a = 'x', b = 'y'}", "not both"),
        ("x = " + "[" * 2000, "not valid TOML"),
        (f"x = {'1' * 5000}", "not valid TOML"),
        ("#" * (1 << 20) + "\n", "at most"),
    ],
)
def test_a_policy_that_shows_nothing_is_an_error(tmp_path: Path, text: str, reason: str):
    with pytest.raises(PolicyError, match=reason):
        load_policy(written(tmp_path, text))


def test_a_missing_policy_is_an_error(tmp_path: Path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "none.toml")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path)


def test_bytes_that_are_not_text_are_an_error(tmp_path: Path):
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match="not valid TOML"):
        load_policy(path)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("measure = 'rsa'\nmin = 0.5", "which was not computed"),
        ("measure = 'linear_cka'\nlayers = 'blokc_*'\nmin = 0.5", "matches no layer"),
        ("measure = 'linear_cka'\nmin = 0.5\npairs = {a = 'block_9', b = 'head'}", "has no layer 'block_9'"),
        ("measure = 'linear_cka'\nmin = 0.5\npairs = {a = 'head', b = 'block_9'}", "has no layer 'block_9'"),
    ],
)
def test_a_rule_about_what_was_not_measured_is_an_error(tmp_path: Path, rule: str, reason: str):
    with pytest.raises(PolicyError, match=reason):
        check(COMPARISON, load_policy(written(tmp_path, f"[[rule]]\n{rule}")))


LEARNED = replace(COMPARISON, measures=("contrasim",))


def test_a_learned_measure_is_judged_like_any_other(tmp_path: Path):
    policy = load_policy(written(tmp_path, '[[rule]]\nmeasure = "contrasim"\nmin = 0.9'))
    assert [one.layer_a for one in check(LEARNED, policy).findings] == ["block_1"]
    best = load_policy(written(tmp_path, '[[rule]]\nmeasure = "contrasim"\nmin = 0.8\npairs = "best"'))
    assert check(LEARNED, best).passed
    with pytest.raises(PolicyError, match="outside -1 to 1, the range of contrasim"):
        load_policy(written(tmp_path, '[[rule]]\nmeasure = "contrasim"\nmin = -2'))


def test_nothing_rests_on_a_learned_measure_that_was_not_computed_or_is_in_doubt(tmp_path: Path):
    policy = load_policy(written(tmp_path, '[[rule]]\nmeasure = "contrasim"\nmin = 0.1'))
    with pytest.raises(PolicyError, match="asks for contrasim, which was not computed"):
        check(COMPARISON, policy)
    doubtful = replace(LEARNED, settings={"doubts": {"contrasim": "it was fitted without a diagnosis"}})
    with pytest.raises(PolicyError, match="nothing can rest on it: it was fitted without a diagnosis"):
        check(doubtful, policy)


def test_every_learned_measure_of_the_gate_is_registered():
    assert [similarity.measure(name).learned for name in LEARNED_NAMES] == [True] * len(LEARNED_NAMES)


def test_a_layer_whose_name_looks_like_a_glob_is_judged(tmp_path: Path):
    names = ("block[0]", "block_1", "head")
    comparison = replace(COMPARISON, layers_a=names, layers_b=names)
    rule = '[[rule]]\nmeasure = "linear_cka"\nlayers = "block[0]"\nmin = 0.9'
    result = check(comparison, load_policy(written(tmp_path, rule)))
    assert [one.layer_a for one in result.checks] == ["", "block[0]"]


def test_a_layer_that_the_update_lost_is_an_error(tmp_path: Path):
    lost = replace(COMPARISON, layers_b=("block_0", "block_1", "top"))
    with pytest.raises(PolicyError, match="has no 'head'"):
        check(lost, load_policy(written(tmp_path, '[[rule]]\nmeasure = "linear_cka"\nmin = 0.1')))


@given(st.binary(max_size=200) | st.text(alphabet='[]{}=."#\nabmineasurl_ck0123456789-', max_size=200).map(str.encode))
def test_no_stray_bytes_are_a_policy(tmp_path_factory: pytest.TempPathFactory, raw: bytes):
    path = tmp_path_factory.getbasetemp() / "stray.toml"
    path.write_bytes(raw)
    with pytest.raises(RepsimError):
        load_policy(path)
