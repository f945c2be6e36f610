# A static binary on an empty image: no shell, no package manager, not root.
#
#   docker build --build-arg VERSION=v1.2.3 -t temporal-seal .
#
# There is no HEALTHCHECK, since nothing in the image could run one. Probe it from outside: gRPC health (an empty service
# name) on the listener, or GET /readyz and /healthz on the admin address.

FROM docker.io/library/golang:1.26.8-bookworm AS build
WORKDIR /src

# The modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download

COPY *.go policy.rego ./
COPY cmd cmd
COPY internal internal
ARG VERSION=""
ARG GOFIPS140=off
# GOFIPS140=certified builds with the Go Cryptographic Module that has a FIPS 140-3 certificate.
RUN CGO_ENABLED=0 GOFIPS140=${GOFIPS140} go build -trimpath -buildvcs=false \
    -ldflags "-s -w ${VERSION:+-X main.version=${VERSION}}" -o /out/proxy ./cmd/proxy

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/proxy /proxy
USER 65532:65532
# 7333: workers and clients. 7334: /healthz, /readyz, /metrics. In a container listen on 0.0.0.0 by a config file: which
# callers and namespaces an open port serves has to be said there.
EXPOSE 7333 7334
ENTRYPOINT ["/proxy"]
