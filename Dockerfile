# The images of the three services: targets `gateway`, `prefill` and `decode`. One file, since they
# share all but torch, and images that are built from one file share its layers.
# The stages stand in the order in which a builder needs them that builds all before its target.
ARG PYTHON_IMAGE=python:3.11-slim

# Everything but Tandem itself and torch.
FROM ${PYTHON_IMAGE} AS base
# Further arguments for pip, for an index of one's own. They stay in the image's history: no
# passwords.
ARG PIP_ARGS=""
ENV PATH=/opt/tandem/bin:$PATH \
    HOME=/tmp \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    TANDEM_CACHE=/cache \
    TANDEM_HOST=0.0.0.0
# A volume takes its first owner from the folder that it is mounted on. /tls is empty unless
# certificates are wanted: docker-compose.tls.yml.
RUN groupadd --gid 10001 tandem \
    && useradd --uid 10001 --gid tandem --home-dir /tmp --no-create-home --no-log-init tandem \
    && install --directory --owner=tandem --group=tandem /cache \
        /tls/ca /tls/gateway /tls/prefill /tls/decode \
    && python3 -m venv /opt/tandem
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# With no source beside it, the project is its dependencies: a layer that outlives changes of code.
RUN touch README.md \
    && pip install $PIP_ARGS -c requirements.lock '.[otel]' \
    && pip uninstall --yes tandem-serve
WORKDIR /

# The compiler is for the kernels; it stays in this stage.
FROM base AS wheel
ARG PIP_ARGS=""
RUN command -v g++ || { \
        apt-get update \
        && apt-get install --yes --no-install-recommends g++ \
        && rm -rf /var/lib/apt/lists/*; }
WORKDIR /build
COPY README.md LICENSE setup.py ./
COPY tandem tandem
COPY gateway gateway
COPY prefill_service prefill_service
COPY decode_service decode_service
RUN pip wheel $PIP_ARGS --no-deps --wheel-dir /wheel . \
    && python3 -m zipfile --list /wheel/*.whl | grep --quiet _kernels_plain

FROM base AS gateway
COPY --from=wheel /wheel /wheel
RUN pip install --no-index --no-deps /wheel/*.whl
USER 10001:10001
EXPOSE 8000 50050
HEALTHCHECK --interval=5s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python3", "-m", "tandem.process.healthcheck", "http://127.0.0.1:8000/ready"]
ENTRYPOINT ["python3", "-P", "-m", "gateway"]

FROM base AS torch
ARG PIP_ARGS=""
# Empty: pip's own index, which has CUDA builds.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock /build/
# Its headers and tests are a fifth of it, and nothing is compiled with them.
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install $PIP_ARGS -c /build/requirements.lock torch \
    && cd /opt/tandem/lib/python3*/site-packages/torch \
    && rm -rf include test bin/test_* bin/*Test
# Builds for GPUs bring Triton, which compiles what launches its kernels at a worker's first start,
# with Python's headers, which the base has. What it made is loaded from the cache's volume, where it
# outlives its container: /tmp may forbid that.
ENV TRITON_CACHE_DIR=$TANDEM_CACHE/triton
RUN if pip show --quiet triton && ! command -v gcc; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi

FROM torch AS worker
COPY --from=wheel /wheel /wheel
RUN pip install --no-index --no-deps /wheel/*.whl
USER 10001:10001

FROM worker AS prefill
EXPOSE 50051
HEALTHCHECK --interval=5s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python3", "-m", "tandem.process.healthcheck", "127.0.0.1:50051", "prefill"]
ENTRYPOINT ["python3", "-P", "-m", "prefill_service"]

FROM worker AS decode
EXPOSE 50052
HEALTHCHECK --interval=5s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python3", "-m", "tandem.process.healthcheck", "127.0.0.1:50052", "decode"]
ENTRYPOINT ["python3", "-P", "-m", "decode_service"]
