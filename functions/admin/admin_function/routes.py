"""The routes of the admin function."""

from fastapi import APIRouter

from admin_function import (
    alert_routes,
    audit_routes,
    cost_routes,
    export_routes,
    maintenance_routes,
    metrics_routes,
    price_routes,
    project_routes,
    quota_routes,
    usage_routes,
)

router = APIRouter()
router.include_router(project_routes.router)
router.include_router(audit_routes.router)
router.include_router(usage_routes.admin)
router.include_router(usage_routes.own)
router.include_router(export_routes.router)
router.include_router(cost_routes.admin)
router.include_router(cost_routes.own)
router.include_router(alert_routes.router)
router.include_router(price_routes.router)
router.include_router(quota_routes.router)
router.include_router(maintenance_routes.router)
router.include_router(metrics_routes.router)
