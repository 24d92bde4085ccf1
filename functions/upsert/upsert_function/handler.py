"""Entry point of the upsert function."""

from upsert_function.pinecone.routes import router as pinecone
from upsert_function.routes import router
from vecmeter.http.lambda_adapter import create_handler

handler = create_handler(router, pinecone)
