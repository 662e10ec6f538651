FROM python:3.12-slim

# For the image: `gpu` brings NVIDIA's libraries, `cpu` is some gigabytes smaller.
ARG DEVICE=gpu

# An unprivileged user owns what the container writes.
RUN useradd --create-home --uid 1000 anomaly && mkdir /data /logs && chown anomaly:anomaly /data /logs

WORKDIR /opt/anomaly-toolbox
# The dependencies are installed with an empty package, so that their layer stays when only the code changes.
COPY setup.cfg pyproject.toml README.md LICENSE ./
# hadolint ignore=DL3013  # the versions stand in setup.cfg
RUN case "$DEVICE" in \
        gpu) extra="[gpu,serve]" ;; \
        cpu) extra="[serve]" ;; \
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
    XDG_CACHE_HOME=/tmp/cache \
    ANOMALY_BOX_LOG_DIR=/logs
VOLUME ["/data", "/logs"]
EXPOSE 8000
# Of a container that serves; all others count as healthy.
HEALTHCHECK --start-period=60s CMD ["sh", "-c", "! grep -qxz serve /proc/1/cmdline || \
    no_proxy=127.0.0.1 python -c \"import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')\""]
ENTRYPOINT ["anomaly-box"]
CMD ["--help"]
