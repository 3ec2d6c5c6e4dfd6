# hashcli in a container, without the tools that built it.
#   docker build -t hashcli .       (--build-arg TORCH_INDEX=URL: where PyTorch's CPU build is, gigabytes smaller)
#   docker run --rm -v "$PWD:/photos:ro" -v hashcli:/data hashcli adapt --src /photos/studio --tgt /photos/phone
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY hashcli hashcli
COPY plugins plugins
RUN python -m venv /opt/hashcli \
 && /opt/hashcli/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch torchvision \
 && /opt/hashcli/bin/pip install --no-cache-dir -c constraints.txt '.[heic,text,watch]'

FROM python:3.12-slim
COPY --from=build /opt/hashcli /opt/hashcli
ENV PATH=/opt/hashcli/bin:$PATH HASHCLI_LIBRARY=/data/library HASHCLI_CACHE=/data/cache
RUN useradd --create-home --uid 1000 hashcli && mkdir /data && chown hashcli /data
USER hashcli
VOLUME /data
WORKDIR /photos
ENTRYPOINT ["hashcli"]
CMD ["--help"]
