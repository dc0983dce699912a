"""What a provenance must be: as our schema of the published messages has it, and as these messages themselves do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement_pb2 import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = Path(__file__).parent / "unit" / "data" / "slsa-provenance-v1.schema.json"


def check(statement: Mapping[str, Any]) -> None:
    """Demand that a statement is as published."""
    check_by_schema(statement)
    check_by_messages(statement)


def check_by_schema(statement: object) -> None:
    """Demand what our schema does: more than the messages, for they cannot say what is required."""
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(statement)


def check_by_messages(statement: Mapping[str, Any]) -> None:
    """Demand that the published messages take every field and every value; our schema was written by hand from them."""
    ParseDict(statement, Statement())
    ParseDict(statement["predicate"], Provenance())  # to a statement it is any object
