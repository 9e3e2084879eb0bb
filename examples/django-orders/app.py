"""A Django site whose view tells the sockets: ``python app.py runserver``."""

import json
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import Http404, HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from roomcast import SyncBus

bus = SyncBus.connect()  # at NATS_URL, when it is first used: in each worker, after its fork

ORDERS = {"42": {"id": "42", "status": "placed"}}


@csrf_exempt
@require_http_methods(["PUT"])
def update_status(request: HttpRequest, order_id: str) -> JsonResponse:
    if order_id not in ORDERS:
        raise Http404("no such order")
    ORDERS[order_id]["status"] = json.loads(request.body)["status"]
    bus.broadcast(f"order-{order_id}", "orderUpdated", ORDERS[order_id], omit=request)
    return JsonResponse(ORDERS[order_id])


urlpatterns = [path("orders/<order_id>/status", update_status)]

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
