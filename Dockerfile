# One image: `roomcast edge` by default, and with another command a service or a shell's commands.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY bus bus
COPY edge edge
RUN python -m venv /opt/roomcast \
    && python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && /opt/roomcast/bin/pip install --no-cache-dir "$(echo /dist/roomcast-*.whl)[edge]" \
    && cp bus/roomcast/demo/chat.html /opt/roomcast/chat.html

FROM python:3.13-slim
COPY --from=build /opt/roomcast /opt/roomcast
ENV PATH=/opt/roomcast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ROOMCAST_LISTEN=0.0.0.0:8001 \
    ROOMCAST_ADMIN=0.0.0.0:9001
USER 10001:10001
EXPOSE 8001 9001
# For an edge; a service switches it off. Kubernetes asks by itself and ignores it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9001/healthz', timeout=4)"]
ENTRYPOINT ["roomcast"]
CMD ["edge"]
