# One image for every process: `payflow api` unless told otherwise (worker, migrate, simulator, …).
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/payflow
WORKDIR /build
# The lock alone first: a change of our own code does not install the libraries anew.
COPY deploy/requirements.lock deploy/
RUN /opt/payflow/bin/pip install --require-hashes --only-binary=:all: -r deploy/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY worker worker
# The build backend came with the lock, so nothing is fetched here.
RUN /opt/payflow/bin/pip install --no-deps --no-build-isolation .

FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 payflow \
    && useradd --uid 10001 --gid payflow --no-create-home --home-dir /app --shell /usr/sbin/nologin payflow
COPY --from=build /opt/payflow /opt/payflow
# `payflow migrate` finds the migrations in the folder it is started from.
WORKDIR /app
COPY alembic.ini deploy/healthcheck.py ./
COPY alembic alembic
ENV PATH=/opt/payflow/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PAYFLOW_HOST=0.0.0.0
USER payflow
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "/app/healthcheck.py"]
CMD ["payflow", "api"]
