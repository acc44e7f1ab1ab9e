# One image per target: transformer, predictor (torch, for GPUs) and predictor-cpu (OpenVINO, no torch).
#   docker build --target transformer --tag doggos-transformer:0.1.0 .
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# pip lives in an environment of its own and installs into another one, which is all that is taken along.
FROM ${PYTHON_IMAGE} AS tools
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/venv
COPY --chmod=755 images/install.sh /opt/tools/install
WORKDIR /build

FROM tools AS transformer-packages
COPY requirements/transformer.txt .
RUN --mount=type=cache,target=/root/.cache/pip /opt/tools/install transformer.txt

FROM tools AS predictor-packages
COPY requirements/predictor.txt .
RUN --mount=type=cache,target=/root/.cache/pip /opt/tools/install predictor.txt

FROM tools AS predictor-cpu-packages
COPY requirements/predictor-cpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip /opt/tools/install predictor-cpu.txt

# Our own files, compiled: a container's root is read-only, and its start would compile them each time.
FROM tools AS transformer-code
COPY contract.py embeddings.py embedding_parts.py ./
COPY serving serving
COPY transformer transformer
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM tools AS predictor-code
COPY contract.py embeddings.py embedding_parts.py ./
COPY serving serving
COPY predictor predictor
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    DO_NOT_TRACK=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true
# REST, gRPC, metrics
EXPOSE 8080 8081 8082
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="Doggos on KServe"

FROM base AS transformer
# glibc would raise its limit for memory that goes back to the system at once to the size of the largest block that was
# freed, up to 32 MB, and then keep what a wave of large pictures took, 1 to 2 GB. A small JPEG decodes in the same time with these
# values, one of 1080p in 16 instead of 12 ms. The predictor's images do without: an engine's tensors would be fetched anew all the time.
# Arrow's own allocator keeps a part of what loading an index took: 347 MB instead of 280 for one of 168 MB.
ENV MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=1048576 \
    MALLOC_TRIM_THRESHOLD_=16777216 \
    ARROW_DEFAULT_MEMORY_POOL=system
COPY --from=transformer-packages /opt/venv /opt/venv
COPY --from=transformer-code /build /app
WORKDIR /app
USER 1000:1000
RUN --mount=type=bind,source=images/smoke.py,target=/smoke.py ["python", "/smoke.py", "transformer"]
ENTRYPOINT ["python", "-m", "transformer"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="doggos-transformer" \
      org.opencontainers.image.description="Downloads pictures, asks the predictor, and finds similar pictures" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM base AS predictor
COPY --from=predictor-packages /opt/venv /opt/venv
COPY --from=predictor-code /build /app
WORKDIR /app
USER 1000:1000
# MLflow imports matplotlib, which wants to write.
ENV MPLCONFIGDIR=/tmp/matplotlib
RUN --mount=type=bind,source=images/smoke.py,target=/smoke.py ["python", "/smoke.py", "predictor"]
ENTRYPOINT ["python", "-m", "predictor"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="doggos-predictor" \
      org.opencontainers.image.description="Classifies and embeds pictures with CLIP and a head, on a GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM base AS predictor-cpu
COPY --from=predictor-cpu-packages /opt/venv /opt/venv
COPY --from=predictor-code /build /app
WORKDIR /app
USER 1000:1000
RUN --mount=type=bind,source=images/smoke.py,target=/smoke.py ["python", "/smoke.py", "predictor-cpu"]
ENTRYPOINT ["python", "-m", "predictor"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="doggos-predictor-cpu" \
      org.opencontainers.image.description="Classifies and embeds pictures with an exported CLIP and head, on CPUs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
