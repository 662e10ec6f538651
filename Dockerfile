FROM python:3.12-slim

# An unprivileged user owns what the container writes.
RUN useradd --create-home --uid 1000 anomaly && mkdir /data /logs && chown anomaly:anomaly /data /logs

WORKDIR /opt/anomaly-toolbox
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY anomaly_toolbox anomaly_toolbox
# hadolint ignore=DL3013  # the versions stand in setup.cfg
RUN pip install --no-cache-dir ".[gpu]"
COPY hps /hps

USER 1000
WORKDIR /
ENV ANOMALY_BOX_LOG_DIR=/logs
VOLUME ["/data", "/logs"]
ENTRYPOINT ["anomaly-box"]
CMD ["--help"]
