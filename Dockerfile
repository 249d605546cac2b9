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

# Programs that train need no rights, and write in their home and to buckets only.
RUN useradd --create-home --uid 1000 maerec
USER 1000
WORKDIR /home/maerec
COPY configs configs

ENTRYPOINT ["maerec"]
CMD ["--help"]
