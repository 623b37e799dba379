"""Exact relevance (AttnLRP) of MLP neurons and weight rows, and its statistics over a corpus."""

from crane_lib.relevance.corpus import fingerprint_weights, stream_statistics
from crane_lib.relevance.document import DocumentRelevance, document_relevance
from crane_lib.relevance.families import FAMILIES, Family, Norm, register_family
from crane_lib.relevance.modules import ModelParts, family_of, parts_of
from crane_lib.relevance.moments import Moments
from crane_lib.relevance.objectives import OBJECTIVES
from crane_lib.relevance.rules import RULES, relevance_rules
from crane_lib.relevance.statistics import SCHEMA, Statistics
from crane_lib.relevance.taps import SITES

__all__ = [
    "FAMILIES",
    "OBJECTIVES",
    "RULES",
    "SCHEMA",
    "SITES",
    "DocumentRelevance",
    "Family",
    "ModelParts",
    "Moments",
    "Norm",
    "Statistics",
    "document_relevance",
    "family_of",
    "fingerprint_weights",
    "parts_of",
    "register_family",
    "relevance_rules",
    "stream_statistics",
]
