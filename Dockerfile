# The programs of DS-v2 in one image. docs/operations.md, "Containers", tells how it is used.
#
# `prebuilt` stands before `build`, so that it can be made without a builder image: the classic builder makes every stage up to the
# one that is asked for.

# Where it is compiled: Rust 1.89 or newer, on the Debian release of RUNTIME (the programs need its C library).
ARG BUILDER=rust:1.89-slim-bookworm
# Where it runs: Debian with bash and coreutils, since people `exec` into it.
ARG RUNTIME=debian:bookworm-slim

FROM ${RUNTIME} AS base
# A number, so that whoever runs the image can see that it is not root's; 5555 as the first port.
ARG UID=5555
# /var/lib/dsv2 is for volumes, which begin with its owner. A server that claims a directory there links it in /run/dsv2, the only
# other place that is written to; so /data is the data of this container's server, on a root file system that is read-only.
RUN groupadd --gid ${UID} dsv2 \
    && useradd --uid ${UID} --gid dsv2 --home-dir /run/dsv2 --no-create-home --shell /bin/bash dsv2 \
    && install -d -o dsv2 -g dsv2 -m 0755 /var/lib/dsv2 /run/dsv2 \
    && ln -s /run/dsv2/data /data
ENV DSV2_SERVER_DATA=/run/dsv2/data \
    DSV2_SERVER_CLAIM=/var/lib/dsv2 \
    DSV2_REFERENCE_DATA=/var/lib/dsv2 \
    DSV2_UP_DATA=/var/lib/dsv2
USER dsv2
WORKDIR /run/dsv2
# Clients at 5555, publications at 5558, and what servers connect to; 5560 is a server's link.
EXPOSE 5555 5556 5557 5558 5559 5560
STOPSIGNAL SIGTERM
# Which part is asked says DSV2_PING_PART; the broker at this place, unless told otherwise.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["dsv2", "ping"]
CMD ["dsv2", "up", "--host", "*"]

# Of programs that are there already, as target/image/dsv2 and so on.
FROM base AS prebuilt
# The second name matches nothing where there are none: this stage must not fail for who compiles.
COPY LICENSE-MIT target/imag[e]/* /usr/local/bin/

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p dsv2-bins \
    && mkdir /image \
    && for program in dsv2 dsv2-broker dsv2-proxy dsv2-server dsv2-reference dsv2-client dsv2-bot; do \
           strip -o "/image/$program" "target/release/$program" || exit 1; \
       done

FROM base AS runtime
COPY --from=build /image/ /usr/local/bin/
