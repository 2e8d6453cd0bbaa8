# how to use it: docs/packaging.md
# With --build-arg TORCH=cpu (the default) torch comes without CUDA; --build-arg TORCH=cu130 takes that build.
FROM python:3.11-slim

ARG TORCH=cpu
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
# torch first and alone: a change of the code does not install it again
RUN version="$(sed -n 's/^torch==//p' constraints.txt)" \
    && pip install --no-cache-dir "torch==$version" --index-url "https://download.pytorch.org/whl/$TORCH"
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[search,tune,export,video]"
# ends the build if the command does not work, and keeps what numba compiles
RUN OMP_NUM_THREADS=1 firstlight-train env=minigrid/doorkey_8x8 'intrinsic=[count]' total_steps=20_000 run_dir=/tmp/first \
    && rm -r /tmp/first

WORKDIR /work
ENV OMP_NUM_THREADS=1
CMD ["firstlight-train", "--help"]
