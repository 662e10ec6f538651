FROM python:3.12-slim

# For the image: `gpu` brings NVIDIA's libraries, `cpu` is some gigabytes smaller.
ARG DEVICE=gpu

# An unprivileged user owns what the container writes.
RUN useradd --create-home --uid 1000 anomaly && mkdir /data /logs && chown anomaly:anomaly /data /logs

WORKDIR /opt/anomaly-toolbox
# The dependencies are installed with an empty package: a change of the code below leaves their layer as it is.
COPY setup.cfg pyproject.toml README.md LICENSE ./
# hadolint ignore=DL3013  # the versions stand in setup.cfg
RUN case "$DEVICE" in \
        gpu) extra="[gpu]" ;; \
        cpu) extra="" ;; \
        *) echo "DEVICE: expected gpu or cpu, received $DEVICE" >&2; exit 1 ;; \
    esac \
    && mkdir anomaly_toolbox \
    && echo '__version__ = "0"' > anomaly_toolbox/__init__.py \
    && pip install --no-cache-dir ".$extra" \
    && rm -r anomaly_toolbox build ./*.egg-info
COPY anomaly_toolbox anomaly_toolbox
RUN pip install --no-cache-dir --no-deps --force-reinstall .
COPY hps /hps

USER 1000
WORKDIR /
# NVIDIA's runtime shows all GPUs to the container. Downloads go to the volume. Caches go where any user may write.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TFDS_DATA_DIR=/data \
    CUDA_CACHE_PATH=/tmp/cuda \
    KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib \
    ANOMALY_BOX_LOG_DIR=/logs
VOLUME ["/data", "/logs"]
ENTRYPOINT ["anomaly-box"]
CMD ["--help"]
