# The server; with the command `demo --server HOST:PORT` its client as well.
#
#   docker build --tag polyhead .                        target cpu, the default
#   docker build --tag polyhead:gpu --target gpu .       with ONNX Runtime for NVIDIA GPUs
#   docker build --tag polyhead:remote --target remote . with what fetches models from stores
#   docker run --rm --read-only --publish 127.0.0.1:50051:50051 polyhead

FROM python:3.13-slim-bookworm AS wheel
WORKDIR /src
COPY constraints/codegen.txt constraints/
RUN python -m pip install --no-cache-dir --require-hashes --requirement constraints/codegen.txt
COPY pyproject.toml hatch_build.py LICENSE *.md ./
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

# What an image has beside Python: one folder, made from the constraints of its target.
FROM python:3.13-slim-bookworm AS cpu-environment
COPY constraints/image.txt /constraints.txt
RUN python -m venv --without-pip /opt/polyhead \
 && python -m pip --python /opt/polyhead install --no-cache-dir --require-hashes --requirement /constraints.txt
COPY --from=wheel /src/dist/*.whl /
RUN python -m pip --python /opt/polyhead install --no-cache-dir --no-deps /*.whl

FROM python:3.13-slim-bookworm AS gpu-environment
COPY constraints/image-gpu.txt /constraints.txt
RUN python -m venv --without-pip /opt/polyhead \
 && python -m pip --python /opt/polyhead install --no-cache-dir --require-hashes --requirement /constraints.txt
COPY --from=wheel /src/dist/*.whl /
RUN python -m pip --python /opt/polyhead install --no-cache-dir --no-deps /*.whl

FROM python:3.13-slim-bookworm AS remote-environment
COPY constraints/image-remote.txt /constraints.txt
RUN python -m venv --without-pip /opt/polyhead \
 && python -m pip --python /opt/polyhead install --no-cache-dir --require-hashes --requirement /constraints.txt
COPY --from=wheel /src/dist/*.whl /
RUN python -m pip --python /opt/polyhead install --no-cache-dir --no-deps /*.whl \
 && mkdir /cache

FROM python:3.13-slim-bookworm AS runtime
# The health check starts a Python every time: on a read-only root it would compile the standard
# library every time.
RUN python -m compileall -q -j 0 /usr/local/lib/python3.13
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
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="polyhead" \
      org.opencontainers.image.description="Multi-head attention as a gRPC microservice over ONNX Runtime" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS remote
COPY --from=remote-environment /opt/polyhead /opt/polyhead
# Its user has no home. A new volume at this path has its owner.
COPY --from=remote-environment --chown=65532:65532 /cache /cache
ENV POLYHEAD_MODELS_CACHE=/cache

FROM runtime AS gpu
COPY --from=gpu-environment /opt/polyhead /opt/polyhead

FROM runtime AS cpu
COPY --from=cpu-environment /opt/polyhead /opt/polyhead
