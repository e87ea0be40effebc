# An image with the package and PyTorch. It is not built by CI; its commands are those of README.md and the Makefile, which are.
#
#   docker build -t gloro-fast .                     for CPUs
#   docker build -t gloro-fast-cuda \
#       --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm gloro-fast                       says what works; with --gpus all what works on a GPU
#   docker run --rm -v "$PWD/runs:/work/runs" gloro-fast gloro-fast train --recipe digits --out runs/digits --overwrite
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
RUN pip install -c .ci/constraints.txt --index-url ${TORCH_INDEX} torch==2.13.0
RUN pip install "setuptools>=77" ninja pybind11 && pip install -v --no-build-isolation '.[demo,attack,audit]'
WORKDIR /work
CMD ["gloro-fast", "doctor"]
