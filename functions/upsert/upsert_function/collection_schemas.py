"""Bodies of the routes on collections, and their way to the vector store's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from upsert_function.creation import NewCollection, default_storage
from vecmeter.embedding.registry import NONE, EmbedderChoice, choose_embedder
from vecmeter.errors import InvalidRequestError
from vecmeter.http.checks import invalid, raise_if_any
from vecmeter.http.fields import Body, Name, Text, changes, examples
from vecmeter.settings import Settings
from vecmeter.vectors.checks import MAX_TAGS, check_filterable, check_index, check_tags
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import (
    Collection,
    EmbedderDefinition,
    FieldType,
    FilterableField,
    IndexDefinition,
    IndexType,
    Metric,
    Storage,
)
from vecmeter.vectors.texts import LANGUAGES


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"is no text search configuration; there are {', '.join(LANGUAGES)}")
    return language


def _unchangeable(value: Any) -> Any:
    raise ValueError("cannot be changed: make another collection")


Links = Annotated[int, Field(ge=2, le=100, description="Links per node and layer.")]
Candidates = Annotated[int, Field(ge=4, le=1000, description="Candidates while building.")]
EfSearch = Annotated[
    int | None,
    Field(ge=1, le=1000, description="Candidates of a search that names none; null: what its top_k asks for."),
]
TargetRecall = Annotated[
    float, Field(gt=0, le=1, description="A binary index that finds less is replaced by one of half precision.")
]
Language = Annotated[
    str,
    AfterValidator(_known),
    Field(description="Text search configuration of the documents.", json_schema_extra={"enum": list(LANGUAGES)}),
]
Protection = Annotated[bool, Field(description="true: it cannot be deleted.")]
Tags = Annotated[
    dict[str, str],
    Field(
        max_length=MAX_TAGS,
        description="Of its owner's own; names of letters, digits, '_' and '-', values of printable ASCII.",
        examples=[{"team": "search"}],
    ),
]
# Not in the API's document, and refused with a reason.
Unchangeable = Annotated[SkipJsonSchema[None], BeforeValidator(_unchangeable)]


class IndexBody(Body):
    type: Literal["hnsw", "none"] = "hnsw"
    m: Links = 16
    ef_construction: Candidates = 128
    storage: Annotated[
        Literal["float", "half", "binary"] | None,
        Field(description="What the index holds; the table keeps float32. Default: half under cosine, else float."),
    ] = None
    ef_search: EfSearch = None


class FilterableBody(Body):
    """A field of the metadata that gets an index of its own."""

    field: Text
    type: Literal["string", "number", "boolean", "date"]


class EmbedderBody(Body):
    provider: Literal["none", "built-in", "bedrock"]
    model: Text | None = None


class CollectionBody(Body):
    """A collection: a named set of vectors with one dimension and metric."""

    model_config = examples(
        {"name": "notes", "embedder": {"provider": "built-in"}},
        {"name": "images", "dimension": 768, "metric": "l2", "index": {"type": "hnsw", "m": 32}},
        {
            "name": "papers",
            "dimension": 384,
            "text_search": "english",
            "filterable": [{"field": "year", "type": "number"}],
        },
    )

    name: Name
    dimension: Annotated[int | None, Field(ge=1, description="May be left out where the embedder knows it.")] = None
    metric: Literal["cosine", "l2", "inner_product"] = "cosine"
    index: IndexBody | None = None
    embedder: EmbedderBody | None = None
    target_recall: TargetRecall = 0.95
    text_search: Language | None = None
    filterable: list[FilterableBody] = []
    deletion_protection: Protection = False
    tags: Tags = {}

    def _options(self) -> Options:
        raise_if_any(check_tags(self.tags))
        return Options(
            ef_search=self.index.ef_search if self.index else None,
            target_recall=self.target_recall,
            text_search=self.text_search,
            filterable=_filterable(self.filterable),
            deletion_protection=self.deletion_protection,
            tags=self.tags,
        )

    def resolve(self, settings: Settings) -> NewCollection:
        """The collection asked for, defaults filled in. Raises InvalidRequestError."""
        dimension, index, embedder = self._made_for(settings)
        return NewCollection(
            name=self.name,
            dimension=dimension,
            metric=Metric(self.metric),
            index=index,
            embedder=embedder,
            options=self._options(),
        )

    def _made_for(self, settings: Settings) -> tuple[int, IndexDefinition, EmbedderDefinition | None]:
        choice = self._choose_embedder(settings)
        if choice is not None:
            embedder = EmbedderDefinition(provider=choice.provider, model=choice.model)
            return choice.dimension, self._index(choice.dimension), embedder
        if self.dimension is None:
            raise invalid("dimension", "must be given, for no embedder says it")
        if self.dimension > settings.max_dimension:
            raise invalid("dimension", f"is {self.dimension}; at most {settings.max_dimension} is allowed")
        return self.dimension, self._index(self.dimension), None

    def _choose_embedder(self, settings: Settings) -> EmbedderChoice | None:
        """The embedder asked for, or the deployment's default where it can make vectors of the dimension."""
        if self.embedder is not None:
            if self.embedder.provider == NONE:
                return None
            return choose_embedder(self.embedder.provider, self.embedder.model, self.dimension)
        if settings.embedder_provider == NONE:
            return None
        try:
            return choose_embedder(settings.embedder_provider, settings.embedder_model, self.dimension)
        except InvalidRequestError:
            return None  # nobody asked for it: the collection takes vectors only

    def _index(self, dimension: int) -> IndexDefinition:
        wanted = self.index or IndexBody()
        storage = Storage(wanted.storage) if wanted.storage else default_storage(Metric(self.metric))
        # Nobody asked for an index that this dimension cannot have: the collection goes without.
        fits = dimension <= storage.max_indexed_dimension
        index_type = IndexType(wanted.type) if self.index is not None or fits else IndexType.NONE
        index = IndexDefinition(type=index_type, m=wanted.m, ef_construction=wanted.ef_construction, storage=storage)
        if violation := check_index(dimension, index):
            raise_if_any([violation])
        return index


class ChangeIndexBody(Body):
    model_config = changes({"m": 32, "ef_search": 200})

    type: Literal["hnsw", "none"] = "hnsw"
    m: Links = 16
    ef_construction: Candidates = 128
    storage: Literal["float", "half", "binary"] = "half"
    ef_search: EfSearch = None

    def alter(self, before: IndexDefinition) -> IndexDefinition:
        named: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"ef_search"}}
        if "type" in named:
            named["type"] = IndexType(self.type)
        if "storage" in named:
            named["storage"] = Storage(self.storage)
        return replace(before, **named)


class ChangeBody(Body):
    """What is to be changed of a collection; what is not named stays. ``text_search`` null gives up full text.

    ``filterable`` and ``tags`` are replaced as a whole.
    """

    model_config = changes(
        {"index": {"m": 32, "ef_search": 200}},
        {"text_search": "english", "filterable": []},
        {"target_recall": 0.9, "deletion_protection": True, "tags": {"team": "search"}},
    )

    index: ChangeIndexBody | None = None
    target_recall: TargetRecall = 0.95
    text_search: Language | None = None
    filterable: list[FilterableBody] = []
    deletion_protection: Protection = False
    tags: Tags = {}
    name: Unchangeable = None
    dimension: Unchangeable = None
    metric: Unchangeable = None
    embedder: Unchangeable = None

    def check(self) -> None:
        """What can be told without the collection. Raises InvalidRequestError naming every path."""
        raise_if_any(check_tags(self.tags))
        _filterable(self.filterable)

    def alter(self, before: Collection) -> Collection:
        """The definition after the change. Raises InvalidRequestError."""
        named: dict[str, Any] = {}
        if self.index is not None:
            named["index"] = self.index.alter(before.index)
            if "ef_search" in self.index.model_fields_set:
                named["ef_search"] = self.index.ef_search
        if "filterable" in self.model_fields_set:
            named["filterable"] = _filterable(self.filterable)
        for name in self.model_fields_set & {"target_recall", "text_search", "deletion_protection", "tags"}:
            named[name] = getattr(self, name)
        return replace(before, **named)


def _filterable(fields: Sequence[FilterableBody]) -> tuple[FilterableField, ...]:
    wanted = tuple(FilterableField(one.field, FieldType(one.type)) for one in fields)
    raise_if_any(check_filterable(wanted))
    return wanted
