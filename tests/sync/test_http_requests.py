"""Requests of real frameworks name their page's socket by a header: good for omitting and nothing else."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from django.conf import settings
from django.test import RequestFactory
from starlette.requests import Request as StarletteRequest

from roomcast import Bus
from roomcast.arguments import omitted_id
from roomcast.membership import parse_socket

ID = "k3f9x2a7.8Hd72kQpX0aLmT5v"


def starlette_request(headers: dict[str, str]) -> StarletteRequest:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return StarletteRequest({"type": "http", "method": "PUT", "path": "/", "headers": raw})


def django_request(headers: dict[str, str]) -> Any:
    if not settings.configured:
        settings.configure()
    return RequestFactory().put("/", headers=headers)


@pytest.mark.parametrize("make", [starlette_request, django_request])
async def test_a_request_names_the_socket_to_omit(make, nats, prefix):
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await check(bus, make({"X-Socket-Id": ID}), make({"x-socket-id": ID}), make({}), make({"X-Socket-Id": "room"}))


async def test_flasks_request_of_the_context(nats, prefix):
    app = flask.Flask(__name__)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        with app.test_request_context("/", headers={"x-socket-id": ID}):
            named = flask.request._get_current_object()  # type: ignore[attr-defined]
            with app.test_request_context("/"):
                await check(bus, named, named, flask.request, flask.request)
            await check(bus, flask.request, flask.request, None, None)


async def check(bus: Bus, named: Any, in_lower_case: Any, unnamed: Any, forged: Any) -> None:
    assert omitted_id(named) == omitted_id(in_lower_case) == ID
    assert omitted_id(unnamed) is None
    assert omitted_id(forged) is None
    assert parse_socket(named) is bus.parse_socket(named) is bus.get_id(named) is None
    for call in (bus.join, bus.leave):
        with pytest.raises(TypeError, match="forged"):
            await call(named, "room")
    with pytest.raises(TypeError, match="forged"):
        await bus.disconnect(named)
