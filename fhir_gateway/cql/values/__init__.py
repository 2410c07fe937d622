"""Vectors: one CQL value for each row of a frame, one module for each family of types."""

from fhir_gateway.cql.values.base import AnyArray, BoolArray, IntArray, NullVec, Vec
from fhir_gateway.cql.values.clinical import CodeVec, ConceptVec, QuantityVec, RatioVec, ValueSetVec
from fhir_gateway.cql.values.element import ElementVec, Source
from fhir_gateway.cql.values.scalars import BoolVec, DecVec, IntVec, LongVec, StrVec
from fhir_gateway.cql.values.structured import ChoiceVec, IntervalVec, ListVec, TupleVec, concat, select
from fhir_gateway.cql.values.temporal import DateTimeVec, DateVec, TemporalVec, TimeVec
from fhir_gateway.cql.values.uncertain import UncertainVec

__all__ = [
    "AnyArray",
    "BoolArray",
    "BoolVec",
    "ChoiceVec",
    "CodeVec",
    "ConceptVec",
    "DateTimeVec",
    "DateVec",
    "DecVec",
    "ElementVec",
    "IntArray",
    "IntVec",
    "IntervalVec",
    "ListVec",
    "LongVec",
    "NullVec",
    "QuantityVec",
    "RatioVec",
    "Source",
    "StrVec",
    "TemporalVec",
    "TimeVec",
    "TupleVec",
    "UncertainVec",
    "ValueSetVec",
    "Vec",
    "concat",
    "select",
]
