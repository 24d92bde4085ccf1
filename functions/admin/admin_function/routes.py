"""The routes of the admin function."""

from fastapi import APIRouter

from admin_function import maintenance_routes, project_routes, usage_routes

router = APIRouter()
router.include_router(project_routes.router)
router.include_router(usage_routes.admin)
router.include_router(usage_routes.own)
router.include_router(maintenance_routes.router)
