# The pipeline with all that it needs, for `docker run`, Kubernetes (docs/cluster.md) and Apptainer (docs/containers.md):
#   docker build -t twist .
#   docker run --rm --shm-size=8g -v "$PWD/runs:/work/runs" -v "$PWD/data:/work/data:ro" twist run --config recipes/demo.yaml \
#       --audio data/my-speech --run runs/my-speech
# Its torch is the one that pip chooses, with CUDA on Linux. For another: --build-arg PIP_OPTIONS="--extra-index-url URL".
FROM python:3.11-slim-bookworm

ARG PIP_OPTIONS=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    TWIST_CACHE=/cache

# KubeRay's probes call wget; Ray's scripts call ps. All decoders come in wheels. Debian removes a package's old versions
# from its mirrors, so that pinned ones could not be built for long.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE twist.py ./
COPY pipeline pipeline
COPY model model
COPY jobs jobs
# The options are words of their own.
# hadolint ignore=SC2086
RUN pip install ${PIP_OPTIONS} -c constraints.txt .

# Files that a run writes should not be root's: `docker run --user $(id -u)` makes them yours.
RUN useradd --create-home --uid 1000 twist \
    && mkdir /cache /work \
    && chmod 1777 /cache /work
COPY recipes /work/recipes
USER twist
WORKDIR /work
ENTRYPOINT ["twist"]
CMD ["--help"]
