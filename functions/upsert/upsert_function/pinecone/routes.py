"""What Pinecone's clients call of the upsert function: indexes, records, namespaces, imports."""

from upsert_function.pinecone import absent_routes, import_routes, index_routes, namespace_routes, record_routes
from vecmeter.http.route import UnversionedRouter

router = UnversionedRouter(tags=["pinecone"], include_in_schema=False)
router.include_router(absent_routes.router)
router.include_router(index_routes.router)
router.include_router(record_routes.router)
router.include_router(namespace_routes.router)
router.include_router(import_routes.router)
