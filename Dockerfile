# docker build -t crane .                          CUDA build of torch; run it with: docker run --rm --gpus all crane
# docker build -t crane --build-arg TORCH=cpu .    CPU build, where pip's configuration offers its wheel
# CUDA's libraries come with the locked torch wheels, so a plain Python base serves.
FROM python:3.11.14-slim-bookworm

ARG TORCH=cuda

ENV VIRTUAL_ENV=/opt/crane \
    PATH=/opt/crane/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# From what changes least to what changes most. Where uv does not get through, pip installs the same files.
COPY requirements/installer.lock requirements/torch-cpu.lock requirements/torch-cuda.lock /opt/requirements/
RUN python -m venv /opt/crane \
    && pip install --no-cache-dir --require-hashes --no-deps -r /opt/requirements/installer.lock
RUN if [ "$TORCH" = cpu ]; then \
        pip install --no-cache-dir --require-hashes --no-deps -r /opt/requirements/torch-cpu.lock; \
    else \
        uv pip install --no-cache --require-hashes --no-deps -r /opt/requirements/torch-cuda.lock \
        || pip install --no-cache-dir --require-hashes --no-deps -r /opt/requirements/torch-cuda.lock; \
    fi
COPY requirements/base.lock /opt/requirements/
RUN uv pip install --no-cache --require-hashes --no-deps --no-build-isolation -r /opt/requirements/base.lock \
    || pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation -r /opt/requirements/base.lock

# The home is open to any user, so that `docker run --user "$(id -u):$(id -g)"` works with a mounted artifacts folder.
RUN useradd --create-home --uid 1000 crane && chmod 1777 /home/crane
ENV HOME=/home/crane
WORKDIR /home/crane/study
COPY --chown=1000:1000 . .
RUN mkdir -p artifacts && chmod 1777 . artifacts && chown 1000:1000 . artifacts
USER 1000

CMD ["./run_all.sh"]
