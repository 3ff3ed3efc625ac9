# Likeness in one image: the server and the operator's tool, which carry their
# models, and ONNX Runtime, nothing else, not run as root. Build for both architectures with
#   docker buildx build --platform linux/amd64,linux/arm64 .
FROM golang:1.26-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev pkg-config libjpeg62-turbo-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN go build -tags turbojpeg -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/server ./cmd/likeness
# The pinned library, its SHA-256 checked by the code that the server trusts too.
RUN LIKENESS_CACHE_DIR=/out/cache /out/likeness runtime pull \
 && cp "$(LIKENESS_CACHE_DIR=/out/cache /out/likeness runtime path)" /out/libonnxruntime.so \
 && cp -L /usr/lib/*-linux-gnu/libjpeg.so.62 /out/ \
 && mkdir -p /out/data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/server /out/likeness /usr/local/bin/
COPY --from=build /out/libonnxruntime.so /out/libjpeg.so.62 /usr/lib/
COPY --from=build --chown=nonroot:nonroot /out/data /data
ENV LIKENESS_LISTEN=0.0.0.0:8080 \
    LIKENESS_DATA_DIR=/data \
    LIKENESS_ORT_LIBRARY=/usr/lib/libonnxruntime.so
VOLUME /data
EXPOSE 8080
USER nonroot
ENTRYPOINT ["/usr/local/bin/server"]
