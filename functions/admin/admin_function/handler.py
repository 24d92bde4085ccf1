"""Entry point of the admin function."""

from admin_function import metrics_routes
from admin_function.routes import router
from vecmeter.http.lambda_adapter import create_handler

handler = create_handler(router, metrics_routes.exposition)
