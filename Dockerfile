# A static binary on an empty image: no shell, no package manager, not root.
#
#   docker build --build-arg VERSION=v1.2.3 -t temporal-seal .
#
# The health check runs the binary itself, since there is nothing else in the image: it asks the admin address. Kubernetes
# ignores it and probes /readyz and /healthz, or gRPC health with an empty service name, from outside.

# The compiler runs on the builder's own platform and cross-compiles, so that images for several platforms need no emulator.
FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26.8-bookworm AS build
WORKDIR /src

# The modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download

COPY *.go policy.rego ./
COPY cmd cmd
COPY internal internal
COPY scripts/licenses.go scripts/licenses.go
RUN mkdir -p /out/licenses && go run ./scripts/licenses.go ./cmd/proxy >/out/licenses/THIRD-PARTY-LICENSES
COPY LICENSE NOTICE /out/licenses/
ARG VERSION=""
ARG GOFIPS140=off
ARG TARGETOS
ARG TARGETARCH
# GOFIPS140=certified builds with the Go Cryptographic Module that has a FIPS 140-3 certificate.
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} GOFIPS140=${GOFIPS140} go build -trimpath -buildvcs=false \
    -ldflags "-s -w ${VERSION:+-X main.version=${VERSION}}" -o /out/temporal-seal ./cmd/proxy

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/licenses /licenses
COPY --from=build /out/temporal-seal /temporal-seal
USER 65532:65532
# 7333: workers and clients. 7334: /healthz, /readyz, /metrics. In a container listen on 0.0.0.0 by a config file: which
# callers and namespaces an open port serves has to be said there.
EXPOSE 7333 7334
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s CMD ["/temporal-seal", "health"]
ENTRYPOINT ["/temporal-seal"]
