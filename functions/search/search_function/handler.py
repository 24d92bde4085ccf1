"""Entry point of the search function."""

from search_function.pinecone.routes import router as pinecone
from search_function.routes import router
from vecmeter.http.lambda_adapter import create_handler

handler = create_handler(router, pinecone)
