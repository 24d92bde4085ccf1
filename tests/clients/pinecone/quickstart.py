# ruff: noqa: T201 (it says what it found, as such programs do)
"""A program written for Pinecone. It has the key and the host from its environment, as the SDK reads them there:
``PINECONE_API_KEY`` and ``PINECONE_CONTROLLER_HOST``. It runs against Vecmeter by these two and nothing else.
"""

import time

from pinecone import Pinecone, ServerlessSpec

NAME = "quickstart"
BOOKS = [
    {"id": "emma", "values": [0.9, 0.1, 0.0, 0.1], "metadata": {"genre": "romance", "year": 1815}},
    {"id": "dracula", "values": [0.0, 0.9, 0.2, 0.1], "metadata": {"genre": "horror", "year": 1897}},
    {"id": "carmilla", "values": [0.2, 0.9, 0.1, 0.1], "metadata": {"genre": "horror", "year": 1872}},
    {"id": "persuasion", "values": [0.8, 0.0, 0.1, 0.2], "metadata": {"genre": "romance", "year": 1817}},
]

pc = Pinecone()

if not pc.has_index(NAME):
    pc.create_index(NAME, dimension=4, metric="cosine", spec=ServerlessSpec(cloud="aws", region="us-east-1"))
while not pc.describe_index(NAME).status["ready"]:
    time.sleep(1)

index = pc.Index(NAME)
index.upsert(vectors=BOOKS, namespace="books")

stats = index.describe_index_stats()
print(stats["total_vector_count"], stats["namespaces"]["books"]["vector_count"])

answer = index.query(vector=[0.1, 0.9, 0.1, 0.1], top_k=2, namespace="books", include_metadata=True)
for match in answer["matches"]:
    print(match["id"], round(match["score"], 2), match["metadata"]["year"])

early = {"genre": {"$eq": "romance"}, "year": {"$lt": 1816}}
print([match.id for match in index.query(id="persuasion", top_k=3, namespace="books", filter=early).matches])

index.update(id="emma", set_metadata={"author": "Austen"}, namespace="books")
print(index.fetch(ids=["emma"], namespace="books").vectors["emma"].metadata["author"])

index.delete(ids=["dracula"], namespace="books")
print([item.id for page in index.list(namespace="books") for item in page])

pc.delete_index(NAME)
print(pc.list_indexes().names().count(NAME))
