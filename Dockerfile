# The whole study in an image; the commands are in README.md, section Docker.
#
# The base is pinned by exact version and by the digest of its multi-architecture index. The digest is the one that many
# public Dockerfiles record for this tag; no registry of images could be reached to compare it. Any image with Python
# 3.11, venv and certificates can stand in for it: --build-arg BASE=NAME.
#
# A plain Python base, no CUDA base: the locked torch wheels bring CUDA's libraries, with hashes, the same files as
# outside a container. A CUDA base would add a second set that can disagree with them. The host gives the driver only.
ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
FROM ${BASE}

# USER and LOGNAME: libraries ask for the user's name, and the image has none for a user of `docker run --user`.
# CRANE_IMAGE: the manifest's name for the image; that it is set tells a run that it is in a container.
ENV VIRTUAL_ENV=/opt/crane \
    PATH=/opt/crane/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/home/crane \
    USER=crane \
    LOGNAME=crane \
    CRANE_IMAGE=crane \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# From what changes least to what changes most. A pip.conf of the host reaches these steps as a secret, which stays in
# no layer (docker build --secret id=pip.conf,src=pip.conf; docker compose: CRANE_PIP_CONF). Where uv does not get
# through, pip installs the same files. Bytecode is written here, because the user of the image cannot write it later and
# would compile at every start.
COPY requirements/installer.lock requirements/torch-cpu.lock requirements/torch-cuda.lock /opt/requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    standard_library="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && python -m compileall -q -j 0 -x '/(tests?|lib2to3|site-packages)/' "$standard_library" \
    && python -m venv /opt/crane \
    && pip install --no-cache-dir --require-hashes --no-deps -r /opt/requirements/installer.lock

# cuda runs on a CPU, too; cpu is far smaller, where pip's settings offer its wheel.
ARG TORCH=cuda
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    case "$TORCH" in \
        cpu | cuda) ;; \
        *) echo "TORCH is '$TORCH'; set it to cpu or cuda" >&2; exit 2 ;; \
    esac; \
    if [ "$TORCH" = cuda ] && uv pip install --no-cache --compile-bytecode --require-hashes --no-deps \
        -r /opt/requirements/torch-cuda.lock; then exit 0; fi; \
    pip install --no-cache-dir --require-hashes --no-deps -r "/opt/requirements/torch-$TORCH.lock"

COPY requirements/base.lock /opt/requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    uv pip install --no-cache --compile-bytecode --require-hashes --no-deps --no-build-isolation \
        -r /opt/requirements/base.lock \
    || pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation -r /opt/requirements/base.lock

# The command `crane`, which finds the study's packages from any folder.
RUN printf '%s\n' '#!/opt/crane/bin/python' 'from crane_run.cli import main' 'main()' > /opt/crane/bin/crane \
    && chmod 755 /opt/crane/bin/crane \
    && echo /home/crane/study > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/crane.pth"

# Any user may write the home and the study, so that `docker run --user "$(id -u):$(id -g)"` makes files of the host's
# user in a mounted folder. A named volume takes over the mode of the folder that it is mounted on.
RUN useradd --create-home --uid 1000 crane \
    && mkdir -p /home/crane/.cache \
    && chmod -R a+rwX /home/crane
WORKDIR /home/crane/study
COPY --chown=1000:1000 . .
# artifacts/ is usually a volume, which would hide the released checkpoints.
RUN chmod -R a+rwX . && mv artifacts/checkpoints /home/crane/checkpoints
ENV CRANE_CHECKPOINTS=/home/crane/checkpoints

# Last, because it changes with every commit. There is no .git in the image; the manifest takes the commit from here.
ARG BASE
ARG COMMIT=""
ENV CRANE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="crane" \
      org.opencontainers.image.description="CRANE: relevance-based language-specific neurons, the whole study" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.revision="${COMMIT}"

# None: the study is a job that ends, and its exit status tells. The service `lab` of compose.yaml has its own check.
HEALTHCHECK NONE
USER 1000:1000
CMD ["./run_all.sh"]
