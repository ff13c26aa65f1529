# The server; with the command `demo --server HOST:PORT` its client as well.
#
#   docker build --tag polyhead .
#   docker build --tag polyhead:gpu --build-arg CONSTRAINTS=image-gpu.txt .
#   docker run --rm --read-only --publish 127.0.0.1:50051:50051 polyhead

FROM python:3.13-slim-bookworm AS wheel
WORKDIR /src
COPY constraints/codegen.txt constraints/
RUN python -m pip install --no-cache-dir --require-hashes --requirement constraints/codegen.txt
COPY pyproject.toml LICENSE *.md ./
COPY benchmarks/RESULTS.md benchmarks/
COPY benchmarks/plots benchmarks/plots
COPY deploy deploy
COPY docs docs
COPY protos protos
COPY client client
COPY models models
COPY server server
COPY explorer explorer
RUN python -m build --wheel --no-isolation

FROM python:3.13-slim-bookworm AS environment
ARG CONSTRAINTS=image.txt
COPY constraints/${CONSTRAINTS} /constraints.txt
RUN python -m venv --without-pip /opt/polyhead \
 && python -m pip --python /opt/polyhead install --no-cache-dir --require-hashes --requirement /constraints.txt
COPY --from=wheel /src/dist/*.whl /
RUN python -m pip --python /opt/polyhead install --no-cache-dir --no-deps /*.whl

FROM python:3.13-slim-bookworm
# The health check starts a Python every time: on a read-only root it would compile the standard
# library every time.
RUN python -m compileall -q -j 0 /usr/local/lib/python3.13
COPY --from=environment /opt/polyhead /opt/polyhead
# Huge pages spare large messages most of their page faults: all weights of six layers at 512 tokens,
# 75 MB, take three quarters of the CPU time (`python -m benchmarks.models` sets it as well).
ENV PATH=/opt/polyhead/bin:$PATH \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    POLYHEAD_HOST=0.0.0.0
USER 65532:65532
EXPOSE 50051
STOPSIGNAL SIGTERM
# It asks the server that POLYHEAD_HOST, POLYHEAD_PORT and POLYHEAD_TLS_CERT configure, and needs no
# token. With POLYHEAD_TLS_CLIENT_CA, set POLYHEAD_CLIENT_TLS_CERT and POLYHEAD_CLIENT_TLS_KEY for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s \
    CMD ["polyhead", "health"]
ENTRYPOINT ["polyhead"]
CMD ["serve"]
