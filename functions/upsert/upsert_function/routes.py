"""The routes of the upsert function."""

from fastapi import APIRouter

from upsert_function import collection_routes, namespace_routes, vector_routes

router = APIRouter()
router.include_router(collection_routes.router)
router.include_router(namespace_routes.router)
router.include_router(vector_routes.router)
