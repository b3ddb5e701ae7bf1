"""The front of the house: terminal tables, CSV, JSON, pictures and one self-contained page about a comparison."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.report.advice import advice_summary, advice_to_json, write_advice
    from repsim_jax.report.audits import Audit, Checkpoints, Ranked, Selection, Truth, Verdict, ranked
    from repsim_jax.report.canonicalization import (
        PoseAudit,
        PosedExample,
        canonicalization_summary,
        canonicalization_to_json,
        posed_examples,
        write_canonicalization,
    )
    from repsim_jax.report.claims import claims_summary, claims_to_json, write_claims
    from repsim_jax.report.courses import courses_summary, write_courses
    from repsim_jax.report.findings import Digest, digest
    from repsim_jax.report.fits import fit_summary, fit_to_json, write_fit
    from repsim_jax.report.influence import influence_summary, influence_to_json, write_influence
    from repsim_jax.report.ntk import ntk_summary, ntk_to_json, write_ntk
    from repsim_jax.report.page import render, write
    from repsim_jax.report.phase import phase_figure, phase_to_json
    from repsim_jax.report.plots import figures
    from repsim_jax.report.tables import to_csv, to_json

# Loaded on first use: an error message needs report.text, and must not wait for matplotlib.
_HOMES = {
    "Audit": "audits",
    "Checkpoints": "audits",
    "Digest": "findings",
    "PoseAudit": "canonicalization",
    "PosedExample": "canonicalization",
    "Ranked": "audits",
    "Selection": "audits",
    "Truth": "audits",
    "Verdict": "audits",
    "advice_summary": "advice",
    "advice_to_json": "advice",
    "canonicalization_summary": "canonicalization",
    "canonicalization_to_json": "canonicalization",
    "claims_summary": "claims",
    "claims_to_json": "claims",
    "courses_summary": "courses",
    "digest": "findings",
    "figures": "plots",
    "fit_summary": "fits",
    "fit_to_json": "fits",
    "influence_summary": "influence",
    "influence_to_json": "influence",
    "ntk_summary": "ntk",
    "ntk_to_json": "ntk",
    "phase_figure": "phase",
    "phase_to_json": "phase",
    "posed_examples": "canonicalization",
    "ranked": "audits",
    "render": "page",
    "to_csv": "tables",
    "to_json": "tables",
    "write": "page",
    "write_advice": "advice",
    "write_canonicalization": "canonicalization",
    "write_claims": "claims",
    "write_courses": "courses",
    "write_fit": "fits",
    "write_influence": "influence",
    "write_ntk": "ntk",
}
__all__ = [
    "Audit",
    "Checkpoints",
    "Digest",
    "PoseAudit",
    "PosedExample",
    "Ranked",
    "Selection",
    "Truth",
    "Verdict",
    "advice_summary",
    "advice_to_json",
    "canonicalization_summary",
    "canonicalization_to_json",
    "claims_summary",
    "claims_to_json",
    "courses_summary",
    "digest",
    "figures",
    "fit_summary",
    "fit_to_json",
    "influence_summary",
    "influence_to_json",
    "ntk_summary",
    "ntk_to_json",
    "phase_figure",
    "phase_to_json",
    "posed_examples",
    "ranked",
    "render",
    "to_csv",
    "to_json",
    "write",
    "write_advice",
    "write_canonicalization",
    "write_claims",
    "write_courses",
    "write_fit",
    "write_influence",
    "write_ntk",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"repsim_jax.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'repsim_jax.report' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
