"""What bodies and answers of Pinecone's wire have in common; names are theirs, in camelCase."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from vecmeter.http.fields import Answer, Body, MeteredAnswer, Usage
from vecmeter.ledger.model import Cost

_CAMEL = ConfigDict(alias_generator=to_camel, serialize_by_alias=True, populate_by_name=True)


class PineconeBody(Body):
    """A body in camelCase. Unknown fields are refused: what is asked for is done, or said not to be."""

    model_config = _CAMEL


class PineconeItem(Answer):
    """A part of an answer, in camelCase."""

    model_config = _CAMEL


class PineconeUsage(Usage):
    """``readUnits`` as their clients know it, beside what the request took by our own count."""

    model_config = ConfigDict(serialize_by_alias=True)

    read_units: int | None = Field(default=None, serialization_alias="readUnits")


class PineconeAnswer(MeteredAnswer):
    """An answer in camelCase; ``read_units``: None where theirs has none."""

    model_config = _CAMEL

    read_units: int | None = Field(default=None, exclude=True)
    usage: PineconeUsage = PineconeUsage()

    def bill(self, cost: Cost) -> None:
        super().bill(cost)
        self.usage = PineconeUsage(**dict(self.usage), read_units=self.read_units)
