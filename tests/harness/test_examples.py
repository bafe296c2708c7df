"""The examples of events are good documents, and agree with the published schema."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from concert_service.events.expansion import seats_of
from concert_service.events.reading import ValidDocument, read

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


@pytest.mark.parametrize(("name", "seats"), [("club", 200), ("theatre", 362), ("arena", 20_000)])
def test_an_example(name: str, seats: int) -> None:
    text = (EXAMPLES / f"{name}.json").read_bytes()
    found = read(text)
    assert isinstance(found, ValidDocument), found[:3]
    assert len(seats_of(found.event)) == seats
    schema = json.loads((EXAMPLES.parents[1] / "docs" / "event.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(text), schema)
    assert len(text) < 100_000
