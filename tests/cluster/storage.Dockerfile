# Stands in for KServe's storage initializer where no registry is reached: the same package, called the same way.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ARG KSERVE_STORAGE=0.21.0
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /opt/venv && \
    /opt/venv/bin/pip install --quiet kserve-storage==${KSERVE_STORAGE}
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
USER 1000
ENTRYPOINT ["python", "-c", "import sys; from kserve_storage import Storage; Storage.download_files(sys.argv[1::2], sys.argv[2::2])"]
