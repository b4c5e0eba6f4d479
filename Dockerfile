# Two stages: a build, and an image with nothing but the binary, C's library and root certificates.

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build

# Dependencies alone first, so that a changed line of ours does not build them again.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tests/it/main.rs \
    && cargo build --release --locked \
    && rm -r src tests

COPY config/default.toml config/default.toml
COPY src src
# Cargo goes by times, and COPY keeps those of the sources. The books get a directory that belongs
# to the user of the image below: a new volume takes owner and mode from it.
RUN mkdir -p tests/it /data \
    && touch tests/it/main.rs src/main.rs src/lib.rs \
    && cargo build --release --locked --bin xi-relay

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/xi-relay /xi-relay
COPY --from=build --chown=65532:65532 /data /data

# Reachable from outside the container, and so only with clients configured: without any the relay
# refuses to start and says what to do.
ENV XI_RELAY__SERVER__BIND=0.0.0.0:8080 \
    XI_RELAY__USAGE__STORE=sqlite:/data/xi-relay.db
# The one place that is written to.
VOLUME /data
# The operator's side stays on the container's own loopback.
EXPOSE 8080
USER 65532:65532
WORKDIR /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 CMD ["/xi-relay", "health"]
ENTRYPOINT ["/xi-relay"]
