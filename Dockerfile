# The commands of this project in a container: docker build --build-arg DEVICE=tpu -t maerec .
FROM python:3.13-slim

# cpu, cuda or tpu
ARG DEVICE=cpu

WORKDIR /opt/maerec_jax
COPY pyproject.toml README.md LICENSE ./
COPY data_pipelines data_pipelines
COPY maerec_jax maerec_jax
# Which versions fit is in pyproject.toml.
# hadolint ignore=DL3013
RUN case "$DEVICE" in cpu) extras=gcs ;; cuda | tpu) extras="gcs,$DEVICE" ;; *) exit 2 ;; esac \
    && pip install --no-cache-dir ".[$extras]"

# Commands need no rights: they write to this folder, their home, and buckets.
RUN useradd --create-home --uid 1000 maerec && install -d -o maerec /workspace
USER 1000
WORKDIR /workspace
COPY configs configs

ENTRYPOINT ["maerec"]
CMD ["--help"]
